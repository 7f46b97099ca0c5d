"""Small steps on gradients, against their formulas written out."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.assemble.assemble import assemble, capture
from lumina.optim.gate import Verdict
from lumina.optim.gradient_step import chosen_gradient_step
from optimizer_steps import gradients, slots_of
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan
from training import DENSE, Trainings, column, words

ALL = ("agc", "centralise", "noise", "zclip", "robust_clip")
ROLES = {
    "matrix": "matrix",
    "tall": "head",
    "norm": "norm",
    "qkv": "matrix",
    "experts": "expert",
    "gate_up": "expert",
}
ONE = torch.tensor(1.0)


def made(name: str, slots: list[Any], seed: int = 0, **options: Any) -> Any:
    entry = chosen_gradient_step(name)
    values = {key: option.default for key, option in entry.options.items()} | options
    return entry.cls(slots, ROLES, values, device=torch.device("cpu"), seed=seed)


def verdict_of(norm: float, divisor: float = 1.0, skip: float = 0.0) -> Verdict:
    return Verdict(torch.tensor(norm), torch.tensor(divisor), torch.tensor(skip))


def with_grads(step: int, scale: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    slots = slots_of()
    grads = gradients(slots, step)
    for slot, grad in zip(slots, grads, strict=True):
        slot.parameter.grad = scale * grad
    return slots, grads


@pytest.mark.covers("TRN-13")
def test_centralised_rows_have_a_mean_of_0() -> None:
    slots, grads = with_grads(0)
    made("centralise", slots).before(ONE)
    for slot, grad in zip(slots, grads, strict=True):
        wanted = grad.clone()
        if ROLES[slot.name] in ("matrix", "expert"):
            for row in wanted.view(-1, wanted.shape[-1]):
                row -= row.sum() / len(row)
        torch.testing.assert_close(slot.gradient(), wanted)


@pytest.mark.covers("TRN-14")
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_adaptive_clipping_is_the_papers(scale: float) -> None:
    """Equation 3 of arXiv:2102.06171, whatever the loss is multiplied by."""
    slots, grads = with_grads(1, scale)
    made("agc", slots, clipping=0.3).before(torch.tensor(scale))
    clipped = 0
    for slot, grad in zip(slots, grads, strict=True):
        wanted = grad.clone()
        if ROLES[slot.name] in ("matrix", "expert"):
            rows = wanted.view(-1, wanted.shape[-1])
            for row, weights in zip(rows, slot.master.view(rows.shape), strict=True):
                limit = 0.3 * max(float(weights.norm()), 1e-3)
                if float(row.norm()) > limit:
                    row *= limit / row.norm()
                    clipped += 1
        torch.testing.assert_close(slot.gradient() / scale, wanted)
    assert 0 < clipped < 40


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ALL)
def test_what_is_not_finite_stays_so(name: str, bad: float) -> None:
    """So that the gate still skips the step."""
    slots, _ = with_grads(0)
    slots[0].parameter.grad[1, 2] = bad
    made(name, slots).before(ONE)
    assert not slots[0].gradient().isfinite().all()


@pytest.mark.covers("TRN-12")
def test_noise_is_normal_and_fades() -> None:
    slots = slots_of(["matrix"])
    step = made("noise", slots, variance=0.3, fading=0.55)
    drawn = []
    for t in range(400):
        slots[0].parameter.grad = torch.zeros(6, 4)
        step.after(verdict_of(1.0, divisor=8.0))
        size = math.sqrt(0.3 / (1 + t) ** 0.55) * 8.0
        drawn.append(slots[0].gradient() / size)
    noise = torch.stack(drawn)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert abs(noise.abs().gt(2).float().mean() - 0.0455) < 0.01
    flat = noise.view(400, -1)
    off = torch.corrcoef(flat.T) - torch.eye(24)
    assert off.abs().max() < 0.25


def test_noise_follows_from_seed_tensor_place_and_step() -> None:
    step = made("noise", slots_of())
    whole = step._normal("w", 0, 100)
    assert torch.equal(step._normal("w", 60, 40), whole[60:])
    assert not torch.equal(step._normal("v", 0, 100), whole)
    assert not torch.equal(
        made("noise", slots_of(), seed=1)._normal("w", 0, 100), whole
    )
    step.after(verdict_of(1.0, skip=1.0))
    assert torch.equal(step._normal("w", 0, 100), whole)
    step.after(verdict_of(1.0))
    assert not torch.equal(step._normal("w", 0, 100), whole)


def test_zclip_is_the_papers() -> None:
    """Algorithm 1 of arXiv:2504.02507, on norms with spikes and skipped steps."""
    step = made("zclip", [], first=5, memory=0.9, threshold=2.0)
    generator = torch.Generator().manual_seed(0)
    norms = (1 + 0.1 * torch.randn(40, generator=generator)).tolist()
    norms[2] = norms[20] = norms[31] = 5.0
    seen: list[float] = []
    mean = variance = 0.0
    clipped = []
    for n, norm in enumerate(norms):
        if n in (3, 12):
            step.judge(verdict_of(math.inf, skip=1.0), torch.tensor(4.0))
        verdict = verdict_of(norm, divisor=4.0)
        step.judge(verdict, torch.tensor(4.0))
        allowed = norm
        if len(seen) >= 5:
            z = (norm - mean) / math.sqrt(variance)
            if z > 2.0:
                allowed = mean + 4.0 / z * math.sqrt(variance)
                clipped.append(n)
            mean = 0.9 * mean + 0.1 * allowed
            variance = 0.9 * variance + 0.1 * (allowed - mean) ** 2
        seen.append(norm)
        if len(seen) == 5:
            mean = sum(seen) / 5
            variance = sum((x - mean) ** 2 for x in seen) / 5
        assert float(verdict.divisor) == pytest.approx(4.0 * norm / allowed, rel=1e-4)
    assert {20, 31} <= set(clipped) and 2 not in clipped
    assert float(step.seen) == 40


def by_the_median(
    norms: list[float], window: int, first: int, threshold: float, patience: int
) -> list[float]:
    """What the robust clip makes of norms, written out; None: a step is skipped."""
    held: list[float] = []
    made, outside = [], 0
    for norm in norms:
        log = math.log(norm) if 0 < norm < math.inf else math.nan
        middle = statistics.median(held) if held else 0.0
        away = statistics.median([abs(x - middle) for x in held] or [0.0])
        reach = threshold * max(1.4826 * away, 0.05)
        far = len(held) >= first and abs(log - middle) > reach
        made.append(math.exp(middle + reach) if far and log > middle else norm)
        if far:
            outside += 1
            if outside == patience:
                held, outside = [], 0
        elif not math.isnan(log):
            held, outside = [*held, log][-window:], 0
    return made


def test_robust_clip_goes_by_the_median_of_a_window() -> None:
    """Spikes, dips, norms that are no numbers, and a level that changes for good."""
    options = {"window": 9, "first": 4, "threshold": 3.0, "patience": 6}
    step = made("robust_clip", [], least_deviation=0.05, **options)
    generator = torch.Generator().manual_seed(0)
    norms = (1 + 0.1 * torch.randn(60, generator=generator)).tolist()
    norms[2] = norms[20] = norms[21] = 900.0
    norms[15], norms[30], norms[31] = 1e-4, math.inf, 0.0
    norms[40:] = [50 * norm for norm in norms[40:]]
    wanted = by_the_median(norms, **options)
    for norm, allowed in zip(norms, wanted, strict=True):
        skip = float(norm == math.inf)
        verdict = verdict_of(norm, divisor=4.0, skip=skip)
        step.judge(verdict, torch.tensor(4.0))
        expected = 4.0 if skip or norm == 0 else 4.0 * norm / allowed
        assert float(verdict.divisor) == pytest.approx(expected, rel=1e-4)
    clipped = [n for n, x in enumerate(norms) if x != wanted[n]]
    assert {20, 21, 40, 45} <= set(clipped) <= {20, 21, *range(40, 46)}
    for n in (20, 21):
        assert wanted[n] < 2.0


def test_zclip_leaves_the_stricter_clip() -> None:
    step = made("zclip", [], first=2)
    for norm in (1.0, 1.1):
        step.judge(verdict_of(norm), ONE)
    verdict = verdict_of(100.0, divisor=1e6)
    step.judge(verdict, ONE)
    assert verdict.divisor == 1e6


def test_all_of_them_go_on_after_a_resume(tmp_path: Path) -> None:
    stream = stream_of(conversations(tmp_path))
    plan = tiny_plan(
        True,
        max_grad_norm=1.0,
        gradient_steps=ALL,
        gradient_step_options={
            "zclip": {"threshold": 1.0, "memory": 0.9, "first": 2},
            "robust_clip": {
                "threshold": 0.5,
                "window": 4,
                "first": 2,
                "least_deviation": 1e-3,
                "patience": 3,
            },
        },
    )
    straight = assemble(plan)
    whole, done = take_steps(straight, stream, 6)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 3)
    program = reassembled(program, progress, plan)
    assert [program.gradient_steps[n].seen for n in (3, 4)] == [3, 3]
    then, progress = take_steps(program, stream, 3, progress)
    assert torch.equal(torch.cat([first, then]), whole)
    one, two = capture(straight, done), capture(program, progress)
    for name, tensor in one.tensors.items():
        assert torch.equal(two.tensors[name], tensor), name
    assert one.extra["gradient_steps"] == two.extra["gradient_steps"]
    plain, _ = take_steps(assemble(tiny_plan(True, max_grad_norm=1.0)), stream, 6)
    assert not torch.equal(plain, whole)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_train_what_one_rank_trains(
    trainings: Trainings, parallel: str
) -> None:
    flags = [
        *DENSE,
        *words("--precision fp32 --steps 6 --gradient-steps"),
        *ALL,
        *words("--gradient-step-options zclip.first=2 zclip.threshold=1"),
        *words("robust_clip.first=2 robust_clip.threshold=0.5"),
    ]
    alone = trainings.folder / "alone-steps"
    if not alone.exists():
        trainings.train(alone.name, *flags)
    found = trainings.train_on_ranks(
        f"{parallel}-steps", *flags, *words(f"--batch-size 2 --parallel {parallel}")
    )
    for metric in ("loss", "grad_norm"):
        expected = pytest.approx(column(alone, metric), rel=2e-4, abs=2e-4)
        assert column(found, metric) == expected, metric
