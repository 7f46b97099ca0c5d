"""Mixture of Depths: its options and its shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, ModSpec
from lumina.plan.kinds.kind import Known, Planned

if TYPE_CHECKING:
    from lumina.config import Config


class Depths(Planned):
    """Layers that take a share of the tokens."""

    field = "mod"
    switch = "use_mod"
    live = (
        "mod_capacity_factor", "mod_capacity_ladder", "mod_capacity_schedule",
        "mod_predictor_weight",
    )  # fmt: skip

    def chosen(self, config: Config) -> bool:
        """Whether `use_mod` is on."""
        return config.mod.use_mod

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with such layers."""
        return replace(spec, mod=_depth(config, spec))

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options of such layers."""
        mod = spec.mod
        if mod is None:
            return {"use_mod": False}
        return {
            "use_mod": True,
            "mod_capacity_factor": mod.capacity,
            "mod_capacity_ladder": mod.ladder,
            "mod_capacity_schedule": mod.schedule,
            "mod_pattern": _pattern(spec, mod.layers),
            "mod_scope": mod.scope,
            "mod_routing_strategy": mod.routing,
            "mod_mode": mod.mode,
            "mod_predictor_weight": mod.predictor_weight,
        }


def depth_layers(
    pattern: str | None, num_layers: int, routed: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Indices of the blocks that only a share of the tokens goes through.

    `alternate`: every second block, starting with block 1, as in the paper. `all`:
    every block. `dense`: the blocks without experts. None: `dense` where there are
    both kinds, else `alternate`.

    Args:
        routed: the blocks with experts.

    Raises:
        LuminaError: E002 if the pattern leaves no such block.
    """
    dense = tuple(i for i in range(num_layers) if i not in routed)
    if pattern is None:
        pattern = "dense" if routed and dense else "alternate"
    chosen = {
        "alternate": tuple(range(1, num_layers, 2)),
        "all": tuple(range(num_layers)),
        "dense": dense,
    }[pattern]
    if not chosen:
        raise LuminaError(
            "E002",
            f"mod_pattern {pattern} leaves none of {num_layers} layers to choose in",
            "use --mod-pattern all",
        )
    return chosen


def _depth(config: Config, dense: ModelSpec) -> ModSpec:
    mod = config.mod
    schedule = mod.mod_capacity_schedule
    capacity = schedule[-1] if schedule else mod.mod_capacity_factor
    return ModSpec(
        layers=depth_layers(mod.mod_pattern, dense.num_layers, _routed(dense)),
        capacity=capacity,
        ladder=tuple(sorted({capacity, *schedule, *mod.mod_capacity_ladder})),
        scope=mod.mod_scope,
        routing=mod.mod_routing_strategy,
        mode="static" if config.routing.static_routing_mode else mod.mod_mode,
        schedule=schedule,
        predictor_weight=mod.mod_predictor_weight,
    )


def _routed(spec: ModelSpec) -> tuple[int, ...]:
    """The layers whose feed-forward has experts."""
    return spec.moe.layers if spec.moe is not None else ()


def _pattern(spec: ModelSpec, layers: tuple[int, ...]) -> str:
    """The pattern that gives such layers."""
    routed = _routed(spec)
    for pattern in ("alternate", "all", "dense"):
        if (
            (pattern != "alternate" or spec.num_layers > 1)
            and (pattern != "dense" or len(routed) < spec.num_layers)
            and depth_layers(pattern, spec.num_layers, routed) == layers
        ):
            return pattern
    raise LuminaError(
        "E002",
        f"no mod_pattern gives the layers {layers} of {spec.num_layers}",
        "patterns are alternate, all and dense",
    )
