"""What hardware suits which models: tiers of machines, and what trains on each.

The machines are data; what fits on them is planned for each, not written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.presets import Preset
    from lumina.plan.environment import Environment


@dataclass(frozen=True)
class Tier:
    """A class of machines.

    Attributes:
        name: budget, professional, enterprise or research.
        profile: of `lumina.plan.hardware_profiles`, the device.
        devices: of that kind in one machine.
        use: what it is good for.
    """

    name: str
    profile: str
    devices: int
    use: str


TIERS = (
    Tier("budget", "t4", 1, "learning, small models, fine-tuning of small ones"),
    Tier("budget", "rtx-3090", 1, "small models from scratch"),
    Tier("professional", "rtx-4090", 1, "the same in less time"),
    Tier("professional", "l40s", 1, "fine-tuning of models of some billions"),
    Tier("enterprise", "a100-80gb", 1, "models of some billions from scratch"),
    Tier("enterprise", "h200", 1, "the same in less time, long contexts"),
    Tier("research", "h100-80gb", 8, "large models and mixtures of experts"),
    Tier("research", "b200", 8, "the largest that one machine trains"),
)
"""From the smallest to the largest."""


@dataclass(frozen=True)
class TierAdvice:
    """What trains on the machine of a tier.

    Attributes:
        tier: the tier.
        memory_bytes: of one of its devices.
        precision: the value of `--precision` that "auto" stands for there.
        largest: the preset with the most parameters whose whole training fits.
        parameters: its parameters; 0 where none fits.
    """

    tier: Tier
    memory_bytes: int
    precision: str
    largest: str
    parameters: int


def tier_advice(here: Environment) -> Iterator[TierAdvice]:
    """Plan every preset for every tier, from the largest preset down.

    A step has one row on each device there; blocks are recomputed where that is needed.

    Args:
        here: the present machine, whose software is taken to be on all.
    """
    from lumina.config.presets import PRESETS
    from lumina.plan.hardware_profiles import find_profile
    from lumina.plan.precision import automatic_precision

    sizes = sorted(
        ((_parameters(preset), preset) for preset in PRESETS.values()),
        key=lambda found: -found[0],
    )
    for tier in TIERS:
        _, profile = find_profile(tier.profile)
        machine = profile.machine(here, tier.devices)
        fitting = (one for one in sizes if _fits(one[1], machine, tier.devices))
        parameters, preset = next(fitting, (0, None))
        yield TierAdvice(
            tier,
            machine.memory_bytes,
            automatic_precision(machine)[0].name,
            preset.name if preset is not None else "none",
            parameters,
        )


def _parameters(preset: Preset) -> int:
    from lumina.config import Config
    from lumina.plan.count import count_parameters
    from lumina.plan.shape import resolve_spec

    return count_parameters(resolve_spec(Config(preset=preset.name))).total


def _fits(preset: Preset, machine: Environment, devices: int) -> bool:
    """Whether the planner finds room for the whole training of a preset."""
    from lumina.config import Config
    from lumina.plan.make import make_plan

    config = Config(preset=preset.name).replace(
        batch_size=1, global_batch_size=devices, steps=1
    )
    try:
        make_plan(
            config,
            replace(machine, local_processes=devices),
            tokenizer_vocab_size=None,
            rows_per_epoch=None,
            world_size=devices,
        )
    except LuminaError as error:
        if error.code in ("E201", "E202", "E203"):
            return False
        raise
    return True
