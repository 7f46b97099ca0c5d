"""Attention backends: each equals the sum written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lumina.batch import Batch
from lumina.ops.attention import dispatch, flash3, fused
from lumina.ops.attention.beyond import NOTHING
from lumina.ops.attention.dispatch import attend, make_pattern
from lumina.plan import activations
from networks import packed_batch


def by_hand(q_bshd, k_bskd, v_bskd, document_ids, window, sinks=0, dilation=0):
    """Attention by loops over rows, heads and queries, in float64.

    What comes before the window is seen where it is one of the first `sinks` tokens of
    its document, or where `dilation` divides its distance.
    """
    rows, length, heads, width = q_bshd.shape
    group = heads // k_bskd.shape[2]
    out = torch.zeros(q_bshd.shape, dtype=torch.float64)
    q, k, v = (x.double() for x in (q_bshd, k_bskd, v_bskd))
    for b in range(rows):
        for i in range(length):
            own = [j for j in range(i + 1) if document_ids[b, j] == document_ids[b, i]]
            keys = [
                j
                for j in own
                if not window
                or i - j < window
                or j - own[0] < sinks
                or (dilation and (i - j) % dilation == 0)
            ]
            for h in range(heads):
                scores = k[b, keys, h // group] @ q[b, i, h] / math.sqrt(width)
                out[b, i, h] = scores.softmax(0) @ v[b, keys, h // group]
    return out


def qkv(rows, length, kv_heads, device="cpu", dtype=torch.float32, width=8):
    g = torch.Generator().manual_seed(rows * length + kv_heads)
    return [
        torch.randn(rows, length, heads, width, generator=g)
        .to(device, dtype)
        .requires_grad_()
        for heads in (4, kv_heads, kv_heads)
    ]


def pattern_of(backend, batch, window, dtype=torch.float32, beyond=NOTHING):
    return make_pattern(
        backend,
        batch.document_ids,
        batch.cu_seqlens,
        batch.max_seqlen,
        one_document_rows=batch.one_document_rows,
        window=window,
        dtype=dtype,
        beyond=beyond,
    )


def test_only_variable_lengths_asked_for_are_used(monkeypatch):
    """On a device that has them; the CPU has not."""
    monkeypatch.setattr(dispatch, "varlen_fits", lambda device, dtype: True)
    batch = packed_batch([[5, 7, 4], [16], [3, 6]], 16)
    for backend in dispatch.BACKENDS:
        pattern = pattern_of(backend, batch, 0)
        assert pattern.backend == backend
        assert (pattern.cu_seqlens is None) == (backend != "varlen")


BATCHES = {
    "packed": packed_batch([[5, 7, 4], [16], [3, 6]], 16),
    "rows": Batch.from_rows(torch.zeros(3, 16, dtype=torch.long)),
}


@pytest.mark.covers(
    "MOD-08: works with the SDPA fallback", "MOD-02: MHA (kv = heads) and MQA (kv = 1)"
)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [0, 1, 3, 16, 50])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("backend", dispatch.BACKENDS)
def test_backends_equal_attention_by_hand(backend, kind, window, kv_heads):
    batch = BATCHES[kind]
    q, k, v = qkv(3, 16, kv_heads)
    got = attend(q, k, v, pattern_of(backend, batch, window))
    expected = by_hand(q, k, v, batch.document_ids, window)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("kind", BATCHES)
def test_sdpa_gradients_equal_the_reference(kind, window):
    gradients = []
    for backend in ("sdpa", "reference"):
        inputs = qkv(3, 16, 2)
        out = attend(*inputs, pattern_of(backend, BATCHES[kind], window))
        torch.manual_seed(0)
        (out * torch.randn(out.shape)).sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_new_queries_see_all_earlier_keys(backend):
    """Without a mask the queries are the last of the keys, as with a cache."""
    q, k, v = qkv(2, 12, 2)
    batch = Batch.from_rows(torch.zeros(2, 12, dtype=torch.long))
    pattern = pattern_of(backend, batch, 0)
    whole = attend(q, k, v, pattern)
    for new in (1, 3):
        torch.testing.assert_close(attend(q[:, -new:], k, v, pattern), whole[:, -new:])


def test_rows_of_one_document_need_no_mask():
    rows, packed = BATCHES["rows"], BATCHES["packed"]
    assert pattern_of("sdpa", rows, 0).mask is None
    assert pattern_of("sdpa", rows, 16).mask is None
    assert pattern_of("sdpa", rows, 4).mask.shape == (1, 1, 16, 16)
    assert pattern_of("sdpa", packed, 0).mask.shape == (3, 1, 16, 16)


@pytest.mark.covers("KRN-09: flash attention 2", "MOD-08: works with flash attention")
@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [0, 1, 5, 50])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_variable_length_kernel_equals_the_reference(dtype, kind, window, kv_heads):
    batch = BATCHES[kind].to("cuda")
    pattern = pattern_of("varlen", batch, window, dtype)
    packed_or_windowed = kind == "packed" or 0 < window < 16
    assert pattern.backend == ("varlen" if packed_or_windowed else "sdpa")
    results = []
    for kind_of_pattern in (pattern, pattern_of("reference", batch, window, dtype)):
        inputs = qkv(3, 16, kv_heads, "cuda", dtype, width=64)
        out = attend(*inputs, kind_of_pattern)
        torch.manual_seed(0)
        (out * torch.randn(out.shape).to(out)).sum().backward()
        results.append([out, *(x.grad for x in inputs)])
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-2)


@pytest.mark.covers("MOD-09: flash attention 2, flash attention 3")
@pytest.mark.gpu
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kind", BATCHES)
def test_flash3_equals_flash2_and_the_reference(kind, window, kv_heads):
    if torch.cuda.get_device_capability()[0] != 9 or not flash3.found()[0]:
        pytest.skip(f"needs Hopper and flash-attn-3: {flash3.found()[1]}")
    batch, results = BATCHES[kind].to("cuda"), {}
    for backend in ("flash3", "varlen", "reference"):
        flash3.use(backend == "flash3")
        family = "varlen" if backend == "flash3" else backend
        inputs = qkv(3, 16, kv_heads, "cuda", torch.bfloat16, width=64)
        out = attend(*inputs, pattern_of(family, batch, window, torch.bfloat16))
        torch.manual_seed(0)
        (out * torch.randn(out.shape).to(out)).sum().backward()
        results[backend] = [out, *(x.grad for x in inputs)]
    flash3.use(False)
    for backend in ("flash3", "varlen"):
        torch.testing.assert_close(
            results[backend], results["reference"], rtol=2e-2, atol=2e-2
        )


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_long_rows_take_their_heads_in_groups(
    keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values and gradients, with a fraction of the heads at a time."""
    shapes = ((2, 4, 33, 16), (2, keys, 33, 16), (2, keys, 33, 16))
    whole = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    upstream = torch.randn(shapes[0], dtype=torch.float64)
    wanted = fused._causal(*whole)
    expected = torch.autograd.grad(wanted, whole, upstream)
    assert fused.groups_of_heads(whole[0].numel(), keys) == 1
    # A third of the bytes: the next number of groups that divides the heads of keys.
    monkeypatch.setattr(fused, "AT_ONCE", whole[0].numel() * fused.WORKSPACE // 3 + 1)
    assert fused.groups_of_heads(whole[0].numel(), keys) == {1: 1, 2: 2, 4: 4}[keys]
    found = fused._causal(*whole)
    torch.testing.assert_close(found, wanted)
    got = torch.autograd.grad(found, whole, upstream)
    torch.testing.assert_close(got, expected)


def test_the_plan_knows_the_workspace_of_attention() -> None:
    assert activations.SUMS == fused.WORKSPACE
    assert activations.SUMS_AT_ONCE == fused.AT_ONCE
