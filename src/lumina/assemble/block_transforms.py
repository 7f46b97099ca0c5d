"""What changes the blocks of a backbone before they are compiled.

Each transform changes a block's `forward` in place and leaves the names of its
parameters as they are. They are applied from the inside out: the first one is nearest
to the block.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lumina.assemble.checkpointing import checkpoint_blocks
from lumina.plan.plan import Plan


def _recompute(blocks: nn.ModuleList, plan: Plan) -> None:
    checkpoint_blocks(blocks, plan.gradient_checkpointing)


BLOCK_TRANSFORMS: tuple[Callable[[nn.ModuleList, Plan], None], ...] = (_recompute,)
"""Every transform, in the order of application; each reads in the Plan what it does."""


def transform_blocks(blocks: nn.ModuleList, plan: Plan) -> None:
    """Apply what the Plan asks for."""
    for transform in BLOCK_TRANSFORMS:
        transform(blocks, plan)
