"""Tiers of context lengths, and the highest that a machine has memory for.

A tier is a context to read and a target to write in one row. What a row of that length
takes is estimated for the model, the settings and the machine at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import MEMORY_SHARE, smallest_estimate
from lumina.plan.memory import COMPONENTS
from lumina.plan.placing import placed, words_of
from lumina.plan.reach import TRIED, with_few_rows
from lumina.plan.shape import resolve_spec
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config

K = 1024


@dataclass(frozen=True)
class ContextTier:
    """A length of rows.

    Attributes:
        number: from 1 on.
        context: tokens to read.
        target: tokens to write.
    """

    number: int
    context: int
    target: int

    @property
    def tokens(self) -> int:
        """Of a row."""
        return self.context + self.target


CONTEXT_TIERS = (
    ContextTier(1, 4 * K, 512),
    ContextTier(2, 8 * K, 2 * K),
    ContextTier(3, 16 * K, 2 * K),
    ContextTier(4, 32 * K, 4 * K),
    ContextTier(5, 56 * K, 7 * K),
    ContextTier(6, 128 * K, 16 * K),
    ContextTier(7, 256 * K, 32 * K),
    ContextTier(8, 512 * K, 64 * K),
    ContextTier(9, 1024 * K, 128 * K),
    ContextTier(10, 2048 * K, 256 * K),
    ContextTier(11, 4096 * K, 512 * K),
)
"""From the shortest to the longest."""


@dataclass(frozen=True)
class TierMemory:
    """What a step of rows of a tier takes on one device.

    Attributes:
        tier: the tier.
        bytes: by component, with `bound` and `expected`, laid out to take the least.
        room: bytes that a run may take.
        settings: options that move tensors beside the device, where nothing cheaper
            makes room.
        moved: these, their bytes and what they cost, in words.
    """

    tier: ContextTier
    bytes: dict[str, int]
    room: int
    settings: dict[str, str] = field(default_factory=dict)
    moved: str = ""

    @property
    def fits(self) -> bool:
        """Whether a run of this tier is admitted."""
        return self.bytes["bound"] <= self.room

    @property
    def largest(self) -> str:
        """The component that takes the most."""
        return max(COMPONENTS, key=lambda name: self.bytes[name])

    def in_words(self) -> str:
        """Whether it fits, and what takes the most."""
        bound, largest = self.bytes["bound"], self.largest
        most = f"most of it {largest.replace('_', ' ')}"
        most += f" ({byte_size(self.bytes[largest])})"
        takes = f"takes {byte_size(bound)} of {byte_size(self.room)}"
        if self.fits:
            return f"{takes}, {most}" + (f", with {self.moved}" if self.moved else "")
        return f"{takes}: {byte_size(bound - self.room)} too much, {most}"


def tier_memories(
    config: Config, machine: Environment, *, vocab_size: int | None, world_size: int = 1
) -> Iterator[TierMemory]:
    """What each tier takes, from the first one on.

    A forward has one row, and blocks are recomputed, where the settings leave that
    open; a batch that they do not name is one row for each process.

    Args:
        config: the settings.
        machine: what trains.
        vocab_size: tokens of the tokenizer; None: the settings say it.
        world_size: processes that train together.
    """
    config = with_few_rows(config, world_size)
    beyond = False
    for tier in CONTEXT_TIERS:
        trial = config.override({"seq_length": tier.tokens}, TRIED)
        spec = resolve_spec(trial, vocab_size)
        found = TierMemory(
            tier,
            smallest_estimate(trial, machine, spec, world_size),
            int(machine.memory_bytes * MEMORY_SHARE),
        )
        if not found.fits and not beyond:
            found = _with_less_here(found, trial, machine, vocab_size, world_size)
            beyond = not found.fits
        yield found


def _with_less_here(
    tier: TierMemory,
    trial: Config,
    machine: Environment,
    vocab_size: int | None,
    world_size: int,
) -> TierMemory:
    """The tier with states or weights beside the device, where it fits so."""
    found = placed(trial, machine, vocab_size, world_size)
    if found is None:
        return tier
    settings, plan = found
    moved = words_of(settings, plan, machine)
    return replace(tier, bytes=plan.memory, settings=settings, moved=moved)


def check_tier(config: Config) -> None:
    """Refuse another tier than that of the run that goes on.

    Raises:
        LuminaError: E002.
    """
    asked, length = config.system.tier, config.model.seq_length
    if asked in ("none", "auto"):
        return
    tier = CONTEXT_TIERS[int(asked) - 1]
    if tier.tokens != length:
        raise LuminaError(
            "E002",
            f"the rows of this run have {length:,} tokens, those of tier {asked} "
            f"{tier.tokens:,}",
            "leave --tier out, or begin a new run from its weights with --init-from",
        )


def with_tier(
    config: Config,
    machine: Environment,
    *,
    model: ModelSpec | None,
    vocab_size: int | None,
    world_size: int,
) -> Config:
    """The settings with a `seq_length` by the tier that is asked for.

    Args:
        config: the settings, with a `tier`.
        machine: what trains.
        model: the model that is tuned, which reads no longer rows than it knows
            positions for; None for a new one.
        vocab_size: tokens of the tokenizer; None: the settings say it.
        world_size: processes that train together.

    Raises:
        LuminaError: E201 where not even the first tier fits.
    """
    asked = config.system.tier
    if asked != "auto":
        tier = CONTEXT_TIERS[int(asked) - 1]
        why = (
            f"tier {tier.number}: {tier.context:,} to read and {tier.target:,} to write"
        )
        return config.override({"seq_length": tier.tokens}, Source("decided", why))
    chosen: TierMemory | None = None
    end = "it is the last one"
    for found in tier_memories(
        config, machine, vocab_size=vocab_size, world_size=world_size
    ):
        number, tokens = found.tier.number, found.tier.tokens
        if model is not None and tokens > model.context_length:
            end = f"the model reads {model.context_length:,} tokens, tier {number} has "
            end += f"{tokens:,}"
            break
        if not found.fits:
            end = f"tier {number} {found.in_words()}"
            break
        chosen = found
    if chosen is None:
        raise LuminaError(
            "E201",
            f"no tier of contexts can be trained: {end}",
            "name a shorter --seq-length, or take a smaller model; `lumina plan "
            "--tiers` shows what each tier takes",
        )
    tier = chosen.tier
    why = f"tier {tier.number}, the highest possible: {end}"
    config = config.override({"seq_length": tier.tokens}, Source("decided", why))
    why = f"tier {tier.number} has no room without {chosen.moved}"
    return config.override(chosen.settings, Source("decided", why))
