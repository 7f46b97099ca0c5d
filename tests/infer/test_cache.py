from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lumina.infer.cache import KVCache

HEADS, WIDTH = 2, 8


def attend(q, k, v, mask):
    if mask is None:  # causal, the queries being the last of the keys
        new, total = q.shape[2], k.shape[2]
        mask = torch.ones(new, total, dtype=torch.bool).tril(total - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def expected(q, k, v, window):
    """One row, one pass, no cache."""
    length = q.shape[2]
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    if window:
        mask &= ~torch.ones(length, length, dtype=torch.bool).tril(-window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def in_chunks(cache, q, k, v, chunks, layers=2):
    """The attention of every layer's copy of the tokens, fed chunk by chunk."""
    outputs, begin = [], 0
    for chunk in chunks:
        part = slice(begin, begin + chunk)
        mask = cache.mask(torch.zeros(q.shape[0], chunk, dtype=torch.long))
        for layer in range(layers):
            seen = cache.update(layer, k[:, :, part] + layer, v[:, :, part] - layer)
            out = attend(q[:, :, part], *seen, mask)
        outputs.append(out)
        begin += chunk
    return torch.cat(outputs, dim=2)


def qkv(rows, length):
    torch.manual_seed(length)
    return [torch.randn(rows, HEADS, length, WIDTH) for _ in range(3)]


@pytest.mark.parametrize("window", [0, 1, 5, 16, 40])
@pytest.mark.parametrize(
    "chunks", [[23], [1] * 23, [7, 1, 1, 9, 1, 4], [16, 7], [3, 20], [5, 1, 17]]
)
def test_chunks_attend_as_one_pass(window, chunks):
    q, k, v = qkv(2, 23)
    cache = KVCache(2, window=window, capacity=4)
    got = in_chunks(cache, q, k, v, chunks)
    torch.testing.assert_close(got, expected(q, k + 1, v - 1, window))


@pytest.mark.parametrize("window", [0, 1, 5, 16])
@pytest.mark.parametrize("chunks", [[23], [10] + [1] * 13, [12, 1, 9, 1]])
def test_left_padded_rows_attend_as_they_do_alone(window, chunks):
    q, k, v = qkv(3, 23)
    padding = torch.tensor([0, 4, 9])
    cache = KVCache(3, window=window, padding=padding)
    got = in_chunks(cache, q, k, v, chunks)
    assert got.isfinite().all()
    for row, pad in enumerate(padding.tolist()):
        one = slice(row, row + 1)
        alone = expected(
            q[one, :, pad:], k[one, :, pad:] + 1, v[one, :, pad:] - 1, window
        )
        torch.testing.assert_close(got[one, :, pad:], alone)


def test_positions_start_at_each_rows_first_token():
    cache = KVCache(2, padding=torch.tensor([0, 2]))
    ids = torch.zeros(2, 4, dtype=torch.long)
    assert cache.positions(ids).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    cache.mask(ids)
    assert cache.positions(ids[:, :1]).tolist() == [[4], [2]]


@pytest.mark.covers("MOD-11: sliding window (bounded cache)", "MEM-13")
def test_a_window_bounds_the_memory_and_a_full_cache_grows():
    q, k, v = qkv(1, 300)
    sliding, full = KVCache(1, window=8), KVCache(1)
    in_chunks(sliding, q, k, v, [20] + [1] * 280)
    in_chunks(full, q, k, v, [20] + [1] * 280)
    assert sliding.nbytes == 2 * 2 * HEADS * WIDTH * 8 * 4
    assert 300 <= full.nbytes / (2 * 2 * HEADS * WIDTH * 4) <= 600


@pytest.mark.parametrize("window", [0, 12])
def test_rewinding_forgets_only_what_came_after(window):
    q, k, v = qkv(1, 12)
    cache = KVCache(1, window=window)
    in_chunks(cache, q, k, v, [9])
    assert cache.rewind(5)
    rest = in_chunks(cache, q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], [3, 1, 3])
    torch.testing.assert_close(rest, expected(q, k + 1, v - 1, window)[:, :, 5:])


def test_a_wrapped_ring_refuses_to_rewind():
    q, k, v = qkv(1, 12)
    cache = KVCache(1, window=4)
    in_chunks(cache, q, k, v, [5])
    assert not cache.rewind(4)
    assert cache.length == 5 and cache.rewind(5)


def test_kept_rows_go_on_as_before():
    q, k, v = qkv(3, 20)
    cache = KVCache(3, padding=torch.tensor([3, 0, 1]))
    in_chunks(cache, q, k, v, [10])
    cache.keep_rows(torch.tensor([2, 1]))
    q, k, v = (t[[2, 1]] for t in (q, k, v))
    rest = in_chunks(cache, q[:, :, 10:], k[:, :, 10:], v[:, :, 10:], [1] * 10)
    alone = expected(q[:1, :, 1:], k[:1, :, 1:] + 1, v[:1, :, 1:] - 1, 0)
    torch.testing.assert_close(rest[:1], alone[:, :, 9:])
    second = expected(q[1:], k[1:] + 1, v[1:] - 1, 0)
    torch.testing.assert_close(rest[1:], second[:, :, 10:])
