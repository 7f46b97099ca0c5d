"""Which start values did best in runs that can be compared, and how sure that is.

A strategy is a learning rate with its schedule, warm-up and batch. Runs are compared by
their last held-out loss where model, data and length are alike. A run scores the share
of those with another strategy that it beats; one that diverged scores nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lumina.state.experience.records import RunRecord

MOST = 20
"""Strategies that are kept."""

WEIGHT = 5.0
"""Runs that an even chance is worth beside those that were compared."""

LEAST_RUNS = 5
"""Compared runs of a kind below which nothing is proposed."""

LEAST_OF_STRATEGY = 2
LEAST_CONFIDENCE = 0.6

LONGEST_WARM_UP = 0.2
"""Share of the steps that a proposed warm-up has at most."""

DIVERGED = "run_failed_e301"
"""The failure of a run that its start values may have caused."""


@dataclass(frozen=True)
class Strategy:
    """Start values of runs, and how they did.

    Attributes:
        kind: of the runs.
        learning_rate: at its peak.
        warm_up: share of the steps.
        lr_scheduler: the schedule.
        global_batch_size: rows of a step.
        runs: names of the runs that were compared.
        score: the sum of their scores, each from 0 to 1.
        compared: how many runs that is.
    """

    kind: str
    learning_rate: float
    warm_up: float
    lr_scheduler: str
    global_batch_size: int
    runs: tuple[str, ...]
    score: float
    compared: int

    @property
    def confidence(self) -> float:
        """That another such run beats one of another strategy: 0.5 without evidence."""
        return (self.score + WEIGHT / 2) / (self.compared + WEIGHT)


@dataclass(frozen=True)
class Start:
    """Start values that earlier runs speak for.

    Attributes:
        strategy: which they are.
        kept: why nothing is proposed; empty where something is.
        compared: runs of the kind that were compared.
        among: which runs were asked, in words.
    """

    strategy: Strategy | None
    kept: str = ""
    compared: int = 0
    among: str = ""

    @property
    def why(self) -> str:
        """The evidence, in a sentence that names the runs."""
        if self.strategy is None:
            return self.kept
        one = self.strategy
        return (
            f"learning rate {one.learning_rate:g} with {one.warm_up:.1%} warm-up did "
            f"best of {self.compared} compared runs of {self.among} (confidence "
            f"{one.confidence:.2f}; {_named(one.runs)})"
        )


@dataclass
class _Tally:
    score: float = 0.0
    compared: int = 0
    runs: list[str] = field(default_factory=list)


Key = tuple[str, float, float, str, int]


def strategies(runs: Iterable[RunRecord]) -> list[Strategy]:
    """The best strategies, the surest first; at most `MOST`."""
    found: dict[Key, _Tally] = {}
    for group in _comparable(runs):
        for run, key in group:
            others = [other for other, strategy in group if strategy != key]
            if not others:
                continue
            tally = found.setdefault(key, _Tally())
            tally.score += sum(_beats(run, other) for other in others) / len(others)
            tally.compared += 1
            tally.runs.append(run.name)
    made = [
        Strategy(*key, tuple(tally.runs), tally.score, tally.compared)
        for key, tally in found.items()
    ]
    made.sort(key=lambda one: (-one.confidence, -one.compared, one.learning_rate))
    return made[:MOST]


def start_for(kind: str, runs: Iterable[RunRecord], data: str = "") -> Start:
    """Start values for a run of a kind; none while too little speaks for any.

    Runs on the same data are asked first. Where too little is known of those, all runs
    of the kind are.

    Args:
        kind: of the run.
        runs: those that are remembered.
        data: what tells the content of its data, as in the records; "": not known.
    """
    alike = [run for run in runs if run.kind == kind]
    same = [run for run in alike if run.data == data] if data else []
    if same:
        found = _start(f"{kind} on this data", same)
        if found.strategy is not None:
            return found
    return _start(kind, alike)


def _start(kind: str, alike: Iterable[RunRecord]) -> Start:
    found = strategies(alike)
    compared = sum(one.compared for one in found)
    if compared < LEAST_RUNS:
        return Start(
            None,
            f"{compared} runs of {kind} can be compared, and start values are proposed "
            f"from {LEAST_RUNS} on",
            compared,
        )
    for one in found:
        good = one.compared >= LEAST_OF_STRATEGY and one.confidence >= LEAST_CONFIDENCE
        if good and one.warm_up <= LONGEST_WARM_UP:
            return Start(one, "", compared, kind)
    return Start(
        None, f"no start values stand out among {compared} runs of {kind}", compared
    )


def _comparable(runs: Iterable[RunRecord]) -> list[list[tuple[RunRecord, Key]]]:
    """Groups of runs of alike models on the same data, of about the same length."""
    groups: dict[tuple[object, ...], list[tuple[RunRecord, Key]]] = {}
    for run in runs:
        ended = run.status == "finished" and run.eval_loss is not None
        key = _key(run)
        if key is None or not run.data or not (ended or _diverged(run)):
            continue
        shape = (run.options.get("seq_length"), run.options.get("vocab_size"))
        length = run.planned_steps * key[-1]
        place = (run.kind, run.data, run.parameters, *shape, length)
        groups.setdefault(place, []).append((run, key))
    return list(groups.values())


def _key(run: RunRecord) -> Key | None:
    options = run.options
    rate, warm = options.get("learning_rate"), options.get("warmup_steps")
    batch, schedule = options.get("global_batch_size"), options.get("lr_scheduler")
    if not isinstance(rate, float) or not 0 < rate <= 1:
        return None
    if not isinstance(warm, int) or not isinstance(batch, int):
        return None
    if warm < 0 or batch < 1 or run.planned_steps < 1:
        return None
    share = min(warm / run.planned_steps, 1.0)
    rounded = float(f"{rate:.2g}"), round(share, 2)
    return (run.kind, *rounded, str(schedule), batch)


def _diverged(run: RunRecord) -> bool:
    return bool(run.failures.get(DIVERGED))


def _beats(run: RunRecord, other: RunRecord) -> float:
    """1 for a lower held-out loss, 0 for a higher one, between them where equal."""
    if _diverged(run) or run.eval_loss is None:
        return 0.5 if _diverged(other) else 0.0
    if _diverged(other) or other.eval_loss is None:
        return 1.0
    if run.eval_loss == other.eval_loss:
        return 0.5
    return float(run.eval_loss < other.eval_loss)


def _named(names: tuple[str, ...], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"runs {shown}{more}"
