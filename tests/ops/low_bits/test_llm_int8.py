"""LLM.int8: products of integers, and outliers apart from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.ops.low_bits.adapted import adapted_product
from lumina.ops.low_bits.codec import Packed, found_codec
from lumina.ops.low_bits.codecs import llm_int8
from lumina.ops.low_bits.pair import Pair
from lumina.ops.low_bits.product import product


def inputs(rows: int = 7, outliers: bool = True, seed: int = 0) -> Tensor:
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(seed))
    if outliers:
        x[2, 5], x[4, 40] = 60.0, -35.0
    return x


def packed(rows: int = 24, seed: int = 1) -> Packed:
    generator = torch.Generator().manual_seed(seed)
    return found_codec("llm_int8").pack(torch.randn(rows, 96, generator=generator))


def by_hand(x: Tensor, held: Packed) -> Tensor:
    """Number by number, in Python's whole numbers."""
    values, scale = held.tensors["values"].tolist(), held.tensors["scale"].tolist()
    apart = [c for c in range(96) if max(abs(v) for v in x[:, c].tolist()) >= 6.0]
    found = torch.zeros(len(x), len(values), dtype=torch.float64)
    for n, row in enumerate(x.tolist()):
        calm = [0.0 if c in apart else v for c, v in enumerate(row)]
        step = max(map(abs, calm)) / 127 or 1.0
        codes = [round(v / step) for v in calm]
        for out, integers in enumerate(values):
            total = sum(a * b for a, b in zip(codes, integers, strict=True))
            exact = sum(row[c] * integers[c] * scale[out] for c in apart)
            found[n, out] = total * step * scale[out] + exact
    return found


@pytest.mark.covers("PRC-11: int8 weights", "PRC-11: dynamic")
@pytest.mark.parametrize("outliers", [False, True])
def test_products_are_those_of_integers_and_of_outliers(outliers: bool) -> None:
    x, held = inputs(outliers=outliers), packed()
    found = found_codec("llm_int8").linear(x, held)
    torch.testing.assert_close(found.double(), by_hand(x, held), rtol=1e-5, atol=1e-4)
    assert len(llm_int8.outlier_columns(x)) == 2 * outliers
    half = found_codec("llm_int8").linear(x.bfloat16(), held)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), found, rtol=0.03, atol=0.5)


def test_outliers_apart_keep_the_others_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded together with them, the other inputs of the row would be lost."""
    x, held = inputs(), packed()
    exact = x.double() @ held.unpacked().double().T

    def error(found: Tensor) -> Tensor:
        return (found.double() - exact)[[2, 4]].norm() / exact[[2, 4]].norm()

    apart = error(found_codec("llm_int8").linear(x, held))
    monkeypatch.setattr(llm_int8, "THRESHOLD", float("inf"))
    together = error(found_codec("llm_int8").linear(x, held))
    assert apart < 0.1 * together


@pytest.mark.covers("PRC-11: higher-precision accumulation")
def test_sums_of_integers_are_exact_beyond_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2^24 + 1 has no float32; rows in parts give the same."""
    one = torch.full((3, 2**13 + 1), 127, dtype=torch.int8)
    other = one[:2].clone()
    other[:, 0] = 1
    expected = 127 * 127 * 2**13 + 127
    assert expected > 2**24 and expected % 2
    assert torch.equal(
        llm_int8.integer_product(one, other), torch.full((3, 2), expected).int()
    )
    x, held = inputs(50), packed()
    whole = found_codec("llm_int8").linear(x, held)
    monkeypatch.setattr(llm_int8, "AT_ONCE", 24 * 8)
    parts = found_codec("llm_int8").linear(x, held)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_training_multiplies_as_evaluation_does(adapted: bool) -> None:
    """Also beside pairs; the gradient of the input is that of the matrix."""
    x, pieces = inputs().requires_grad_(), [packed(16), packed(8, 2)]
    wide = torch.cat([one.unpacked() for one in pieces])
    codec = found_codec("llm_int8")
    expected = torch.cat([codec.linear(x.detach(), one) for one in pieces], dim=-1)
    a, b = torch.randn(2, 96), torch.randn(24, 2)
    if adapted:
        y = adapted_product(x, pieces, [Pair(a, b, 0.5, 0)])
        expected = expected + 0.5 * x.detach() @ a.T @ b.T
        wide = wide + 0.5 * b @ a
    else:
        y = product(x, pieces)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-3)
    upstream = torch.randn(y.shape)
    (found,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(found, upstream @ wide, rtol=1e-4, atol=1e-3)


def test_no_rows_give_none() -> None:
    assert found_codec("llm_int8").linear(torch.zeros(0, 96), packed()).shape == (0, 24)
