"""Is one measurement worse than another? Paired values, with an interval.

Values of the same step, or of the same batch size and length, stand beside each other,
so that what both have in common does not count as a difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lumina.errors import LuminaError
from lumina.state.metrics import read_metrics

ENOUGH = 8
"""Pairs below which no interval is given."""

RESAMPLED = 4000
"""Times that the pairs are drawn again for an interval of 95%."""

BLOCK = 5
"""Steps that follow each other are drawn together: what slows one slows the next."""

Verdict = Literal["no worse", "worse", "unclear", "better"]


@dataclass(frozen=True)
class Measure:
    """Something that both measurements have.

    Attributes:
        name: as it is printed.
        first: values of the first measurement.
        second: of the second one, in the same order.
        relative: a change is a share of the first value; else their difference.
        margin: how much worse the second may be.
        higher_is_better: as of tokens a second.
        exact: one value without noise, such as the most memory: no interval.
    """

    name: str
    first: Sequence[float]
    second: Sequence[float]
    relative: bool
    margin: float
    higher_is_better: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Compared:
    """What a measure says.

    Attributes:
        name: the measure.
        pairs: values that were compared.
        first: the median of the first measurement.
        second: of the second one.
        change: how much worse the second is, negative for better: the median over the
            pairs.
        low: the lower end of the interval of 95%.
        high: the upper end.
        margin: what was allowed.
        relative: whether change, interval and margin are shares.
        verdict: worse only where the whole interval is beyond the margin.
    """

    name: str
    pairs: int
    first: float
    second: float
    change: float
    low: float
    high: float
    margin: float
    relative: bool
    verdict: Verdict


def compare(measure: Measure) -> Compared | None:
    """Compare one measure; None where there are too few pairs for an interval."""
    pairs = [
        (a, b)
        for a, b in zip(measure.first, measure.second, strict=True)
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not measure.relative)
    ]
    if not pairs or (len(pairs) < ENOUGH and not measure.exact):
        return None
    first, second = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    changes = second / first - 1 if measure.relative else second - first
    if measure.higher_is_better:
        changes = -changes
    change = float(np.median(changes))
    low, high = (change, change) if measure.exact else interval(changes)
    return Compared(
        measure.name,
        len(pairs),
        float(np.median(first)),
        float(np.median(second)),
        change,
        low,
        high,
        measure.margin,
        measure.relative,
        _verdict(low, high, measure.margin),
    )


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > margin:
        return "worse"
    if high > margin:
        return "unclear"
    return "better" if high < 0 else "no worse"


def interval(changes: Any) -> tuple[float, float]:
    """95% of the medians of blocks of changes that are drawn again.

    Künsch, 1989: the moving-block bootstrap.
    """
    count = len(changes)
    size = min(BLOCK, max(count // ENOUGH, 1))
    generator = np.random.default_rng(0)
    blocks = math.ceil(count / size)
    begins = generator.integers(0, count - size + 1, (RESAMPLED, blocks))
    places = (begins[:, :, None] + np.arange(size)).reshape(RESAMPLED, -1)[:, :count]
    medians = np.median(changes[places], axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Margins:
    """How much worse the second measurement may be.

    Attributes:
        time: share of the time of a step, or of tokens a second.
        loss: difference of the loss.
        memory: share of the memory.
    """

    time: float = 0.05
    loss: float = 0.02
    memory: float = 0.05


def compare_files(
    first: Path, second: Path, margins: Margins, skip: int
) -> list[Compared]:
    """Compare two runs, or two files of `lumina bench decode`.

    Args:
        first: a run, its metrics.jsonl, or a file of results.
        second: another one of the same kind.
        margins: how much worse the second may be.
        skip: first steps of a run that do not count.

    Raises:
        LuminaError: E104 for a path that is not there, E101 or E102 for files of
            another kind, E105 where too little can be paired.
    """
    kinds = [_kind(path) for path in (first, second)]
    if kinds[0] != kinds[1]:
        raise LuminaError(
            "E102",
            f"{first} is a {kinds[0]}, and {second} is a {kinds[1]}",
            "compare two of a kind",
        )
    measures = MEASURES[kinds[0]](first, second, margins, skip)
    found = [one for measure in measures if (one := compare(measure)) is not None]
    if not any(one.pairs >= ENOUGH for one in found):
        raise LuminaError(
            "E105",
            f"{first} and {second} have fewer than {ENOUGH} values to pair",
            "compare longer runs of the same steps, or measure more --rounds; --skip "
            "leaves out fewer steps",
        )
    return found


def _kind(path: Path) -> str:
    """ "run" or "generation"."""
    if not path.exists():
        raise LuminaError("E104", f"{path} does not exist", "check the path")
    if path.is_dir() or path.suffix == ".jsonl":
        return "run"
    try:
        kind = json.loads(path.read_bytes())["kind"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind not in MEASURES:
        raise LuminaError(
            "E101",
            f"{path} is no file of results",
            "name a run, its metrics.jsonl, or what `lumina bench decode --out` "
            "has written",
        )
    return str(kind)


def _of_runs(
    first: Path, second: Path, margins: Margins, skip: int
) -> Iterable[Measure]:
    """The steps that both runs have."""
    sides = [
        {row["step"]: row for row in read_metrics(path)} for path in (first, second)
    ]
    steps = sorted(sides[0].keys() & sides[1].keys())
    steps = steps[skip:]

    def values(key: str) -> tuple[list[float], list[float]]:
        both = [s for s in steps if all(_is_number(side[s].get(key)) for side in sides)]
        return [sides[0][s][key] for s in both], [sides[1][s][key] for s in both]

    yield Measure("step time (s)", *values("step_seconds"), True, margins.time)
    yield Measure("loss", *values("loss"), False, margins.loss)
    evaluated = values("eval_loss")
    last = evaluated[0][-1:], evaluated[1][-1:]
    yield Measure("held-out loss, last", *last, False, margins.loss, exact=True)
    most = [[max(side)] if side else [] for side in values("memory_peak_bytes")]
    yield Measure(
        "memory, most (bytes)", most[0], most[1], True, margins.memory, exact=True
    )


def _of_generation(
    first: Path, second: Path, margins: Margins, skip: int
) -> Iterable[Measure]:
    """The rounds of the batch sizes and lengths that both files have."""
    sides = []
    for path in (first, second):
        speeds = json.loads(path.read_bytes())["speeds"]
        keys = ("batch_size", "prompt_tokens", "new_tokens")
        # Files of before there were several ways of caching have no name for theirs.
        sides.append(
            {(*(one[key] for key in keys), one.get("cache", "")): one for one in speeds}
        )
    both = sorted(sides[0].keys() & sides[1].keys())

    def values(key: str) -> tuple[list[float], list[float]]:
        pairs = [
            pair
            for case in both
            for pair in zip(sides[0][case][key], sides[1][case][key], strict=False)
        ]
        return [a for a, _ in pairs], [b for _, b in pairs]

    yield Measure("first token (s)", *values("first_seconds"), True, margins.time)
    yield Measure("tokens a second", *values("rate"), True, margins.time, True)
    most = [
        [max(one["memory_bytes"] or 0 for case, one in side.items() if case in both)]
        for side in sides
        if both
    ]
    if most:
        yield Measure(
            "memory, most (bytes)", most[0], most[1], True, margins.memory, exact=True
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


MEASURES: dict[str, Callable[[Path, Path, Margins, int], Iterable[Measure]]] = {
    "run": _of_runs,
    "generation": _of_generation,
}
"""Kind of file -> what two of them are compared by."""
