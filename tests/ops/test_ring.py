"""Ring attention: each rank's part against attention of whole rows, with gradients."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.ops.attention import pieces
from lumina.ops.attention.beyond import Beyond
from lumina.ops.attention.block_kernels.table import BLOCK_KERNELS
from lumina.ops.attention.masks import document_mask, document_starts
from lumina.ops.attention.pieces import Piece
from lumina.ops.attention.ring import part as part_module
from lumina.ops.attention.ring import passes, plain
from lumina.ops.attention.ring.part import RowPart, ring_attention
from lumina.ops.attention.ring.seen import Seen, seen_by
from lumina.ops.attention.ring.zigzag import Zigzag
from rings import in_turn

PACKED = [[0] * 9 + [1] * 21 + [2] * 7 + [-1] * 4, [0] * 41, [0] + [1] * 3 + [2] * 37]
FEW = Piece(slice(0, 2), slice(0, 9000), pieces.ALL)
SIGHTS = [(0, 0), (6, 0), (17, 0), (6, 3)]
KERNELS = {"cpu": BLOCK_KERNELS.found("cpu"), "plain": plain.KERNEL}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and blocks of few tokens."""
    monkeypatch.setattr(pieces, "QUERIES", 8)
    monkeypatch.setattr(pieces, "KEYS", 8)
    monkeypatch.setattr(pieces, "FEW_KEYS", 2)
    monkeypatch.setattr(plain, "BLOCK", 3)
    monkeypatch.setattr(plain, "SCORES_BYTES", 8 * 12 * 2 * 3)


def tensors(rows, length, kv_heads, width=8, value=8):
    """Queries, keys, values and the gradient of the result, in float64."""
    shapes = ((4, width), (kv_heads, width), (kv_heads, value), (4, value))
    return [torch.randn(rows, length, *s, dtype=torch.float64) for s in shapes]


def whole_rows(q, k, v, grad, documents, window, sinks):
    """The short reference: a mask of all pairs, one softmax, autograd."""
    mask = document_mask(documents, window, Beyond(sinks))
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    query, key, value = inputs
    shared = q.shape[2] // k.shape[2]
    key, value = (x.repeat_interleave(shared, dim=2) for x in (key, value))
    scores = torch.einsum("bshd,bthd->bhst", query, key) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    out = torch.einsum("bhst,bthd->bshd", weights, value)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def by_ring(kernel, ranks, q, k, v, grad, documents, window, sinks, one_document):
    """The result and the gradients of whole rows, put together from all ranks."""
    zigzag = Zigzag(q.shape[1], ranks)
    parts = [[zigzag.part(x, r) for x in (q, k, v, grad)] for r in range(ranks)]
    starts = document_starts(documents)
    seen = [
        seen_by(
            r,
            zigzag,
            None if one_document else zigzag.part(starts, r),
            len(q),
            window,
            sinks,
        )
        for r in range(ranks)
    ]
    found = in_turn(
        [
            passes.forward(kernel, r, zigzag, seen[r], *parts[r][:3])
            for r in range(ranks)
        ]
    )
    grads = in_turn(
        [
            passes.backward(
                kernel, r, zigzag, seen[r], parts[r][3], *parts[r][:3], *found[r]
            )
            for r in range(ranks)
        ]
    )
    outs = [out for out, _ in found]
    return [zigzag.whole(list(x)) for x in (outs, *zip(*grads, strict=True))]


@pytest.mark.covers("DST-09: blockwise over devices", "DST-15")
@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_all_ranks_together_give_attention_of_whole_rows(small, ranks, sight) -> None:
    """Rows of an odd length, packed documents and rows of one, shared heads."""
    for kv_heads, name in ((2, "cpu"), (4, "plain"), (1, "plain")):
        for documents in (torch.tensor(PACKED), torch.zeros(2, 41, dtype=torch.int64)):
            given = tensors(len(documents), 41, kv_heads)
            wanted = whole_rows(*given, documents, *sight)
            one = not documents.any()
            kernel = KERNELS[name]
            found = by_ring(kernel, ranks, *given, documents, *sight, one)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_values_may_be_narrower_than_keys(small) -> None:
    """As in latent attention; widths are filled up for kernels."""
    documents = torch.zeros(2, 19, dtype=torch.int64)
    given = tensors(2, 19, 2, width=12, value=5)
    wanted = whole_rows(*given, documents, 0, 0)
    found = by_ring(KERNELS["cpu"], 3, *given, documents, 0, 0, True)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_half_precision_adds_up_in_float32() -> None:
    """The merged result is as near to the exact one as one softmax in bfloat16."""
    documents = torch.zeros(1, 64, dtype=torch.int64)
    given = [x.bfloat16() for x in tensors(1, 64, 2)]
    wanted = whole_rows(*(x.double() for x in given), documents, 0, 0)
    found = by_ring(KERNELS["cpu"], 4, *given, documents, 0, 0, True)
    for one, exact in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - exact).norm() < 8e-3 * exact.norm()


@pytest.mark.covers("DST-09: block 4096")
def test_without_a_kernel_it_takes_blocks_of_4096_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Heads wider than 256 have no kernel; scores of more keys exist nowhere."""
    widths: list[int] = []
    real = plain._scores

    def noted(*args):
        found = real(*args)
        widths.append(found.shape[-1])
        return found

    monkeypatch.setattr(plain, "_scores", noted)
    length = 2 * 5000
    part = RowPart(Zigzag(length, 1), 0, 1)
    q, k, v = (torch.randn(1, length, 1, 258) for _ in range(3))
    sight = part_module.Sight(part, [[Seen(slice(0, 1), FEW)]])
    out, _ = ring_attention(q[:, :2], k, v, sight.handle)
    wanted = (q[:, :2, 0] @ k[:, :9000, 0].mT / 258**0.5).softmax(-1) @ v[:, :9000, 0]
    torch.testing.assert_close(out[:, :, 0], wanted, rtol=1e-4, atol=1e-5)
    assert widths == [4096, 4096, 808]


@pytest.mark.parametrize("length", [8, 9, 31, 64])
def test_each_rank_has_its_share_of_the_pairs(length: int) -> None:
    """Causal order leaves the ranks as many pairs, up to the columns that are left."""
    ranks = 4
    zigzag = Zigzag(length, ranks)
    columns = [zigzag.part(torch.arange(length)[None], r)[0] for r in range(ranks)]
    assert sorted(torch.cat(columns).tolist()) == list(range(length))
    assert [len(x) for x in columns] == [zigzag.size(r) for r in range(ranks)]
    pairs = [(x + 1).sum().item() for x in columns]
    each = sum(pairs) / ranks
    assert all(abs(one - each) <= 2 * length for one in pairs)
    if length % 8 == 0:
        assert len(set(pairs)) == 1
        # A single cut in as many parts would give the last rank seven times as much.
        assert zigzag.part(torch.arange(length)[None], 0)[0, -1] == length - 1


def test_a_row_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="7 columns over 4 ranks"):
        Zigzag(7, 4)


def test_the_operation_of_one_rank_is_attention_of_the_row(small) -> None:
    """What blocks call, through autograd, with rows taken from a batch."""
    documents = torch.tensor(PACKED)
    q, k, v, grad = tensors(3, 41, 2)
    starts = document_starts(documents)
    part = RowPart(Zigzag(41, 1), 0, 3, starts).rows(1, 3)
    inputs = [x[1:].requires_grad_() for x in (q, k, v)]
    out, _ = ring_attention(*inputs, part.seen(6, 0))
    grads = torch.autograd.grad(out, inputs, grad[1:])
    wanted = whole_rows(q[1:], k[1:], v[1:], grad[1:], documents[1:], 6, 0)
    torch.testing.assert_close([out, *grads], wanted, rtol=1e-9, atol=1e-9)
    assert part.seen(6, 0) is part.seen(6, 0)
