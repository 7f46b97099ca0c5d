"""Kernels of SwiGLU and norms against PyTorch's, with gradients. Needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.ops.norm.fused import rms_norm
from lumina.ops.norms_together import operators
from lumina.ops.swiglu import reference

pytestmark = pytest.mark.gpu

NEAR = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    there = torch.Generator("cuda").manual_seed(seed)
    value = torch.randn(shape, device="cuda", generator=there)
    return value.to(dtype).requires_grad_()


def near(found: Any, exact: Any, dtype: torch.dtype, terms: float = 0.0) -> None:
    """`terms`: the norm of what is subtracted, where hardly anything remains."""
    for one, two in zip(found, exact, strict=True):
        assert one.dtype == two.dtype
        error = (one.double() - two.double()).norm() / (two.double().norm() + terms)
        assert error < NEAR[dtype], float(error)


@pytest.mark.covers("KRN-13", "KRN-14: numerical validation against autograd")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", [(2, 64, 8192), (3, 7, 1000), (1, 1, 2)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype, fused: bool) -> None:
    x = drawn(*shape, seed=0, dtype=dtype)
    y, exact = operators.swiglu(x, fused), reference.swiglu(x)
    given = drawn(*y.shape, seed=1, dtype=dtype).detach()
    near([y], [exact], dtype)
    found, wanted = (torch.autograd.grad(one, x, given) for one in (y, exact))
    near(found, wanted, dtype)


@pytest.mark.covers("KRN-13", "KRN-14: numerical validation against autograd")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", [(2, 300, 2048), (3, 7, 100), (1, 1, 1)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype, fused: bool) -> None:
    """The gradient of the scales is not rounded on the way, so it is nearer."""
    x = drawn(*shape, seed=0, dtype=dtype)
    weight = drawn(shape[-1], seed=1, dtype=torch.float32)
    y, exact = operators.rms_norm(x, weight, 1e-5, fused), rms_norm(x, weight, 1e-5)
    near([y], [exact], dtype)
    given = drawn(*shape, seed=2, dtype=dtype).detach()
    found, wanted = (torch.autograd.grad(one, (x, weight), given) for one in (y, exact))
    # A row of one number is 1 or -1 whatever the number is: its gradient is nearly 0.
    near(found, wanted, dtype, float(given.norm()) if shape[-1] == 1 else 0.0)


@pytest.mark.covers("KRN-13", "KRN-14: numerical validation against autograd")
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("width", [64, 96, 128])
def test_norms_of_queries_and_keys(width: int, dtype: torch.dtype) -> None:
    """Views of one matrix, as attention has them."""
    qkv = drawn(2, 200, 10, width, seed=0, dtype=dtype)
    weights = [drawn(width, seed=n, dtype=torch.float32) for n in (1, 2)]
    q, k, _ = qkv.split((6, 2, 2), dim=2)
    outs = operators.rms_norms((q, k), tuple(weights), 1e-6)
    exact = [rms_norm(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True)]
    near(outs, exact, dtype)
    given = [drawn(*one.shape, seed=5, dtype=dtype).detach() for one in outs]
    tensors = (qkv, *weights)
    found, wanted = (
        torch.autograd.grad(list(one), tensors, given) for one in (outs, exact)
    )
    near(found, wanted, dtype)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_run_learns_the_same(compiled: bool, tmp_path: Path) -> None:
    from tiny_runs import Runs

    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(tmp_path, patch)
        options: dict[str, Any] = {
            "device": "cuda", "precision": "bf16", "compile": compiled, "steps": 12,
            "qk_norm": "rms", "hidden_size": 64, "intermediate_size": 128,
        }  # fmt: skip
        plain = runs.train(**options).column("loss")
        found = runs.train(triton_kernels=True, **options).column("loss")
    assert found == pytest.approx(plain, rel=0.02) and found != plain


@pytest.mark.parametrize(
    "tile", [{}, {"queries": 64, "keys": 64, "warps": 4, "stages": 3}]
)
def test_any_tile_finds_the_largest_scores(tile: dict[str, int]) -> None:
    from lumina.ops.largest_scores import fused, tiles

    q = drawn(2, 300, 4, 64, seed=0, dtype=torch.bfloat16).detach()
    k = drawn(2, 300, 2, 64, seed=1, dtype=torch.bfloat16).detach()
    tiles.use(tile)
    try:
        found = torch.full((4,), -torch.inf, device="cuda")
        fused.note_largest_(q, k, None, 0, True, found)
    finally:
        tiles.use({})
    scores = torch.einsum("bshd,bthd->bhst", q.float(),
                          k.float().repeat_interleave(2, dim=2)) / 8  # fmt: skip
    hidden = torch.ones(300, 300, dtype=torch.bool, device="cuda").triu(1)
    exact = scores.masked_fill(hidden, -torch.inf).amax(dim=(0, 2, 3))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
