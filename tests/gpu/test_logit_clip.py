"""The largest attention scores, as kernels on a GPU see them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import causal_mask, document_mask
from lumina.ops.largest_scores.note import note_largest

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("window", [0, 100])
def test_packed_documents_in_bfloat16(window: int) -> None:
    lengths = [300, 212, 512, 1, 511]
    starts = torch.tensor([0, 300, 512, 1024, 1025, 1536], dtype=torch.int32).cuda()
    ids = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]).view(3, 512)
    q, k = (torch.randn(3, 512, n, 64).cuda().bfloat16() for n in (8, 2))
    scores = torch.einsum(
        "bshd,bthd->bhst", q.float(), k.float().repeat_interleave(4, 2)
    )
    mask = document_mask(ids.cuda(), window)
    scores = (scores / math.sqrt(64)).masked_fill(~mask, -math.inf)
    found = torch.full((8,), -math.inf, device="cuda")
    note_largest(q, k, Pattern("varlen", None, starts, 512, window), found)
    torch.testing.assert_close(found, scores.amax((0, 2, 3)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("width", [16, 80, 128, 256])
@pytest.mark.parametrize(
    ("queries", "window", "causal"),
    [(700, 0, True), (700, 65, True), (700, 0, False), (130, 0, True)],
)
def test_every_width_of_head(
    width: int, queries: int, window: int, causal: bool
) -> None:
    keys = 700
    q = torch.randn(2, queries, 6, width, device="cuda").half()
    k = torch.randn(2, keys, 3, width, device="cuda").half()
    scores = torch.einsum(
        "bshd,bthd->bhst", q.float(), k.float().repeat_interleave(2, 2)
    )
    mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device="cuda")
    if causal:
        mask = causal_mask(queries, keys, window, "cuda")
    scores = (scores / math.sqrt(width)).masked_fill(~mask, -math.inf)
    found = torch.full((6,), -math.inf, device="cuda")
    found[2] = 1000.0
    note_largest(q, k, Pattern("sdpa", window=window, causal=causal), found)
    expected = scores.amax((0, 2, 3))
    expected[2] = 1000.0
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


class Layer(nn.Module):
    """Queries and keys whose scores are noted in a block that is recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(64, 64), nn.Linear(64, 64)
        self.largest: torch.Tensor | None = None

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.q(x).unflatten(-1, (4, 16)), self.k(x).unflatten(-1, (4, 16))
        assert self.largest is not None
        note_largest(q, k, Pattern("sdpa"), self.largest)
        return torch.sin(q * k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_compiled_and_recomputed_it_is_noted_without_waiting() -> None:
    layer = Layer().cuda()
    x = torch.randn(2, 128, 64, device="cuda", requires_grad=True)
    found = []
    for compiled in (False, True):
        layer.largest = torch.full((4,), -math.inf, device="cuda")
        if compiled:
            layer.compile()
            layer(x).sum().backward()
            layer.largest.fill_(-math.inf)
        torch.cuda.set_sync_debug_mode("error")
        try:
            layer(x).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append(layer.largest)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
