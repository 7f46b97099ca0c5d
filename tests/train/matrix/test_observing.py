"""What is seen of a run from inside its process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lumina.train.matrix.observing import PASSES_AT, Observer, _StepLook


class Block(nn.Module):
    """All that it computes is in one module, as a block of one's own may have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inside(x)
        return found


def passes_of(recomputed: bool) -> int:
    """How often the module of two blocks is seen to run in one step."""
    blocks = nn.ModuleList(Block() for _ in range(2))
    network: Any = SimpleNamespace(backbone=SimpleNamespace(blocks=blocks))
    program: Any = SimpleNamespace(network=network, plan=SimpleNamespace(compile=False))
    observer = Observer()
    batches: Any = None
    look = _StepLook(observer, program, batches, PASSES_AT)
    x = torch.randn(3, 4)
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
    x.sum().backward()
    look.close()
    blocks[0](x)  # after the step nothing is counted
    return observer.passes["inside"]


def test_a_module_that_is_computed_again_in_part_is_seen_to_run_again() -> None:
    """torch leaves a module in its middle once it has all that the gradient needs."""
    assert passes_of(recomputed=False) == 2
    assert passes_of(recomputed=True) == 4
