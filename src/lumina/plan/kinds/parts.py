"""Registered parts: from options to the shape, and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.config.option_values import value_like
from lumina.errors import LuminaError
from lumina.model.registry import OPTION_OF, STANDARD, Part, chosen_part
from lumina.model.spec import ModelSpec, PartsSpec
from lumina.plan.kinds.kind import Known, Planned
from lumina.similar_names import did_you_mean

if TYPE_CHECKING:
    from lumina.config import Config

LAYERED = ("block", "attention", "feedforward")
"""Kinds of parts that each layer has its own of."""


class Parts(Planned):
    """Registered parts in place of Lumina's own."""

    field = "parts"
    live = ("plugins",)
    shapeless = ("objective", "part_options")

    def chosen(self, config: Config) -> bool:
        """Always: the options say which parts, if any."""
        return True

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with the registered parts that the options choose."""
        return with_parts(config, spec)

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options that choose them."""
        return part_leaves(spec.to_dict()["parts"])


def with_parts(config: Config, spec: ModelSpec) -> ModelSpec:
    """The shape with the registered parts that the options choose.

    Raises:
        LuminaError: E005 for a part or an option that there is not, E002 for layers
            that would have two parts of a kind.
    """
    asked = {kind: config.get(leaf) for kind, leaf in OPTION_OF.items()}
    names: dict[str, Any] = {
        kind: _repeated(kind, asked[kind], spec.num_layers) for kind in LAYERED
    }
    for kind in ("backbone", "objective"):
        names[kind] = "" if asked[kind] in (None, STANDARD) else asked[kind]
    parts = PartsSpec(**names, plugins=config.get("plugins"))
    used = [chosen_part(kind, name) for kind, name in parts.used()]
    options = _options(config.get("part_options"), used)
    if not used:
        return spec
    if spec.moe is not None:
        _check_routed(spec, parts)
    return replace(spec, parts=replace(parts, options=options))


def as_begun(spec: ModelSpec, before: dict[str, Any]) -> ModelSpec:
    """The shape with the parts' options as a run was begun with.

    A default that its plug-in has changed since would make another model of it.

    Args:
        before: the shape in the run's checkpoint.
    """
    held = (before.get("parts") or {}).get("options", {})
    if spec.parts is None:
        return spec
    options = {
        part: now | held.get(part, {}) for part, now in spec.parts.options.items()
    }
    return replace(spec, parts=replace(spec.parts, options=options))


def part_leaves(parts: dict[str, Any] | None) -> dict[str, Any]:
    """Registered parts as options: the inverse."""
    leaves: dict[str, Any] = {OPTION_OF[kind]: () for kind in LAYERED}
    leaves |= {"backbone": None, "objective": None, "part_options": ()}
    if parts is None:
        return leaves
    for kind in LAYERED:
        leaves[OPTION_OF[kind]] = _shortest(parts[kind])
    leaves |= {kind: parts[kind] or None for kind in ("backbone", "objective")}
    leaves["part_options"] = tuple(
        f"{part}.{name}={json.dumps(value)}"
        for part, options in parts["options"].items()
        for name, value in options.items()
    )
    return leaves


def _repeated(kind: str, pattern: tuple[str, ...], layers: int) -> tuple[str, ...]:
    """The pattern over all layers; "" for Lumina's own."""
    if len(pattern) > layers:
        raise LuminaError(
            "E002",
            f"{OPTION_OF[kind]} names {len(pattern)} layers of {layers}",
            "name as many as there are, or fewer: they are repeated",
        )
    names = ["" if name == STANDARD else name for name in pattern]
    return tuple(names[i % len(names)] for i in range(layers)) if any(names) else ()


def _shortest(names: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest pattern that repeats to these names."""
    named = [name or STANDARD for name in names]
    for size in range(1, len(named) + 1):
        if all(name == named[i % size] for i, name in enumerate(named)):
            return tuple(named[:size])
    return ()


def _check_routed(spec: ModelSpec, parts: PartsSpec) -> None:
    """A layer with experts has Lumina's own block and routed feed-forward."""
    assert spec.moe is not None
    for kind in ("block", "feedforward"):
        both = [i for i in spec.moe.layers if parts.at(kind, i)]
        if both:
            raise LuminaError(
                "E002",
                f"layer {both[0]} would have experts and the {kind} "
                f"{parts.at(kind, both[0])!r}",
                f"name standard for it in --{OPTION_OF[kind].replace('_', '-')}, or "
                "choose another --moe-pattern",
            )


def _options(given: tuple[str, ...], used: list[Part]) -> dict[str, dict[str, Any]]:
    """The options of every part: its defaults, and over them what was given."""
    found = {part.name: dict(part.options) for part in used if part.options}
    for text in given:
        key, _, value = text.partition("=")
        name, _, option = key.partition(".")
        if name not in {part.name for part in used}:
            names = ", ".join(part.name for part in used) or "none"
            raise LuminaError(
                "E005",
                f"part_options {text}: {name!r} is no part of this model",
                f"its registered parts: {names}",
            )
        if option not in found.get(name, {}):
            meant = did_you_mean(option, found.get(name, {}))
            listed = ", ".join(found.get(name, {})) or "none"
            raise LuminaError(
                "E005",
                f"part_options {text}: {name} has no option {option!r}",
                f"{meant}it has {listed}",
            )
        found[name][option] = value_like(
            found[name][option], value, f"part_options {text}"
        )
    return found
