"""A frozen product with narrow pairs, beside the same written out, with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.ops.low_bits.adapted import adapted_product
from lumina.ops.low_bits.codec import Packed, found_codec
from lumina.ops.low_bits.pair import Pair

IN, OUT, RANKS = 96, (40, 24), (4, 3)
PLACES = (0, 40)
SCALES = (2.0, -0.5)


def drawn(seed: int) -> tuple[Tensor, list[Tensor], list[Pair]]:
    """Rows, the pieces of a matrix, and a pair on each, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pairs = [
        Pair(
            normal(rank, IN).requires_grad_(), normal(out, rank).requires_grad_(), s, at
        )
        for rank, out, s, at in zip(RANKS, OUT, SCALES, PLACES, strict=True)
    ]
    return normal(2, 5, IN), [normal(out, IN) for out in OUT], pairs


def written_out(x: Tensor, weight: Tensor, pairs: list[Pair]) -> Tensor:
    for a, b, scale, begin in pairs:
        change = torch.zeros_like(weight)
        rows = torch.arange(begin, begin + b.shape[0])
        weight = weight + change.index_add(0, rows, scale * b @ a)
    return x @ weight.T


@pytest.mark.parametrize("codec", ["", "nf4_double", "int8"])
@pytest.mark.parametrize("of_x", [True, False])
def test_it_is_the_product_with_the_changed_matrix(codec: str, of_x: bool) -> None:
    """Also where the input needs no gradient, as behind a frozen embedding."""
    x, pieces, pairs = drawn(seed=len(codec) + of_x)
    weight: Tensor | list[Packed] = torch.cat(pieces)
    whole = torch.cat(pieces)
    if codec:
        weight = [found_codec(codec).pack(piece) for piece in pieces]
        whole = torch.cat([one.unpacked(torch.float64) for one in weight])
    trained = [one for pair in pairs for one in (pair.a, pair.b)]
    x = x.requires_grad_(of_x)
    if of_x:
        trained = [x, *trained]
    upstream = torch.randn(2, 5, sum(OUT), dtype=torch.float64)
    wanted = written_out(x, whole, pairs)
    found = adapted_product(x, weight, pairs)
    torch.testing.assert_close(found, wanted)
    expected = torch.autograd.grad(wanted, trained, upstream)
    torch.testing.assert_close(torch.autograd.grad(found, trained, upstream), expected)


def test_two_pairs_on_one_place_add_up() -> None:
    x, pieces, pairs = drawn(seed=7)
    pairs = [pairs[0], pairs[0]._replace(scale=0.25)]
    found = adapted_product(x, pieces[0], pairs)
    torch.testing.assert_close(found, written_out(x, pieces[0], pairs))
