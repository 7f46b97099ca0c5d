"""How the options that say which turns bear loss are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lumina.errors import LuminaError

ROLES = ("assistant", "user", "system", "tool")
"""The speakers of a conversation."""

WORDS = ("assistant", "all", "last")
"""What `loss_on` can be besides roles that are joined by commas."""


def loss_roles(loss_on: str) -> tuple[str, ...]:
    """The roles that `loss_on` names; those of its words "all" and "last" are theirs.

    Raises:
        LuminaError: E005 for a role that there is not, or one that is named twice.
    """
    if loss_on == "all":
        return ROLES
    if loss_on == "last":
        return ("assistant",)
    roles = tuple(part.strip() for part in loss_on.split(","))
    for role in roles:
        if role not in ROLES or roles.count(role) > 1:
            raise LuminaError(
                "E005",
                f"loss_on is {loss_on!r}",
                f"write all, last, or roles joined by commas, each once: "
                f"{', '.join(ROLES)}",
            )
    return roles


def role_weights(entries: Sequence[str]) -> dict[str, float]:
    """The weight of each role that `role_weights` names.

    Args:
        entries: each ROLE=NUMBER, or several of these joined by commas.

    Raises:
        LuminaError: E005 for an entry that is not so written.
    """
    found: dict[str, float] = {}
    for part in (one.strip() for entry in entries for one in entry.split(",")):
        role, equals, text = part.partition("=")
        weight = _number(text)
        if not equals or role not in ROLES or role in found or weight is None:
            raise LuminaError(
                "E005",
                f"role_weights cannot be {part!r}",
                f"write ROLE=NUMBER, each role once ({', '.join(ROLES)}), with a "
                "number of 0 or more",
            )
        found[role] = weight
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
