"""What the codecs hold of a matrix, and products with it."""

from __future__ import annotations

import pytest
import torch

from lumina.errors import LuminaError
from lumina.ops.low_bits.codec import CODECS, Packed, found_codec
from lumina.ops.low_bits.codecs.nf4 import CODES
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.ops.low_bits.product import product
from lumina.ops.low_bits.wide import wide_product

ALL = ("fp8", "int4", "int8", "llm_int8", "nf4", "nf4_double")
WORST = {
    "fp8": 0.04, "int4": 0.12, "int8": 0.012, "llm_int8": 0.012, "nf4": 0.1,
    "nf4_double": 0.105,
}  # fmt: skip
"""Largest relative error (root mean square) of normal numbers."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * 0.02


def test_every_codec_is_found_by_its_name() -> None:
    assert CODECS.known() == ALL
    with pytest.raises(LuminaError, match="int8") as caught:
        found_codec("nf5")
    assert caught.value.code == "E005"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(24, 256), (5, 100), (3, 7, 130)])
def test_a_matrix_comes_back_near(name: str, shape: tuple[int, ...]) -> None:
    """Whole rows of zeros stay zeros, and other rows do not feel them."""
    codec, matrix = found_codec(name), drawn(*shape)
    matrix[..., 1, :] = 0.0
    packed = codec.pack(matrix)
    assert packed.nbytes == codec.bytes_of(shape)
    for part, (extent, dtype) in codec.parts(shape).items():
        assert packed.tensors[part].shape == extent
        assert packed.tensors[part].dtype == dtype
    found = codec.unpack(packed, torch.float32)
    assert found.shape == matrix.shape and found.dtype == torch.float32
    error = (found - matrix).square().mean().sqrt() / matrix.square().mean().sqrt()
    assert 0 < error < WORST[name]
    assert not found[..., 1, :].any()
    # Rows are packed apart, but for the scales of scales.
    if name != "nf4_double":
        assert torch.equal(
            codec.pack(matrix[..., 2:4, :]).unpacked(), found[..., 2:4, :]
        )
    if len(shape) == 3:
        assert torch.equal(codec.pack(matrix[1]).unpacked(), found[1])
    again = codec.pack(matrix.bfloat16()).unpacked(torch.bfloat16)
    assert again.dtype == torch.bfloat16


def test_nf4_takes_the_nearest_code_of_each_block() -> None:
    """Rows that are no multiple of a block are filled up, and zeros stay zeros."""
    weight = torch.randn(3, 5, 100, generator=torch.Generator().manual_seed(0))
    small = found_codec("nf4").pack(weight)
    assert small.tensors["values"].shape == (3, 5, 64)
    assert small.tensors["scale"].shape == (3, 5, 2)
    codes = torch.tensor(CODES)
    for block in (slice(0, 64), slice(64, 100)):
        largest = weight[..., block].abs().amax(-1, keepdim=True)
        options = largest.unsqueeze(-1) * codes
        nearest = (weight[..., block].unsqueeze(-1) - options).abs().amin(-1)
        error = (weight[..., block] - small.unpacked()[..., block]).abs()
        torch.testing.assert_close(error, nearest, atol=1e-6, rtol=1e-5)


@pytest.mark.covers("PRC-12: double quantisation")
def test_scales_of_scales_are_the_nearest_to_the_exact_ones() -> None:
    """The codes are NF4's; 300 scales make two groups, each with its own scale."""
    matrix = drawn(100, 192) * torch.logspace(-2, 1, 100)[:, None]
    plain, double = (found_codec(n).pack(matrix) for n in ("nf4", "nf4_double"))
    assert torch.equal(plain.tensors["values"], double.tensors["values"])
    exact = plain.tensors["scale"].flatten()
    apart = exact - exact.mean()
    table, expected = torch.tensor(dynamic_map(8, signed=True)), []
    for group in (apart[:256], apart[256:]):
        options = group.abs().max() * table
        nearest = (group[:, None] - options).abs().argmin(1)
        expected.append(options[nearest] + exact.mean())
    found = double.unpacked() / Packed(
        "nf4", plain.shape, plain.tensors | {"scale": torch.ones(100, 3)}
    ).unpacked().where(plain.unpacked() != 0, 1.0)
    by_block = found.unflatten(-1, (3, 64)).abs().amax(-1).flatten()
    torch.testing.assert_close(by_block, torch.cat(expected), rtol=1e-4, atol=1e-7)
    assert double.nbytes < 0.93 * plain.nbytes


@pytest.mark.thorough
@pytest.mark.parametrize("double", [False, True])
def test_nf4_is_that_of_bitsandbytes(double: bool) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = drawn(96, 256, seed=1)
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=double
    )
    small = found_codec("nf4_double" if double else "nf4").pack(weight)
    assert torch.equal(packed.flatten(), small.tensors["values"].flatten())
    if double:
        assert torch.equal(state.absmax.flatten(), small.tensors["scale"].flatten())
        torch.testing.assert_close(
            state.state2.absmax.flatten(), small.tensors["scale_scale"].flatten()
        )
    else:
        assert torch.equal(state.absmax.flatten(), small.tensors["scale"].flatten())
    wide = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(wide, small.unpacked(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_what_is_not_finite_is_refused(name: str) -> None:
    matrix = drawn(4, 64)
    matrix[2, 3] = torch.inf
    with pytest.raises(LuminaError, match="not finite") as caught:
        found_codec(name).pack(matrix)
    assert caught.value.code == "E303"
    with pytest.raises(LuminaError, match=r"\[64\]") as caught:
        found_codec(name).pack(drawn(64))
    assert caught.value.code == "E005"


@pytest.mark.parametrize("name", [name for name in ALL if name != "llm_int8"])
def test_products_and_gradients_are_those_of_the_wide_matrix(name: str) -> None:
    """Of a matrix in two pieces, and of experts, grouped and batched."""
    codec = found_codec(name)
    for shape, rows in (
        ((24, 100), (2, 9)),
        ((3, 24, 100), (9,)),
        ((3, 24, 100), (3, 4)),
    ):
        matrix = drawn(*shape, seed=3)
        pieces = [codec.pack(part) for part in matrix.split([16, 8], dim=-2)]
        wide = torch.cat([piece.unpacked() for piece in pieces], dim=-2)
        x = torch.randn(*rows, 100, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        offsets = torch.tensor([4, 4, 9], dtype=torch.int32) if rows == (9,) else None
        y, reference = product(x, pieces, offsets), wide_product(x, wide, offsets)
        torch.testing.assert_close(y, reference)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        (found,) = torch.autograd.grad(y, x, upstream)
        (expected,) = torch.autograd.grad(reference, x, upstream)
        torch.testing.assert_close(found, expected)
        with torch.no_grad():
            torch.testing.assert_close(product(x, pieces, offsets), reference)


def test_nothing_wide_is_kept_for_the_gradient() -> None:
    packed = found_codec("nf4").pack(drawn(64, 128))
    x = torch.randn(4, 128, requires_grad=True)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
        product(x, [packed])
    assert kept and sum(one.nbytes for one in kept) == packed.nbytes
