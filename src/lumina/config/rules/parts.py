"""Registered parts: which options do not go together, and which do nothing."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError

CHOOSING = (
    "block_type", "attention_type", "feedforward_type", "backbone", "objective",
)  # fmt: skip
"""Options that put a registered part into the model."""

_INSIDE = {
    "backbone": ("block_type", "attention_type", "feedforward_type", "use_moe"),
    "block_type": ("attention_type", "feedforward_type"),
}
"""Part -> what is inside it, and so its own business."""


def chosen(settings: Settings) -> list[str]:
    """Options that choose another part than Lumina's own."""
    return [leaf for leaf in CHOOSING if set(_names(settings, leaf)) - {"standard"}]


def check(settings: Settings) -> None:
    """Refuse parts beside what they replace, and options that are none.

    Raises:
        LuminaError: E002 or E005.
    """
    parts = chosen(settings)
    for leaf in parts:
        for other in ("use_hrm", "use_mod", "use_mor"):
            if settings.get(other):
                refuse(
                    f"{leaf} {' '.join(_names(settings, leaf))} and {other} do not go "
                    "together: that model's parts are its own",
                    f"leave out {leaf}, or {other}",
                )
        for inner in _INSIDE.get(leaf, ()):
            if inner in parts or (inner == "use_moe" and settings.get(inner)):
                refuse(
                    f"{leaf} and {inner} do not go together: what is inside a "
                    f"{leaf.removesuffix('_type')} is its own business",
                    f"leave out {leaf}, or {inner}",
                )
    given: set[str] = set()
    for text in settings.get("part_options"):
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


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    named = ("parallel", "optimizer", "optimizer_groups", "data_kind")
    if chosen(settings) or not all(settings.is_default(leaf) for leaf in named):
        return {}
    return {"plugins": "no option chooses anything that it registers"}


def _names(settings: Settings, leaf: str) -> tuple[str, ...]:
    value = settings.get(leaf)
    if isinstance(value, str):
        return (value,)
    return tuple(value or ())


RULE = Rule(check=check, without_effect=without_effect)
