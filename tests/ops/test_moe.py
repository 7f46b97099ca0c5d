"""Fast expert paths against the plain loop over experts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.ops.moe import capacity, grouped, products, reference


def make_case(tokens, experts, top_k, *, d=16, m=24, seed=0, dtype=torch.float32):
    """Random tokens, weights, choices and scores; leaves that take gradients."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, d, generator=g).to(dtype)
    gate_up = (torch.randn(experts, 2 * m, d, generator=g) / math.sqrt(d)).to(dtype)
    down = (torch.randn(experts, d, m, generator=g) / math.sqrt(m)).to(dtype)
    ids = torch.rand(tokens, experts, generator=g).topk(top_k, dim=-1).indices
    scores = torch.rand(tokens, top_k, generator=g)
    leaves = [t.requires_grad_() for t in (x, gate_up, down, scores)]
    return (*leaves[:3], ids, leaves[3])


def run(function, x, gate_up, down, ids, scores, *rest):
    """Output and the gradients of a random projection of it."""
    y = function(x, gate_up, down, ids, scores, *rest)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(
        (y.float() * weight).sum(), (x, gate_up, down, scores), allow_unused=True
    )
    return y, [torch.zeros(()) if g is None else g for g in grads]


def assert_same(fast, slow, rtol=1e-5, atol=1e-5):
    """Values and gradients agree; the slope catches a gradient scaled as a whole."""
    torch.testing.assert_close(fast[0], slow[0], rtol=rtol, atol=atol)
    for a, b in zip(fast[1], slow[1], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol * max(1, b.abs().max()))
        if b.float().norm() > 0:
            a64, b64 = a.double(), b.double()
            slope = (a64 * b64).sum() / (b64 * b64).sum()
            assert abs(slope - 1) < max(rtol, 1e-4)


@settings(max_examples=25)
@given(
    tokens=st.integers(1, 40),
    experts=st.integers(1, 9),
    top_k=st.integers(1, 9),
    seed=st.integers(0, 10**6),
)
def test_grouped_equals_loop(tokens, experts, top_k, seed):
    case = make_case(tokens, experts, min(top_k, experts), seed=seed)
    assert_same(
        run(grouped.routed_experts, *case), run(reference.routed_experts, *case)
    )


def test_grouped_equals_loop_when_one_expert_takes_everything():
    x, gate_up, down, _, scores = make_case(32, 8, 2)
    ids = torch.tensor([[5, 2]]).expand(32, 2)
    case = (x, gate_up, down, ids, scores)
    fast = run(grouped.routed_experts, *case)
    assert_same(fast, run(reference.routed_experts, *case))
    idle = [e for e in range(8) if e not in (2, 5)]
    assert fast[1][1][idle].abs().max() == 0, "idle experts receive no gradient"
    assert fast[1][1][[2, 5]].abs().amax(dim=(1, 2)).min() > 0


def test_grouped_equals_loop_in_bfloat16():
    case = make_case(64, 8, 2, dtype=torch.bfloat16)
    fast = run(grouped.routed_experts, *case)
    assert fast[0].dtype == torch.bfloat16 and fast[1][3].dtype == torch.float32
    assert_same(fast, run(reference.routed_experts, *case), rtol=2e-2, atol=2e-2)


def test_one_expert_of_weight_one_is_a_dense_swiglu():
    x, gate_up, down, ids, _ = make_case(20, 1, 1)
    y = grouped.routed_experts(x, gate_up, down, ids, torch.ones(20, 1))
    gate, up = F.linear(x, gate_up[0]).chunk(2, dim=-1)
    torch.testing.assert_close(y, F.linear(F.silu(gate) * up, down[0]))


def test_kernel_path_equals_loop_and_compiles_whole(monkeypatch):
    """One graph: nothing reads a group size on the host."""
    monkeypatch.setattr(products, "kernel_applies", lambda x, w: True)
    x, gate_up, down, ids, scores = make_case(48, 8, 2, dtype=torch.bfloat16)
    ids = torch.where(ids == 3, 4, ids)  # expert 3 stays empty
    ids[:, 1] = torch.where(ids[:, 1] == ids[:, 0], 0, ids[:, 1])
    ids[:, 0] = torch.where(ids[:, 0] == ids[:, 1], 7, ids[:, 0])
    case = (x, gate_up, down, ids, scores)
    slow = run(reference.routed_experts, *case)
    assert_same(run(grouped.routed_experts, *case), slow, rtol=2e-2, atol=2e-2)
    whole = torch.compile(
        grouped.routed_experts, backend="aot_eager", fullgraph=True, dynamic=False
    )
    assert_same(run(whole, *case), slow, rtol=2e-2, atol=2e-2)


def keep_from(place_tk, experts, places):
    return place_tk < experts * places


@settings(max_examples=25)
@given(
    rows=st.integers(1, 4),
    length=st.integers(1, 12),
    experts=st.integers(1, 6),
    top_k=st.integers(1, 6),
    factor=st.sampled_from([0.1, 0.5, 1.0, 1.25, 8.0]),
    seed=st.integers(0, 10**6),
)
def test_capacity_equals_loop_over_kept(rows, length, experts, top_k, factor, seed):
    top_k, tokens = min(top_k, experts), rows * length
    x, gate_up, down, ids, scores = make_case(tokens, experts, top_k, seed=seed)
    places = capacity.expert_capacity(tokens, top_k, experts, factor)
    place_tk = capacity.assign_places(
        ids.view(rows, length, top_k), None, experts, places
    )
    keep = keep_from(place_tk, experts, places)
    used = place_tk[keep]
    assert used.unique().numel() == used.numel(), "no two assignments share a place"
    assert (used // places == ids[keep]).all(), "a place belongs to the chosen expert"
    counts = ids.flatten().bincount(minlength=experts)
    assert keep.sum() == counts.clamp(max=places).sum(), "a free place is never refused"
    fast = run(
        lambda *a: capacity.routed_experts(a[0], a[1], a[2], place_tk, a[4], places),
        x, gate_up, down, ids, scores,
    )  # fmt: skip
    slow = run(reference.routed_experts, x, gate_up, down, ids, scores, keep)
    assert_same(fast, slow)


def test_capacity_prefers_earlier_positions_then_first_choices():
    # Two rows of two tokens; everyone wants expert 0, with either choice.
    ids = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [0, 1]]])
    place = capacity.assign_places(ids, None, 2, 3).view(2, 2, 2)
    kept_for_0 = (place < 3).nonzero().tolist()
    # Position 0: row 1's first choice, then row 0's second; position 1: row 0.
    assert kept_for_0 == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert place[1, 0, 0] == 0 and place[0, 0, 1] == 1 and place[0, 1, 0] == 2
    assert place[1, 1, 0] == 6, "the last comer finds no place"


def test_capacity_gives_padding_no_place():
    ids = torch.zeros(1, 6, 1, dtype=torch.long)
    valid = torch.tensor([[True, False, True, False, True, True]])
    place = capacity.assign_places(ids, valid, 2, 3).flatten()
    assert place.tolist() == [0, 6, 1, 6, 2, 6]


@pytest.mark.covers("MOD-18: capacity computed from batch and sequence length")
def test_expert_capacity_is_the_stated_ceiling():
    assert capacity.expert_capacity(100, 2, 8, 1.25) == 32
    assert capacity.expert_capacity(100, 1, 1, 1.1) == 100, "never more than tokens"
    assert capacity.expert_capacity(1000, 1, 10, 1.1) == 110
    assert capacity.expert_capacity(1, 1, 64, 1.0) == 1


def test_capacity_compiles_whole():
    x, gate_up, down, ids, scores = make_case(32, 4, 2)

    def whole(x, gate_up, down, ids, scores):
        place = capacity.assign_places(ids.view(4, 8, 2), None, 4, 10)
        return capacity.routed_experts(x, gate_up, down, place, scores, 10)

    compiled = torch.compile(whole, backend="aot_eager", fullgraph=True, dynamic=False)
    case = (x, gate_up, down, ids, scores)
    assert_same(run(compiled, *case), run(whole, *case))


@pytest.mark.gpu
@pytest.mark.parametrize("skew", [False, True])
def test_kernel_on_gpu_equals_loop(skew):
    """Empty groups included, which the weight gradient must leave at zero."""
    x, gate_up, down, ids, scores = make_case(512, 16, 2, d=128, m=256)
    if skew:
        ids = torch.tensor([[5, 2]]).repeat(512, 1)
    case = [t.detach().cuda() for t in (x, gate_up, down, ids, scores)]
    fast_case = [t.bfloat16() if i < 3 else t for i, t in enumerate(case)]
    slow_case = [t.float() if i < 3 else t for i, t in enumerate(fast_case)]
    for c in (fast_case, slow_case):
        for i in (0, 1, 2, 4):
            c[i].requires_grad_()
    assert products.kernel_applies(fast_case[0], fast_case[1])
    weight = torch.randn(512, 128, device="cuda")
    results = []
    for function, c in (
        (grouped.routed_experts, fast_case),
        (reference.routed_experts, slow_case),
    ):
        torch.cuda.set_sync_debug_mode("error" if c is fast_case else "default")
        y = function(*c)
        grads = torch.autograd.grad(
            (y.float() * weight).sum(), (c[0], c[1], c[2], c[4])
        )
        torch.cuda.set_sync_debug_mode("default")
        results.append((y.float(), [g.float() for g in grads]))
    assert_same(results[0], results[1], rtol=5e-2, atol=5e-2)
