"""Measuring a lever: gradients, paired steps, memory, saving, and interleaved time."""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.guard.findings import Findings, Numbers
from lumina.guard.subject import Pass, Subject
from lumina.guard.thresholds import THRESHOLDS, Thresholds

Clock = Callable[[], float]


def measure(
    lever: str,
    reference: Subject,
    baseline: Subject,
    subject: Subject,
    batches: Mapping[str, Sequence[Any]],
    *,
    plain: Subject | None = None,
    claim: str = "exact",
    faster: bool = True,
    steps: int = 1,
    limits: Thresholds = THRESHOLDS,
    clock: Clock = time.perf_counter,
) -> Findings:
    """Measure a lever against the float32 reference and beside the baseline.

    All three begin with the same weights. An error of the lever is what was found; one
    of the others is raised.

    Args:
        lever: its name.
        reference: computes in float32, with plain operations.
        baseline: computes in the type of the run, without the lever.
        subject: the same with the lever.
        batches: shape in words -> at least `limits.batches` batches of it. The first
            shape is trained on and timed.
        plain: what its time is compared with, where that is not the baseline: a lever
            that quantises has to be faster than what does not.
        claim: a key of `lumina.guard.judge.SLOPES`.
        faster: whether it claims to be faster.
        steps: of the run, over which the start is charged.
        limits: how much is measured.
        clock: seconds.
    """
    found = Findings(lever, claim, faster, steps)
    careful = _Careful(subject, found)
    first = next(iter(batches.values()))
    plain = plain or baseline
    usual = _seconds(plain, first[0], clock)
    baseline.passed(first[0])
    started = clock()
    if careful.passed(first[0]) is None:
        return found
    found.start_seconds = max(0.0, clock() - started - usual)
    for shape, some in batches.items():
        numbers = Numbers(shape)
        found.numbers.append(numbers)
        if not _compare(numbers, reference, baseline, careful, some[: limits.batches]):
            return found
    if not _learn_together(found, reference, baseline, careful, first, limits):
        return found
    if careful.reload(first[0]) and faster:
        _time(found, plain, careful, first, limits, clock)
    return found


class _Careful:
    """The subject, whose errors are noted as what was found of it."""

    def __init__(self, subject: Subject, found: Findings) -> None:
        self.subject, self.found = subject, found

    def tried(self, doing: str, what: Callable[[], Any]) -> Any:
        """What it gives; None where it fails, which is noted."""
        try:
            return what()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            self.found.failure = f"it fails {doing}: {type(error).__name__}: {lines[0]}"
            return None

    def passed(self, batch: Any) -> Pass | None:
        """A forward and a backward pass."""
        found: Pass | None = self.tried(
            "in a forward and backward pass", lambda: self.subject.passed(batch)
        )
        return found

    def learn(self, batch: Any) -> Tensor | None:
        """A step."""
        found: Tensor | None = self.tried(
            "in a step", lambda: self.subject.learn(batch)
        )
        return found

    def reload(self, batch: Any) -> bool:
        """Save it, load it, and compare what it computes; False where that fails."""

        def difference() -> float:
            with tempfile.TemporaryDirectory() as folder:
                again = self.subject.saved_and_loaded(Path(folder))
                gaps = _gaps(self.subject.passed(batch), again.passed(batch))
                # A step shows whether the optimizer's states came along as well.
                for one in (self.subject, again):
                    one.learn(batch)
                gaps += _gaps(self.subject.passed(batch), again.passed(batch))
            # A NaN is larger than any number here.
            return max(math.inf if math.isnan(gap) else gap for gap in gaps)

        self.found.reloaded = self.tried("when it is saved and loaded", difference)
        return self.found.reloaded is not None


def _seconds(subject: Subject, batch: Any, clock: Clock) -> float:
    started = clock()
    subject.passed(batch)
    subject.synchronise()
    return clock() - started


def _gaps(before: Pass, after: Pass) -> list[float]:
    """Relative differences of the loss, and of each gradient to the norm of all."""
    gaps = [abs(after.loss - before.loss) / max(abs(before.loss), 1e-30)]
    scale = max(_norm(before.gradients.values()), 1e-30)
    for name, value in before.gradients.items():
        gap = after.gradients[name].double() - value.double()
        gaps.append(float(gap.norm()) / scale)
    return gaps


def _norm(tensors: Any) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in tensors))


def _compare(
    numbers: Numbers,
    reference: Subject,
    baseline: Subject,
    careful: _Careful,
    batches: Sequence[Any],
) -> bool:
    """Fill in the numbers of a shape; False where the lever fails."""
    sums: dict[str, Tensor] = {}
    slopes: dict[str, list[float]] = {}
    for batch in batches:
        wanted = reference.passed(batch)
        own = baseline.passed(batch)
        got = careful.passed(batch)
        if got is None:
            return False
        numbers.losses.append((wanted.loss, own.loss, got.loss))
        if missing := set(wanted.gradients) ^ set(got.gradients):
            numbers.broken = f"the gradient of {min(missing)} is on one side only; it"
            return True
        # Products of the batch by tensor: [lever.ref, base.ref, ref.ref, errors].
        here: dict[str, Tensor] = {}
        for name, right in wanted.gradients.items():
            r = right.double()
            b, x = own.gradients[name].double(), got.gradients[name].double()
            here[name] = torch.stack(
                [
                    (x * r).sum(),
                    (b * r).sum(),
                    (r * r).sum(),
                    (x - r).square().sum(),
                    (b - r).square().sum(),
                ]
            ).cpu()
        numbers.broken = numbers.broken or _not_finite(own, got, here)
        if numbers.broken:
            return True
        total = torch.stack(list(here.values())).sum(0)
        numbers.slopes.append(float(total[0] / total[1]))
        for name, value in here.items():
            sums[name] = sums.get(name, torch.zeros(5, dtype=torch.double)) + value
            if value[2] >= (THRESHOLDS.small**2) * total[2] and value[1] > 0:
                slopes.setdefault(name, []).append(float(value[0] / value[1]))
    size = float(torch.stack(list(sums.values()))[:, 2].sum().sqrt())
    for name, value in sums.items():
        scale = float(value[2].sqrt()) + THRESHOLDS.small * size
        numbers.errors[name] = (
            float(value[3].sqrt()) / max(scale, 1e-300),
            float(value[4].sqrt()) / max(scale, 1e-300),
        )
    count = len(batches)
    numbers.tensor_slopes = {n: x for n, x in slopes.items() if len(x) == count}
    return True


def _not_finite(own: Pass, got: Pass, here: Mapping[str, Tensor]) -> str:
    """What is not finite with the lever and finite without it; "" for nothing."""
    if math.isfinite(own.loss) and not math.isfinite(got.loss):
        return "the loss"
    for name, value in here.items():
        if not bool(torch.isfinite(value).all()):
            return f"the gradient of {name}"
    return ""


def _learn_together(
    found: Findings,
    reference: Subject,
    baseline: Subject,
    careful: _Careful,
    batches: Sequence[Any],
    limits: Thresholds,
) -> bool:
    """Paired steps, and the memory in use after the last of them."""
    losses = []
    grown = [0, 0]
    first_watched = limits.paired_steps - limits.leak_steps
    for step in range(limits.paired_steps):
        batch = batches[step % len(batches)]
        watched = step >= first_watched
        if step == first_watched:
            # What was garbage before is let go of now: if Python found it while a step
            # is watched, the step would seem to have freed it.
            gc.collect()
        three = [reference.learn(batch)]
        for place, (learn, held) in enumerate(
            (
                (baseline.learn, baseline.held_bytes),
                (careful.learn, careful.subject.held_bytes),
            )
        ):
            before = held() if watched else 0
            loss = learn(batch)
            if loss is None:
                return False
            # What a step leaves behind, without the loss, which both give.
            grown[place] += (held() - before) if watched else 0
            three.append(loss)
        losses.append(torch.stack([one.detach().float().cpu() for one in three]))
        if watched:
            found.held.append((grown[0], grown[1]))
    found.paired = [(float(r), float(b), float(x)) for r, b, x in losses]
    return True


def _time(
    found: Findings,
    baseline: Subject,
    careful: _Careful,
    batches: Sequence[Any],
    limits: Thresholds,
    clock: Clock,
) -> None:
    """Blocks of baseline, lever, lever, baseline: what drifts hits both alike."""

    def step(subject: Subject, batch: Any) -> float:
        subject.synchronise()
        started = clock()
        subject.learn(batch)
        subject.synchronise()
        return clock() - started

    def timed() -> None:
        seconds: tuple[list[float], list[float]] = ([], [])
        for block in range(limits.blocks):
            batch = batches[block % len(batches)]
            a, b = baseline, careful.subject
            times = [step(one, batch) for one in (a, b, b, a)]
            own, with_it = times[0] + times[3], times[1] + times[2]
            found.ratios.append(own / max(with_it, 1e-12))
            seconds[0].append(own / 2)
            seconds[1].append(with_it / 2)
        found.step_seconds = (
            statistics.median(seconds[0]),
            statistics.median(seconds[1]),
        )

    careful.tried("while it is timed", timed)
