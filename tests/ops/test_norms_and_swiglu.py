"""SwiGLU and norms as operators of their own: with autograd as the judge."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.ops.norm.reference import rms_norm as plain_norm
from lumina.ops.norms_together import operators
from lumina.ops.swiglu import reference

KERNELS = Path(__file__).parents[1] / "kernels_interpreted.py"


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).requires_grad_()


def gradients(outs: Any, given: list[torch.Tensor], *of: torch.Tensor) -> list[Any]:
    return list(torch.autograd.grad(outs, of, given))


@pytest.mark.covers("KRN-14: numerical validation against autograd")
@pytest.mark.parametrize("fused", [True, False])
def test_swiglu_and_its_gradient(fused: bool) -> None:
    x = normal(3, 5, 14, seed=0)
    given = [normal(3, 5, 7, seed=1).detach()]
    y, exact = operators.swiglu(x, fused), reference.swiglu(x)
    torch.testing.assert_close(y, exact)
    found, wanted = gradients(y, given, x), gradients(exact, given, x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.covers("KRN-14: numerical validation against autograd")
@pytest.mark.parametrize("fused", [True, False])
def test_norms_of_queries_and_keys_together(fused: bool) -> None:
    q, k = normal(2, 5, 4, 12, seed=0), normal(2, 5, 2, 12, seed=1)
    of_q, of_k = normal(12, seed=2), normal(12, seed=3)
    given = [normal(*q.shape, seed=4).detach(), normal(*k.shape, seed=5).detach()]
    outs = operators.rms_norms((q, k), (of_q, of_k), 1e-5, fused)
    exact = (plain_norm(q, of_q, 1e-5), plain_norm(k, of_k, 1e-5))
    for one, other in zip(outs, exact, strict=True):
        torch.testing.assert_close(one, other)
    tensors = (q, k, of_q, of_k)
    found = gradients(outs, given, *tensors)
    torch.testing.assert_close(found, gradients(exact, given, *tensors))


def test_operators_are_sound_under_the_compiler() -> None:
    """Shapes without memory agree, and the graph has no break."""
    x, weight = normal(6, 14, seed=0), normal(7, seed=1)

    def through(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return operators.rms_norm(operators.swiglu(x), weight, 1e-5).sum()

    compiled = torch.compile(through, backend="aot_eager", fullgraph=True)
    one = torch.autograd.grad(through(x, weight), (x, weight))
    two = torch.autograd.grad(compiled(x, weight), (x, weight))
    torch.testing.assert_close(one, two)


@pytest.mark.covers("KRN-13")
@pytest.mark.thorough
@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
def test_the_kernels_are_the_reference_under_tritons_interpreter() -> None:
    """In a process of its own, since Triton asks its environment when it is loaded."""
    done = subprocess.run(
        [sys.executable, str(KERNELS)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"TRITON_INTERPRET": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all alike" in done.stdout
