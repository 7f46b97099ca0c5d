"""Which lengths of a row fit, with which batch, and how fast each is: by real steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.plan.environment import probe
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.quantities import byte_size
from lumina.train.batch_search import (
    TOO_LARGE,
    Measured,
    fitting_sizes,
    largest,
    measure,
)


@dataclass(frozen=True)
class Fit:
    """A length of a row and the largest batch that fits with it.

    Attributes:
        seq_length: tokens of a row.
        found: what was measured; None where not even one row fits.
        why: why it does not, where it does not.
    """

    seq_length: int
    found: Measured | None
    why: str = ""


def optimized(
    config: Config, lengths: Sequence[int], share: float, tell: Callable[[str], None]
) -> list[Fit]:
    """Search the batch for each length; steps run in processes of their own.

    Args:
        config: the settings; no data is read.
        lengths: of a row, to try.
        share: of the memory that steps may fill.
        tell: shows a line of progress.

    Raises:
        LuminaError: as a plan of the settings.
    """
    load_plugins(config.parts.plugins)
    machine = probe(config)
    decided = Source("decided", "of the search")
    config = config.override({"steps": 1000, "epochs": None}, decided)
    room, fits = share * machine.memory_bytes, list[Fit]()

    def planned(one: Config) -> Plan:
        return make_plan(one, machine, tokenizer_vocab_size=None, rows_per_epoch=None)

    for length in lengths:
        here = config.override({"seq_length": length}, decided)
        try:
            first = planned(here)
            sizes = fitting_sizes(here, first, planned)
        except LuminaError as error:
            if error.code not in TOO_LARGE:
                raise
            fits.append(Fit(length, None, error.message))
            continue

        def look(size: int, here: Config = here) -> Measured:
            one = here.override({"batch_size": size}, decided)
            found = measure(planned(one), config.parts.plugins)
            took = "did not fit" if found.peak is None else byte_size(found.peak)
            tell(f"rows of {here.model.seq_length:,}, {size} a forward: {took}")
            return found

        best = largest(sizes, room, look)
        why = "" if best else f"one row takes more than {byte_size(int(room))}"
        fits.append(Fit(length, best, why))
    return fits
