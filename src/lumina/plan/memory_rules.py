"""How a batch that was chosen for another device is adapted to the memory of this one.

Only `--adapt-to-memory` applies a rule; without it `lumina doctor --capabilities` shows
the one that this device has. The rows of a step stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

GIB = 2**30


@dataclass(frozen=True)
class MemoryRule:
    """A rule for devices of some size.

    Attributes:
        words: the devices that it is for.
        least: bytes of memory from which on it holds.
        below: bytes of memory below which it holds.
        halvings: how many times the batch is halved; negative: doubled. The forwards
            of a step are doubled or halved as often.
        effect: the rule in words.
    """

    words: str
    least: float
    below: float
    halvings: int
    effect: str


MEMORY_RULES = (
    MemoryRule(
        "below 16 GiB", 0, 16 * GIB, 1, "halves batch_size and doubles grad_accum"
    ),
    MemoryRule("16 GiB to 80 GB", 16 * GIB, 80e9, 0, "nothing"),
    MemoryRule(
        "80 GB and more",
        80e9,
        float("inf"),
        -1,
        "doubles batch_size and halves grad_accum",
    ),
)
"""By size. 80 GB is what the vendors call 80 GB: such cards report 79 GiB and more."""


def rule_of_memory(machine: Environment) -> MemoryRule | None:
    """The rule of a GPU; None for a CPU, whose memory is shared with everything."""
    if machine.device == "cpu":
        return None
    size = machine.memory_bytes
    return next(rule for rule in MEMORY_RULES if rule.least <= size < rule.below)


def adapted(config: Config, machine: Environment) -> Config:
    """The Config with its batch adapted, where `adapt_to_memory` asks for that.

    A batch that nothing names is chosen by memory anyway. Precision needs no rule:
    `precision auto` follows the device (`lumina.plan.device_rules`).

    Args:
        config: what was asked for.
        machine: what there is.
    """
    rule = rule_of_memory(machine)
    batch, accum = config.train.batch_size, config.train.grad_accum
    if not config.system.adapt_to_memory or rule is None or batch is None:
        return config
    changed: dict[str, object] = {}
    if rule.halvings > 0 and batch % 2 == 0:
        changed["batch_size"] = batch // 2
        if accum is not None or config.train.global_batch_size is None:
            changed["grad_accum"] = 2 * (accum or 1)
    elif rule.halvings < 0 and accum is not None and accum % 2 == 0:
        changed = {"batch_size": batch * 2, "grad_accum": accum // 2}
    if not changed:
        return config
    why = (
        f"adapt_to_memory: {machine.device_name} has {byte_size(machine.memory_bytes)}"
        f", and a device with {rule.words} {rule.effect}"
    )
    return config.override(changed, Source("decided", why))
