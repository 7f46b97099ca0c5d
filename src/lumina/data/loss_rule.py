"""Which turns of a conversation bear loss, and how much each of their tokens weighs.

What the options say is written into the turns, as `train` and `weight`, before they
become tokens; a chat format reads these and nothing else. What a turn itself says comes
first: `train` decides whether it bears loss, and its `weight` multiplies the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumina.config.loss_entries import loss_roles, role_weights
from lumina.data.records import Message

if TYPE_CHECKING:
    from lumina.config.sections.data import DataSection


@dataclass(frozen=True)
class LossRule:
    """What the options say.

    A turn bears loss if its role does, by `loss_on` or by a weight above 0. Its tokens
    weigh the role's weight times the weight of its depth: turns up to and behind the
    n-th one of the user, up to the next, are n deep, and the last number of
    `turn_weights` holds for all that are deeper.

    Attributes:
        loss_on: "all" (everything that stands in the conversation, marks included),
            "last" (the assistant's last turn) or roles joined by commas.
        roles: (role, weight); a role that is not there weighs 1.
        depths: weights by depth; none: 1.
    """

    loss_on: str = "assistant"
    roles: tuple[tuple[str, float], ...] = ()
    depths: tuple[float, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether marks between the turns bear loss, too."""
        return self.loss_on == "all"

    @property
    def base(self) -> str:
        """What a chat format has to know besides what the turns say."""
        return "all" if self.everything else "assistant"

    @property
    def partial(self) -> bool:
        """Whether some tokens of a conversation may bear no loss."""
        zero = any(not weight for _, weight in self.roles) or 0 in self.depths
        return zero or not self.everything

    @property
    def weighted(self) -> bool:
        """Whether some tokens may weigh something else than 1."""
        numbers = [*(weight for _, weight in self.roles), *self.depths]
        return any(number not in (0, 1) for number in numbers)

    @property
    def key(self) -> list[Any]:
        """What it decides, for the name of a store, beside `loss_on`."""
        return [self.roles, self.depths] if self.roles or self.depths else []

    def applied(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The turns, each with what the options say of its loss."""
        plain = self.loss_on in ("assistant", "all")
        if plain and not self.roles and not self.depths:
            return messages
        weights = dict(self.roles)
        taught = {role for role in loss_roles(self.loss_on) if weights.get(role, 1.0)}
        taught |= {role for role, weight in self.roles if weight}
        last = max(
            (n for n, m in enumerate(messages) if m["role"] == "assistant"), default=-1
        )
        depth, made = 0, []
        for number, message in enumerate(messages):
            depth += message["role"] == "user"
            bears = message["role"] in taught
            if self.loss_on == "last":
                bears = bears and number == last
            bears = message.get("train", bears)
            weight = message.get("weight", 1.0)
            # A turn that is to be trained is, whatever the weight of its role.
            weight *= weights.get(message["role"], 1.0) or 1.0
            weight *= self._of_depth(depth)
            turn: Message = {**message, "train": bears and weight > 0}
            if turn["train"] and weight != 1:
                turn["weight"] = weight
            else:
                turn.pop("weight", None)
            made.append(turn)
        return made

    def _of_depth(self, depth: int) -> float:
        if not self.depths:
            return 1.0
        return self.depths[min(max(depth, 1), len(self.depths)) - 1]


def loss_rule(data: DataSection) -> LossRule:
    """The rule that the settings ask for."""
    roles = tuple(sorted(role_weights(data.role_weights).items()))
    return LossRule(data.loss_on, roles, data.turn_weights)


def loss_of(message: Message, loss_on: str) -> float:
    """What a token of a turn weighs in the loss.

    Args:
        message: the turn.
        loss_on: "assistant" or "all"; `train` and `weight` of the turn come first.

    Returns:
        False: it bears none; True: it weighs 1; or its weight.
    """
    taught = message.get("train", loss_on == "all" or message["role"] == "assistant")
    return message.get("weight", True) if taught else False


def mask_and_weights(
    loss: Sequence[float],
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """Which tokens bear loss, and how much each weighs where not all weigh 1."""
    found = np.array(loss)
    if found.dtype == bool:
        return found, None
    weights = found.astype(np.float32)
    mask = weights != 0
    return mask, weights if (weights[mask] != 1).any() else None
