"""Norm, clip and finiteness without a look from the host; the loss scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.optim.gate import GROWTH_INTERVAL, LossScale, judge


def judged(gradients, max_norm=1.0, scale=1.0):
    return judge(
        gradients,
        loss_scale=torch.tensor(scale),
        max_norm=torch.tensor(max_norm),
        over=None,
    )


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 1e6])
def test_clipping_is_torchs(max_norm):
    g = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(n)) for n in (7, 30, 1)]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=g)
    verdict = judged([p.grad.clone() for p in parameters], max_norm)
    ours = [p.grad / verdict.divisor for p in parameters]
    total = nn.utils.clip_grad_norm_(parameters, max_norm)
    torch.testing.assert_close(verdict.norm, total)
    for mine, parameter in zip(ours, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert verdict.skip == 0


def test_nothing_is_clipped_at_zero():
    verdict = judged([torch.full((4,), 100.0)], max_norm=0.0)
    assert verdict.divisor == 1 and verdict.norm == 200


def test_norm_and_clip_are_of_the_unscaled_gradient():
    g = [torch.tensor([3.0, 4.0])]
    verdict = judged([g[0] * 256], max_norm=1.0, scale=256.0)
    assert verdict.norm == pytest.approx(5.0)
    assert (g[0] * 256 / verdict.divisor).norm() == pytest.approx(1.0, rel=1e-5)


def test_half_precision_gradients_are_summed_in_float32():
    """In float16 the squares would overflow."""
    verdict = judged([torch.full((1000,), 3e4, dtype=torch.float16)], max_norm=0.0)
    assert verdict.skip == 0
    assert verdict.norm == pytest.approx(3e4 * 1000**0.5, rel=1e-3)


@pytest.mark.covers("TRN-25: NaN/Inf guard")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_enough(bad):
    verdict = judged([torch.ones(5), torch.tensor([1.0, bad])])
    assert verdict.skip == 1 and torch.isfinite(verdict.divisor)


@pytest.mark.covers("TRN-26")
def test_the_loss_scale_halves_and_recovers():
    scale = LossScale(enabled=True, device=torch.device("cpu"))
    start = scale.value.item()
    bad, good = torch.tensor(1.0), torch.tensor(0.0)
    scale.update(bad)
    scale.update(bad)
    assert scale.value == start / 4
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(good)
    assert scale.value == start / 4
    scale.update(good)
    assert scale.value == start / 2
    # A bad step begins the count again.
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(good)
    scale.update(bad)
    scale.update(good)
    assert scale.value == start / 4
    for _ in range(100):
        scale.update(bad)
    assert scale.value == 1  # never below


def test_the_loss_scale_survives_a_checkpoint():
    device = torch.device("cpu")
    scale, other = (LossScale(enabled=True, device=device) for _ in range(2))
    for outcome in (1.0, 0.0, 0.0):
        scale.update(torch.tensor(outcome))
    other.load(scale.state())
    assert other.state() == scale.state() == {"value": 2.0**15, "clean": 2.0}


def test_without_float16_the_scale_is_one():
    scale = LossScale(enabled=False, device=torch.device("cpu"))
    scale.update(torch.tensor(1.0))
    assert scale.value == 1
