"""Registered parts: which options do not go together, and which do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.config.refusing import refuse
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.config import Config

CHOOSING = (
    "block_type", "attention_type", "feedforward_type", "backbone", "objective",
)  # fmt: skip
"""Options that put a registered part into the model."""

_INSIDE = {
    "backbone": ("block_type", "attention_type", "feedforward_type", "use_moe"),
    "block_type": ("attention_type", "feedforward_type"),
}
"""Part -> what is inside it, and so its own business."""


def chosen(config: Config) -> list[str]:
    """Options that choose another part than Lumina's own."""
    return [leaf for leaf in CHOOSING if set(_names(config, leaf)) - {"standard"}]


def check_parts(config: Config) -> None:
    """Refuse parts beside what they replace, and options that are none.

    Raises:
        LuminaError: E002 or E005.
    """
    parts = chosen(config)
    for leaf in parts:
        for other in ("use_hrm", "use_mod", "use_mor"):
            if config.get(other):
                refuse(
                    f"{leaf} {' '.join(_names(config, leaf))} and {other} do not go "
                    "together: that model's parts are its own",
                    f"leave out {leaf}, or {other}",
                )
        for inner in _INSIDE.get(leaf, ()):
            if inner in parts or (inner == "use_moe" and config.get(inner)):
                refuse(
                    f"{leaf} and {inner} do not go together: what is inside a "
                    f"{leaf.removesuffix('_type')} is its own business",
                    f"leave out {leaf}, or {inner}",
                )
    given: set[str] = set()
    for text in config.get("part_options"):
        key, equals, _ = text.partition("=")
        if key in given:
            refuse(f"part_options sets {key} twice", "keep one of the two")
        given.add(key)
        if not equals or not all(key.partition(".")):
            raise LuminaError(
                "E005",
                f"part_options cannot be {text!r}",
                "write NAME.OPTION=VALUE, as in gated_linear.chunk=32",
            )


def idle_parts(config: Config) -> dict[str, str]:
    """Options without effect, and why."""
    if chosen(config):
        return {}
    return {"plugins": "no option chooses a part that it registers"}


def _names(config: Config, leaf: str) -> tuple[str, ...]:
    value = config.get(leaf)
    if isinstance(value, str):
        return (value,)
    return tuple(value or ())
