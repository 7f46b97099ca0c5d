"""Which kernel computes the attention of whole rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.ops.attention import fused
from lumina.ops.attention.reference import attention
from tiny_runs import Runs

pytestmark = pytest.mark.gpu

NEWER = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


class _Kernels(TorchDispatchMode):
    """Notes the kernels of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if "scaled_dot_product" in func.__name__:
            self.names.add(func.__name__.removesuffix(".default"))
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not NEWER, reason="needs compute capability 9.0")
@pytest.mark.parametrize("keys", [2, 8])
def test_cudnn_gives_what_the_reference_gives(keys: int) -> None:
    """Queries that share keys too; gradients within those of 16 bits."""
    fused.prefer_cudnn(True)
    shapes = ((2, 8, 320, 64), (2, keys, 320, 64), (2, keys, 320, 64))
    q, k, v = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for shape in shapes
    )
    upstream = torch.randn_like(q)
    mask = torch.ones(320, 320, dtype=torch.bool, device="cuda").tril()
    with _Kernels() as seen:
        found = fused.sdpa(q, k, v, None, causal=True)
        got = torch.autograd.grad(found, (q, k, v), upstream)
    assert seen.names == {
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_cudnn_attention_backward",
    }
    wide = [one.detach().float().requires_grad_() for one in (q, k, v)]
    wanted = attention(*wide, mask)
    expected = torch.autograd.grad(wanted, wide, upstream.float())
    for one, other in zip((found, *got), (wanted, *expected), strict=True):
        assert (one.float() - other).norm() < 0.01 * other.norm()


@pytest.mark.skipif(not NEWER, reason="needs compute capability 9.0")
def test_deterministic_algorithms_take_another_kernel() -> None:
    fused.prefer_cudnn(True)
    q = torch.randn(1, 4, 256, 64, device="cuda", dtype=torch.bfloat16)
    q.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        with _Kernels() as seen:
            fused.sdpa(q, q, q, None, causal=True).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any("cudnn" in name for name in seen.names)


def test_adapters_beside_few_bits_learn_what_they_learn_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of few bits, tiles and attention in one run."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    shape = {"device": "cuda", "seq_length": 256, "compile": False, "num_layers": 2}
    base = runs.train(**shape, steps=1)
    shape |= {"steps": 4, "init_from": str(base.folder), "use_peft": True}
    shape |= {"lora_target_modules": ("full",), "lora_dropout": 0.0}
    whole = runs.train(**shape, load_in_4bit=True)
    kept = {"gradient_checkpointing": "except_attention", "activations_in": "host"}
    found = runs.train(**shape, load_in_4bit=True, feedforward_tile=100, **kept)
    assert found.column("loss") == pytest.approx(whole.column("loss"), rel=0.01)
