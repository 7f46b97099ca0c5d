"""The verdict about levers, from what was measured of them. Pure arithmetic.

A lever is trusted when nothing speaks against it and what speaks for it is proven: that
the slope of its gradients is the baseline's within the margin, and that it is faster
where it claims to be. Both are null hypotheses that have to be rejected; of several
levers at once by Holm's procedure, so that the chance to trust any wrong one stays
below `Thresholds.alpha`.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lumina.guard.findings import Findings, Numbers
from lumina.guard.statistics import above, holm, lower_bound
from lumina.guard.thresholds import THRESHOLDS, Thresholds

SLOPES = {"exact": "slope", "fp8": "fp8_slope"}
"""What a lever claims -> the threshold of its slope. "exact": what it computes is what
the baseline computes, up to rounding; "fp8": it is what a float32 emulation of the same
quantisation computes."""


@dataclass(frozen=True)
class Verdict:
    """What is thought of a lever.

    Attributes:
        lever: its name.
        trusted: whether it may be used.
        problems: what speaks against it, worst first, as ends of a sentence.
        p: of the hypothesis that it is wrong or no faster.
        speed: of the baseline's step over its own, the start charged.
        speed_bound: what that is above with the confidence asked for; None: not timed.
        slope: of all gradients on the reference's over the baseline's, the furthest
            from 1 of all shapes; None: not measured.
    """

    lever: str
    trusted: bool
    problems: tuple[str, ...]
    p: float
    speed: float | None = None
    speed_bound: float | None = None
    slope: float | None = None

    @property
    def text(self) -> str:
        """In one line."""
        if self.problems:
            return "; ".join(self.problems)
        parts = []
        if self.slope is not None:
            parts.append(f"slope of the gradients {self.slope:.5f}")
        if self.speed is not None and self.speed_bound is not None:
            parts.append(f"{self.speed:.3f}x as fast, above {self.speed_bound:.3f}x")
        return ", ".join(parts)


def judge(
    found: Iterable[Findings], limits: Thresholds = THRESHOLDS
) -> dict[str, Verdict]:
    """The verdicts about levers that were measured for the same run.

    Args:
        found: of each lever, or of a bundle.
        limits: what they have to keep to.
    """
    every = list(found)
    problems = {one.lever: _problems(one, limits) for one in every}
    chances = {one.lever: _chance(one, limits) for one in every}
    proven = holm(chances, limits.alpha)
    made = {}
    for one in every:
        against = problems[one.lever]
        if not against and one.lever not in proven:
            against = _unproven(one, limits, chances[one.lever], len(every))
        speeds = _speeds(one) if one.ratios else []
        slopes = [_mean(n.slopes) for n in one.numbers if n.slopes]
        made[one.lever] = Verdict(
            lever=one.lever,
            trusted=not against,
            problems=tuple(against),
            p=chances[one.lever],
            speed=math.exp(_mean(speeds)) if speeds else None,
            speed_bound=math.exp(lower_bound(speeds, limits.alpha)) if speeds else None,
            slope=max(slopes, key=lambda x: abs(x - 1)) if slopes else None,
        )
    return made


def margin(one: Findings, limits: Thresholds) -> float:
    """How far the slope may be from the baseline's."""
    return float(getattr(limits, SLOPES[one.claim]))


def _problems(one: Findings, limits: Thresholds) -> list[str]:
    """What speaks against a lever by itself."""
    if one.failure:
        return [one.failure]
    found = []
    for numbers in one.numbers:
        found += [f"{said} ({numbers.shape})" for said in
                  _wrong_numbers(numbers, margin(one, limits), limits)]  # fmt: skip
    if not one.numbers:
        found.append("no gradients were measured")
    if len(one.paired) < limits.paired_steps:
        found.append(f"only {len(one.paired)} steps were trained")
    elif (drift := _drift(one, limits)) is not None:
        found.append(drift)
    if (leak := _leak(one, limits)) is not None:
        found.append(leak)
    if one.reloaded is None:
        found.append("it was not saved and loaded")
    elif not one.reloaded <= limits.error_floor:
        found.append(
            f"after saving and loading it is off by {one.reloaded:.2g} of what it was"
        )
    if one.faster and len(one.ratios) < 2:
        found.append("it was not timed")
    return found


def _wrong_numbers(numbers: Numbers, slope: float, limits: Thresholds) -> Iterable[str]:
    if numbers.broken:
        yield f"{numbers.broken} is not finite, and is finite without it"
        return
    if len(numbers.slopes) < 2:
        yield "too few batches were measured"
        return
    typical = statistics.median(own for _, own in numbers.errors.values())
    worst, over = "", 0.0
    for name, (error, own) in numbers.errors.items():
        allowed = limits.error_factor * max(own, typical) + limits.error_floor
        if not error <= allowed and (not worst or error / allowed > over):
            worst, over = name, error / allowed
    if worst:
        error, own = numbers.errors[worst]
        yield (
            f"the gradient of {worst} is off by {error:.3g} of its norm, where that "
            f"of the baseline is by {own:.3g}"
        )
    chances = {}
    for name, slopes in numbers.tensor_slopes.items():
        chances[f"+{name}"] = above(slopes, 1 + slope)
        chances[f"-{name}"] = above([-x for x in slopes], slope - 1)
    if blamed := holm(chances, limits.strict_alpha):
        name = min(blamed, key=lambda key: chances[key])[1:]
        mean = _mean(numbers.tensor_slopes[name])
        yield (
            f"the gradient of {name} is {mean:.5f} times what it should be, and "
            f"{slope:.1%} is allowed"
        )
    own = _rms([b - r for r, b, _ in numbers.losses])
    off = _rms([x - r for r, _, x in numbers.losses])
    size = _rms([r for r, _, _ in numbers.losses])
    if not off <= limits.loss_factor * own + limits.loss_floor * size:
        yield (
            f"the loss is off by {off:.3g}, where that of the baseline is by {own:.3g}"
        )


def _drift(one: Findings, limits: Thresholds) -> str | None:
    """What is wrong with the losses of the paired steps, or None."""
    late = one.paired[len(one.paired) // 2 :]
    own = _rms([b - r for r, b, _ in late])
    off = _rms([x - r for r, _, x in late])
    size = _rms([r for r, _, _ in late])
    if off <= limits.loss_factor * own + limits.drift_floor * size:
        return None
    return (
        f"after {len(one.paired)} steps of training the loss is off by {off:.3g}, "
        f"where that of the baseline is by {own:.3g}"
    )


def _leak(one: Findings, limits: Thresholds) -> str | None:
    """Memory that grows in each of the last steps, and not without the lever."""
    grown = [x - own for own, x in one.held]
    if len(grown) < 2:
        return "its memory was not measured"
    rises = [after - before for before, after in itertools.pairwise(grown)]
    total = grown[-1] - grown[0]
    if min(rises) <= 0 or total <= limits.leak_bytes:
        return None
    return f"memory grew by {total:,} bytes in {len(rises)} steps, in each of them"


def _chance(one: Findings, limits: Thresholds) -> float:
    """p of "the slope is outside the margin, or it is no faster"."""
    allowed = margin(one, limits)
    chances = [1.0] if not one.numbers else []
    for numbers in one.numbers:
        if len(numbers.slopes) < 2:
            return 1.0
        chances.append(above(numbers.slopes, 1 - allowed))
        chances.append(above([-x for x in numbers.slopes], -1 - allowed))
    if one.faster:
        chances.append(above(_speeds(one), math.log(_needed(one, limits))))
    return max(chances)


def _needed(one: Findings, limits: Thresholds) -> float:
    """The speed that a lever, or a bundle of several, must be proven to be above."""
    return limits.bundle_speed if "+" in one.lever else limits.lever_speed


def _speeds(one: Findings) -> list[float]:
    """Logarithms of the speed by block, the start charged over the steps of the run."""
    own = one.step_seconds[1]
    share = 1.0
    if own > 0:
        share = own / (own + max(one.start_seconds, 0.0) / max(one.steps, 1))
    return [math.log(ratio * share) for ratio in one.ratios]


def _unproven(
    one: Findings, limits: Thresholds, chance: float, levers: int
) -> list[str]:
    """Why a lever is not trusted against which nothing speaks."""
    of_many = f" among {levers} levers" if levers > 1 else ""
    if one.faster:
        speeds = _speeds(one)
        if above(speeds, math.log(_needed(one, limits))) == chance:
            charged = f", {one.start_seconds:.1f} s of compiling charged"
            return [
                f"it is {math.exp(_mean(speeds)):.3f}x as fast{charged}, and that it "
                f"is above {_needed(one, limits):.2f}x is not proven{of_many} "
                f"(p = {chance:.2g})"
            ]
    return [
        "that the slope of its gradients is within "
        f"{margin(one, limits):.1%} is not proven{of_many} (p = {chance:.2g})"
    ]


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every)


def _rms(values: Iterable[float]) -> float:
    return math.sqrt(_mean(x * x for x in values))


def trusted(verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
    """The names of the levers that may be used."""
    return tuple(name for name, one in verdicts.items() if one.trusted)
