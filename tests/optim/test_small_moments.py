"""Moments of 16, 8 and 4 bits: rounding, codes, and AdamW on top of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina.assemble.assemble import assemble, capture
from lumina.cli.main import main
from lumina.config.layer import Layer
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.optim.blocks import BLOCK, Code, linear_map
from lumina.optim.methods import adamw_4bit, adamw_8bit
from lumina.optim.optimizer import Slot
from lumina.optim.rounding import random_bits, rounded
from lumina.state.expert_surgery import add_expert
from optimizer_steps import MATRICES, gradients, optimizer, slots_of, take
from programs import conversations, stream_of, take_steps, tiny_plan
from training import Trainings

CODES = {
    "8-bit mean": adamw_8bit.CODES["exp_avg"],
    "8-bit square": adamw_8bit.CODES["exp_avg_sq"],
    "4-bit mean": adamw_4bit.CODES["exp_avg"],
    "4-bit square": adamw_4bit.CODES["exp_avg_sq"],
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits_of(name: str, step: int, first: int, count: int) -> Tensor:
    return random_bits(name, torch.tensor(float(step)), first, count)


def test_rounding_is_right_in_the_mean_and_never_further_than_one_place() -> None:
    values = drawn(64).repeat_interleave(4096)
    found = rounded(values, bits_of("x", 1, 0, values.numel())).float()
    gaps = (found - values).view(64, -1)
    place = 2.0 ** (torch.frexp(values).exponent - 8).view(64, -1)[:, 0]
    assert (gaps.abs().amax(1) < place).all()
    assert (gaps.mean(1).abs() < 5 * place / 4096**0.5 / 2).all()


def test_what_bfloat16_holds_is_not_rounded() -> None:
    values = torch.cat([drawn(1000).bfloat16().float(), torch.zeros(3)])
    for step in range(5):
        bits = bits_of("x", step, 0, values.numel())
        assert torch.equal(rounded(values, bits).float(), values)


def test_random_bits_follow_from_the_element_and_the_step() -> None:
    whole = bits_of("x", 3, 0, 100)
    assert torch.equal(bits_of("x", 3, 40, 60), whole[40:])
    assert not torch.equal(bits_of("x", 4, 0, 100), whole)
    assert not torch.equal(bits_of("y", 3, 0, 100), whole)
    far = bits_of("x", 3, 2**32, 100)
    assert not torch.equal(far, whole)
    many = bits_of("x", 3, 2**32 - 2**15, 2**16)
    assert many.min() >= 0 and many.max() < 2**32
    for shift in range(32):
        share = (many >> shift & 1).float().mean()
        assert abs(share - 0.5) < 0.02, shift
    assert len(many.unique()) > 0.999 * len(many)


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_code_is_the_nearest_value(code: Code) -> None:
    """In every block, also in the last one, which may be shorter."""
    numbers = drawn(3, 2 * BLOCK + 37)
    if min(code.values) >= 0:
        numbers = numbers.square()
    codes, scales = code.encoded(numbers)
    assert codes.shape == code.codes_shape((3, 2 * BLOCK + 37))
    assert scales.shape == (3, 3)
    found = code.decoded(codes, scales, numbers.shape[1])
    table = torch.tensor(code.values)
    for block, part in enumerate(numbers.split(BLOCK, dim=1)):
        scale = part.abs().amax(1, keepdim=True)
        assert torch.equal(scales[:, block, None], scale)
        gaps = (part[..., None] - scale[..., None] * table).abs()
        here = found[:, block * BLOCK : (block + 1) * BLOCK]
        least = gaps.amin(-1)
        if code.never_zero:
            assert (here > 0).all()
            least = torch.where(part / scale < code.values[1], scale, least)
        assert ((here - part).abs() <= least + 1e-6 * scale).all()


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_rows_are_coded_by_themselves(code: Code) -> None:
    numbers = drawn(6, 300).square()
    whole = code.encoded(numbers)
    for rows in (slice(0, 4), slice(4, 6), slice(5, 6)):
        for part, all_rows in zip(code.encoded(numbers[rows]), whole, strict=True):
            assert torch.equal(part, all_rows[rows])
    nothing = code.encoded(torch.zeros(2, 300))
    assert not code.decoded(*nothing, 300).any()


def test_the_maps_are_the_published_ones() -> None:
    """Sizes and ends of arXiv:2110.02861, and the 16 values of 4 bits, by hand."""
    for signed in (True, False):
        values = dynamic_map(8, signed)
        assert len(set(values)) == 256 and values[-1] == 1.0
        least = min(abs(v) for v in values if v)
        assert least == pytest.approx(5.5e-7 if signed else 3.25e-7)
    assert dynamic_map(8, True)[0] == pytest.approx(-0.99296875)
    assert dynamic_map(4, True) == pytest.approx(
        (-0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0,
         0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0)
    )  # fmt: skip
    assert linear_map(4) == pytest.approx([n / 16 for n in range(1, 17)])


@pytest.mark.covers("TRN-07: block-wise states, own implementation")
@pytest.mark.parametrize("name", ["adamw_bf16", "adamw_8bit", "adamw_4bit"])
def test_a_step_is_adamws_on_moments_that_are_stored(name: str) -> None:
    """Each step begins with what the moments were rounded to; in float64."""
    slots = slots_of(MATRICES)
    ours = optimizer(name, slots)
    for step in range(6):
        before = [slot.master.double() for slot in slots]
        kept = [ours.load(slot, slice(None)) for slot in slots]
        grads = gradients(slots, step)
        take(ours, grads, lr=1e-2, decay=0.1)
        for slot, weight, moments, grad in zip(slots, before, kept, grads, strict=True):
            mean, square = (x.double().view_as(weight) for x in moments)
            mean = 0.9 * mean + 0.1 * grad.double()
            square = 0.95 * square + 0.05 * grad.double() ** 2
            root = (square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8
            wanted = 0.999 * weight - 1e-2 * mean / (1 - 0.9 ** (step + 1)) / root
            torch.testing.assert_close(
                slot.master.double(), wanted, rtol=1e-5, atol=1e-6
            )
            near = {"adamw_bf16": 2**-7, "adamw_8bit": 0.04, "adamw_4bit": 0.2}[name]
            for x, y in zip(ours.load(slot, slice(None)), (mean, square), strict=True):
                gap = (x.double().view_as(y) - y).abs()
                assert (gap <= near * y.abs().amax(-1, keepdim=True) + 1e-12).all()


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_4bit"])
def test_blocks_of_zeros_tiny_numbers_and_small_tensors_take_bounded_steps(
    name: str,
) -> None:
    """A square that a code rounded to 0 beside a mean that is not would be a leap."""
    weights = [drawn(2, 2 * BLOCK + 5), drawn(1, 3)]
    slots = [
        Slot(str(n), p := nn.Parameter(one.clone()), p.detach(), True, None)
        for n, one in enumerate(weights)
    ]
    ours = optimizer(name, slots)
    wide = torch.full((2, 2 * BLOCK + 5), 1e-6)
    wide[:, :BLOCK] = 0.0  # a block of zeros, and one number far above its neighbours
    wide[:, BLOCK] = 1.0
    narrow = torch.tensor([[0.0, 1e-6, 1.0]])
    for _ in range(4):
        take(ours, [wide, narrow], lr=1e-2)
        for slot in slots:
            assert torch.isfinite(slot.master).all()
    moved = [slot.master - one for slot, one in zip(slots, weights, strict=True)]
    assert not moved[0][:, :BLOCK].any() and moved[1][0, 0] == 0
    assert max(float(one.abs().max()) for one in moved) <= 4 * 1e-2 * 1.1
    for large in (moved[0][:, BLOCK], moved[1][0, 2:]):
        assert (large < -4 * 1e-2 * 0.9).all()
    # What the last block, shorter than others, and a row of three are by themselves.
    assert (moved[0][:, 2 * BLOCK :] < 0).all()


@pytest.mark.parametrize("name", ["adamw_bf16", "adamw_8bit", "adamw_4bit"])
def test_small_parts_give_the_same_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = slots_of(MATRICES), slots_of(MATRICES)
    one, two = optimizer(name, whole), optimizer(name, parts)
    take(one, gradients(whole, 0))
    monkeypatch.setattr("lumina.optim.small_moments.PART", 8)
    take(two, gradients(parts, 0))
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a.master, b.master)
        for key, value in a.state.items():
            assert torch.equal(b.state[key], value)


def test_small_changes_of_a_bfloat16_moment_are_not_lost() -> None:
    """To the nearest, a mean of 1 would never follow a gradient of 0.8."""
    slots = slots_of(["gate_up"])
    ours = optimizer("adamw_bf16", slots, beta1=0.995)
    slots[0].state["exp_avg"].fill_(1.0)
    for _ in range(300):
        take(ours, [torch.full((3, 10, 8), 0.8)])
    found = slots[0].state["exp_avg"].float().mean()
    assert found == pytest.approx(0.8 + 0.2 * 0.995**300, abs=3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_it_is_torchaos_within_rounding(bits: int) -> None:
    """Where torchao is installed: the same map and blocks, so the same codes."""
    theirs = pytest.importorskip("torchao.optim", reason="torchao is not installed")
    weight = drawn(64, 512)
    slot = Slot("w", nn.Parameter(weight.clone()), weight.clone(), decay=True)
    slot.master = slot.parameter.detach()
    ours = optimizer(f"adamw_{bits}bit", [slot])
    copy = nn.Parameter(weight.clone())
    kind = {8: theirs.AdamW8bit, 4: theirs.AdamW4bit}[bits]
    other = kind(
        [copy], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, block_size=256
    )
    plain = nn.Parameter(weight.clone())
    exact = torch.optim.AdamW(
        [plain], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1
    )
    for step in range(20):
        grad = drawn(64, 512, seed=step + 1)
        copy.grad, plain.grad = grad.clone(), grad.clone()
        other.step()
        exact.step()
        take(ours, [grad], lr=1e-2, decay=0.1)
        gaps = (slot.master - copy.data).abs()
        # A code on the edge between two values may fall on either side, and theirs may
        # round a square to 0.
        assert gaps.median() < 1e-6
        assert (gaps > 1e-4).float().mean() < 0.002
    moved = (plain.data - weight).norm()
    far, theirs_far = (
        float((x - plain.data).norm() / moved) for x in (slot.master, copy.data)
    )
    assert far < {8: 0.03, 4: 0.3}[bits] and far == pytest.approx(theirs_far, rel=0.02)


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_4bit"])
def test_a_vector_is_refused(name: str) -> None:
    with pytest.raises(Exception, match="norm is a vector"):
        optimizer(name, slots_of(["norm"]))


@pytest.mark.parametrize("name", ["adamw_8bit", "adamw_4bit"])
def test_codes_are_never_averaged(name: str, tmp_path: Any) -> None:
    """A new expert that is the mean of all has the moments of the busiest one."""
    program = assemble(tiny_plan(True, optimizer=name))
    _, progress = take_steps(program, stream_of(conversations(tmp_path)), 2)
    grown = add_expert(capture(program, progress, everything=True), how="mean")
    for kind in ("exp_avg_codes", "exp_avg_scales", "exp_avg_sq_codes"):
        held = grown.optimizer[kind]["backbone.blocks.1.feedforward.gate"]
        assert len(held) == 5
        assert any(torch.equal(held[4], held[n]) for n in range(4))


@pytest.mark.covers("TRN-07: --use-8bit-optimizer")
def test_the_switch_of_other_trainers_means_the_8_bit_one(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    command = trainings.command("switch", "--use-8bit-optimizer", "--dry-run")
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "AdamW with 8-bit moments" in told and "adamw_8bit trains" in told
    layer = Layer()
    layer.put("use_8bit_optimizer", False)
    assert layer.leaves == {}
