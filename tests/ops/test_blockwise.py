"""Attention block by block: against loops, its gradients, and what it keeps."""

from __future__ import annotations

import pytest
import torch

from lumina.batch import Batch
from lumina.ops.attention import blockwise as module
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.block_kernels.table import PLAIN
from lumina.ops.attention.blockwise import blockwise
from lumina.ops.attention.dispatch import attend
from lumina.ops.attention.masks import document_starts
from networks import packed_batch
from ops.test_attention import by_hand, pattern_of, qkv

PACKED = packed_batch([[9, 21, 7], [40], [3, 30]], 40)
ROWS = Batch.from_rows(torch.zeros(3, 40, dtype=torch.long))
SHORT = [
    packed_batch([[9, 4, 5], [20], [3, 14]], 20),
    Batch.from_rows(torch.zeros(3, 20, dtype=torch.long)),
]
SIGHTS = [
    (0, NOTHING),
    (5, NOTHING),
    (5, Beyond(sinks=3)),
    (4, Beyond(dilation=7)),
    (3, Beyond(2, 6)),
]


def starts_of(batch):
    return None if batch.one_document_rows else document_starts(batch.document_ids)


@pytest.mark.covers("DST-10")
@pytest.mark.parametrize("batch", SHORT, ids=["packed", "rows"])
def test_it_equals_attention_by_hand_and_the_masks(batch):
    for kv_heads, (window, beyond) in zip([1, 2, 4, 1, 2], SIGHTS, strict=True):
        q, k, v = (x.detach() for x in qkv(3, 20, kv_heads))
        pattern = pattern_of("reference", batch, window, beyond=beyond)
        expected = attend(q, k, v, pattern).double()
        if beyond.sinks and beyond.dilation:
            extra = beyond.sinks, beyond.dilation
            by_loops = by_hand(q, k, v, batch.document_ids, window, *extra)
            torch.testing.assert_close(expected, by_loops, rtol=1e-5, atol=1e-5)
        for block in (1, 7, 32):
            got = blockwise(q, k, v, starts_of(batch), window, beyond, block, PLAIN)
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
        got = attend(q, k, v, pattern_of("sdpa", batch, window, beyond=beyond))
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.covers("DST-10")
@pytest.mark.parametrize(("window", "beyond"), SIGHTS)
def test_its_gradients_equal_the_references(window, beyond):
    for batch in (PACKED, ROWS):
        gradients = []
        pattern = pattern_of("reference", batch, window, beyond=beyond)
        for fast in (False, True):
            inputs = qkv(3, 40, 2)
            if fast:
                out = blockwise(*inputs, starts_of(batch), window, beyond, 9, PLAIN)
            else:
                out = attend(*inputs, pattern)
            g = torch.Generator().manual_seed(1)
            (out * torch.randn(out.shape, generator=g)).sum().backward()
            gradients.append([x.grad for x in inputs])
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_queries_are_the_last_of_the_keys():
    q, k, v = (x.detach() for x in qkv(3, 40, 2))
    for window, beyond in SIGHTS:
        whole = blockwise(q, k, v, starts_of(PACKED), window, beyond, 16)
        for new in (1, 11):
            starts = starts_of(PACKED)[:, -new:]
            got = blockwise(q[:, -new:], k, v, starts, window, beyond, 16)
            torch.testing.assert_close(got, whole[:, -new:])


@pytest.mark.covers("DST-10")
@pytest.mark.parametrize("kernel", [PLAIN, "cpu"])
def test_what_it_keeps_and_makes_grows_with_the_length(monkeypatch, kernel):
    """Backward gets the result and a number for each query; no scores of all pairs."""
    made = []
    real = module._scores
    monkeypatch.setattr(module, "_scores", lambda *a: made.append(s := real(*a)) or s)
    monkeypatch.setattr(module, "SCORES_BYTES", 2**14)
    kept = {}
    for length in (64, 256):
        q, k, v = (x.detach().requires_grad_() for x in qkv(1, length, 4))
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, into=saved: into.append(t.numel()) or t, lambda t: t
        ):
            out = blockwise(q, k, v, None, block=32, kernel=kernel)
        out.sum().backward()
        kept[length] = sum(saved)
    assert kept[256] == 4 * kept[64]
    assert bool(made) == (kernel == PLAIN)
    assert max((scores.nbytes for scores in made), default=0) <= 2**14


def test_pairs_of_blocks_that_hide_everything_are_left_out():
    q, k, _ = qkv(3, 40, 2)

    def pairs(starts, window, beyond=NOTHING):
        found = module._by_queries(q, k, starts, module.Sight(window, beyond), 8)
        return [[(p.keys.start // 8, p.masked) for p in each] for _, each in found]

    diagonal = [[(i, False) for i in range(n)] + [(n, True)] for n in range(5)]
    assert pairs(None, 0) == diagonal
    assert [len(each) for each in pairs(None, 4)] == [1, 2, 2, 2, 2]
    assert [len(each) for each in pairs(None, 4, Beyond(sinks=1))] == [1, 2, 3, 3, 3]
    assert [len(each) for each in pairs(None, 4, Beyond(dilation=2))] == [1, 2, 3, 4, 5]
    late = torch.full((3, 40), 16)
    late[:, :16] = 0
    assert [len(each) for each in pairs(late, 0)] == [1, 2, 1, 2, 3]


def test_narrow_types_are_summed_in_float32():
    q, k, v = (x.detach().bfloat16() for x in qkv(2, 40, 2))
    got = blockwise(q, k, v, None, block=8)
    assert got.dtype == torch.bfloat16
    exact = blockwise(q.float(), k.float(), v.float(), None, block=8)
    torch.testing.assert_close(got.float(), exact, rtol=2**-8, atol=2**-8)


@pytest.mark.thorough
def test_a_compiled_function_calls_it_without_a_break():
    q, k, v = (x.detach().requires_grad_() for x in qkv(1, 24, 2))
    call = torch.compile(
        lambda *x: blockwise(*x, None, 5, Beyond(2)),
        fullgraph=True,
        backend="aot_eager",
    )
    out = call(q, k, v)
    (grad,) = torch.autograd.grad(out.sum(), k)
    (expected,) = torch.autograd.grad(blockwise(q, k, v, None, 5, Beyond(2)).sum(), k)
    torch.testing.assert_close(grad, expected)
