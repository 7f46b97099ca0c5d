from __future__ import annotations

import pytest
import torch

from lumina.cli.cache_options import KV_FORMATS
from lumina.errors import LuminaError
from lumina.ops.kv_formats.table import FORMATS, find_format

ROUNDING = ("fp8", "int8", "int4")


def vectors(width=40, dtype=torch.float32):
    torch.manual_seed(width)
    x = (
        torch.randn(3, 2, 5, width)
        * torch.tensor([1e-3, 1.0, 300.0])[:, None, None, None]
    )
    return (x + x.abs().amax() * 0.01).to(dtype)


def through(name, x):
    coding = find_format(name)
    pieces = coding.encode(x)
    expected = coding.pieces(x.shape[-1], x.dtype)
    assert [(p.shape[-1], p.dtype) for p in pieces] == list(expected)
    assert (
        sum(p.nbytes for p in pieces)
        == coding.bytes_of(x.shape[-1], x.dtype) * x.numel() // x.shape[-1]
    )
    return coding.decode(pieces, x.shape[-1], x.dtype)


def groups(x, size):
    """[..., groups, size], the last value of a vector repeated."""
    missing = -x.shape[-1] % size
    last = x[..., -1:].expand(*x.shape[:-1], missing)
    return torch.cat([x, last], -1).unflatten(-1, (-1, size))


@pytest.mark.covers("MEM-14: and lower")
@pytest.mark.parametrize("width", [8, 7, 40, 64])
def test_rounding_stays_within_half_a_step(width):
    x = vectors(width)
    apart = (through("int8", x) - x).abs()
    largest = x.abs().amax(-1, keepdim=True)
    assert (apart <= largest / 254 * 1.001).all()
    assert apart.max() > largest.max() / 600  # it does round

    apart = groups((through("int4", x) - x).abs(), min(32, width + width % 2))
    held = groups(x, min(32, width + width % 2))
    reach = held.amax(-1, keepdim=True) - held.amin(-1, keepdim=True)
    ends = held.abs().amax(-1, keepdim=True)
    # Half a step, and the begin and the step themselves in bfloat16.
    assert (apart <= reach / 30 + reach / 128 + ends / 256).all()
    assert apart.max() > reach.max() / 80

    apart = (through("fp8", x) - x).abs()
    assert (apart <= x.abs() / 16 + largest / 448 / 512).all()


def test_casts_are_those_of_torch_and_the_computed_type_is_kept():
    x = vectors()
    for name, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        assert torch.equal(through(name, x), x.to(kind).float())
    half = vectors(dtype=torch.bfloat16)
    for name in ("auto", "fp32"):
        assert torch.equal(through(name, half), half)
    assert through("int8", half).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ROUNDING)
def test_zeros_constants_and_a_large_value_stay_finite(name):
    x = torch.zeros(4, 64)
    x[1] = 5.0
    x[2, 3] = 3e4
    x[3] = -1e-30
    back = through(name, x)
    assert back.isfinite().all() and torch.equal(back[0], x[0])
    torch.testing.assert_close(back[1:3], x[1:3], rtol=0.01, atol=0)
    assert (back[3].abs() <= 1e-29).all()


def test_the_command_line_names_every_format():
    assert set(KV_FORMATS) == set(FORMATS.known())
    with pytest.raises(LuminaError, match=r"there are .*int4"):
        find_format("int3")


def test_bytes_of_a_vector():
    sizes = {n: find_format(n).bytes_of(128, torch.bfloat16) for n in KV_FORMATS}
    assert sizes == {
        "auto": 256, "fp32": 512, "bf16": 256, "fp16": 256,
        "fp8": 132, "int8": 132, "int4": 80,
    }  # fmt: skip
