"""Two models, or the runs of two settings, compared with tests: which is to be used?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.advice import Compared, advise
from lumina.infer.evaluation_tasks.error_analysis import Flips, flips_of, metric_of
from lumina.infer.evaluation_tasks.results import TaskResult, TaskResults, values_of
from lumina.infer.evaluation_tasks.saved import HELD_OUT
from lumina.infer.evaluation_tasks.task import Values, mean
from lumina.measure.significance import (
    Difference,
    bootstrap,
    holm,
    paired_bootstrap,
    paired_t_test,
    size_in_words,
    welch_t_test,
)

Test = Literal["t_test", "bootstrap"]

ASPECTS = {
    "perplexity": ("perplexity", "bits_per_byte", "eval_loss"),
    "accuracy": (
        "acc", "acc_norm", "acc_bytes", "medical_accuracy", "exact_match", "f1",
        "eval_accuracy",
    ),
    "coherence": ("coherence",),
    "safety": ("safety_score", "toxic_rate", "bias_score"),
}  # fmt: skip
"""Names for several metrics together -> the metrics."""


@dataclass(frozen=True)
class Comparison:
    """The outcome.

    Attributes:
        baseline: what it is.
        candidate: what it is.
        level: of the intervals, and 1 less the chance below which a difference counts.
        rows: one for each metric.
        flips: by task, where two models answered the same questions.
        advice: "deploy" the candidate, or "iterate".
        reason: why.
    """

    baseline: list[str]
    candidate: list[str]
    level: float
    rows: list[Compared]
    flips: dict[str, Flips] = field(default_factory=dict)
    advice: str = "iterate"
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare_results(
    baseline: Sequence[TaskResults],
    candidate: Sequence[TaskResults],
    *,
    metrics: Sequence[str] = (),
    statistical_test: Test = "t_test",
    confidence_level: float = 0.95,
    paired: bool = False,
) -> Comparison:
    """Compare two models question by question, or two sets of runs.

    One result on each side: pairs are the examples, which have to be the same. Several
    on each side, such as runs with different seeds: each gives one figure of a metric,
    and the two sets are compared by Welch's t-test or the bootstrap.

    Args:
        baseline: results of what is in use.
        candidate: results of what may replace it.
        metrics: names of metrics, or of `ASPECTS`; none: the main metric of each task.
        statistical_test: "t_test" or "bootstrap"; a metric that is no mean of its
            examples is always compared by the bootstrap.
        confidence_level: between 0 and 1.
        paired: of several results, the first ones of both sides belong together, and
            so on: runs of the same seed.

    Raises:
        LuminaError: E005 for a level out of range, for metrics that there are not and
            for too few results; E002 for results that were not asked the same.
    """
    if not 0.5 <= confidence_level < 1:
        raise LuminaError(
            "E005", f"confidence-level is {confidence_level:g}", "give 0.5 to below 1"
        )
    _check_counts(baseline, candidate, paired)
    shared = [
        name for name in baseline[0].tasks
        if all(name in one.tasks for one in (*baseline, *candidate))
    ]  # fmt: skip
    if not shared:
        raise LuminaError(
            "E005",
            "no task was asked on both sides",
            "evaluate both on the same --tasks",
        )
    single = len(baseline) == len(candidate) == 1
    found: list[tuple[str, str, float, float, bool | None, Difference]] = []
    flips: dict[str, Flips] = {}
    for name in shared:
        sides = (
            [one.tasks[name] for one in baseline],
            [one.tasks[name] for one in candidate],
        )
        _check_same(name, [*sides[0], *sides[1]])
        for metric in _wanted(sides[0][0], metrics):
            figures = [
                [one.figures[metric].value for one in side if metric in one.figures]
                for side in sides
            ]
            if len(figures[0]) < len(baseline) or len(figures[1]) < len(candidate):
                continue
            if single:
                difference = _by_example(
                    sides[0][0],
                    sides[1][0],
                    metric,
                    statistical_test,
                    confidence_level,
                )
            else:
                difference = _by_run(
                    np.array(figures[0]),
                    np.array(figures[1]),
                    statistical_test,
                    confidence_level,
                    paired,
                )
            better = sides[0][0].figures[metric].higher_is_better
            means = [float(np.mean(one)) for one in figures]
            found.append((name, metric, means[0], means[1], better, difference))
        if single and (one := flips_of(sides[0][0], sides[1][0])) is not None:
            flips[name] = one
    if not found:
        raise LuminaError(
            "E005",
            f"no task has the metrics {', '.join(metrics)}",
            f"name metrics of the tasks, or {', '.join(ASPECTS)}",
        )
    adjusted = holm([difference.p_value for *_, difference in found])
    rows = [
        Compared(*one, chance, _verdict(one[4], one[5], chance, confidence_level))
        for one, chance in zip(found, adjusted, strict=True)
    ]
    advice, reason = advise(rows, confidence_level)
    return Comparison(
        [one.model for one in baseline],
        [one.model for one in candidate],
        confidence_level,
        rows,
        flips,
        advice,
        reason,
    )


def _check_counts(
    baseline: Sequence[TaskResults], candidate: Sequence[TaskResults], paired: bool
) -> None:
    counts = len(baseline), len(candidate)
    if counts == (1, 1):
        if paired:
            raise LuminaError(
                "E002",
                "two models are compared by their examples, which are pairs anyway",
                "leave --paired out",
            )
        if HELD_OUT in baseline[0].tasks:
            raise LuminaError(
                "E005",
                "a run has one figure of an evaluation, and one figure has no spread",
                "name several runs with different seeds on each side, or --tasks",
            )
        return
    if min(counts) < 2:
        raise LuminaError(
            "E005",
            f"there are {counts[0]} and {counts[1]} results",
            "name one on each side, or two or more on each side",
        )
    if paired and counts[0] != counts[1]:
        raise LuminaError(
            "E002",
            f"{counts[0]} and {counts[1]} results make no pairs",
            "name equally many on each side, or leave --paired out",
        )


def _check_same(name: str, results: Sequence[TaskResult]) -> None:
    """The same questions in the same way."""
    first = results[0]
    for other in results[1:]:
        if first.sha256 != other.sha256 or _ids(first) != _ids(other):
            raise LuminaError(
                "E002",
                f"{name} was asked other questions on one side",
                "evaluate both on the same files with the same --limit",
            )
        apart = {
            key
            for key in first.settings.keys() | other.settings.keys()
            if key not in ("chat", "too_long")
            and first.settings.get(key) != other.settings.get(key)
        }
        if apart:
            raise LuminaError(
                "E002",
                f"{name} was asked with another {', '.join(sorted(apart))}",
                "evaluate both with the same options",
            )


def _ids(result: TaskResult) -> list[str]:
    return [one["id"] for one in result.examples]


def _wanted(result: TaskResult, metrics: Sequence[str]) -> list[str]:
    """The metrics of a task that are compared."""
    if not metrics:
        return list(result.figures)[:1]
    names = {one for name in metrics for one in (name, *ASPECTS.get(name, ()))}
    return [name for name in result.figures if name in names]


def _by_example(
    first: TaskResult, second: TaskResult, metric: str, test: Test, level: float
) -> Difference:
    """Pairs are the examples that the metric applies to."""
    pairs = [
        (one["values"], two["values"])
        for one, two in zip(first.examples, second.examples, strict=True)
        if metric in one["values"] and metric in two["values"]
    ]
    if len(pairs) < 2:
        raise LuminaError(
            "E005",
            f"{first.task} has {len(pairs)} examples for {metric}",
            "ask two questions or more",
        )
    before = values_of(metric, [one for one, _ in pairs])
    after = values_of(metric, [two for _, two in pairs])
    combine = metric_of(first.task, metric).combine
    if test == "t_test" and combine is mean:
        return paired_t_test(before[:, 0], after[:, 0], level)
    return paired_bootstrap(before, after, level, figure=combine, sized=combine is mean)


def _by_run(
    first: Values, second: Values, test: Test, level: float, paired: bool
) -> Difference:
    """Each run gives one figure."""
    if paired and test == "t_test":
        return paired_t_test(first, second, level)
    if paired:
        return paired_bootstrap(first[:, None], second[:, None], level, figure=mean)
    return (welch_t_test if test == "t_test" else bootstrap)(first, second, level)


def _verdict(
    better: bool | None, difference: Difference, chance: float, level: float
) -> str:
    if better is None:
        return "-"
    if not chance < 1 - level or difference.difference == 0:
        return "no difference"
    return "better" if (difference.difference > 0) == better else "worse"


def comparison_text(found: Comparison) -> list[tuple[str, ...]]:
    """A table of a comparison: a row of names, then one for each metric."""
    share = f"{found.level:.4g}"
    head = ("task", "metric", "baseline", "candidate", "difference")
    more = (f"interval at {share}", "p", "effect", "verdict")
    rows: list[tuple[str, ...]] = [head + more]
    for row in found.rows:
        one = row.difference
        effect = "-" if one.effect_size is None else f"{one.effect_size:+.2f}"
        rows.append(
            (
                row.task,
                row.metric,
                f"{row.baseline:.4f}",
                f"{row.candidate:.4f}",
                f"{one.difference:+.4f}",
                f"{one.low:+.4f} to {one.high:+.4f}",
                f"{row.adjusted:.3g}",
                f"{effect} {size_in_words(one.effect_size)}".replace("- -", "-"),
                row.verdict,
            )
        )
    return rows
