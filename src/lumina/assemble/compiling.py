"""Every block compiled by itself: alike ones share their graphs.

A block that sees several lengths (passes of a recursion, capacities of a ladder) gets a
graph for each. Left to itself the compiler makes lengths symbolic when it meets the
second one, which cuts the graph at attention, and stops compiling after a few graphs.
"""

from __future__ import annotations

import torch
from torch import nn

from lumina.model.spec import ModelSpec

GRAPHS_OF_A_LENGTH = 16
"""Training or evaluation, with gradients or not, rows packed or not, and to spare."""


def compile_blocks(blocks: nn.ModuleList, spec: ModelSpec) -> None:
    """Compile the blocks of a backbone in place."""
    passes = spec.mor.recursions if spec.mor is not None else 1
    ladder = len(spec.mod.ladder) if spec.mod is not None else 1
    settings = torch._dynamo.config
    most = GRAPHS_OF_A_LENGTH * passes * ladder
    settings.recompile_limit = max(settings.recompile_limit, most)
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 8 * most
    )
    for block in blocks:
        if passes > 1:
            block.compile(dynamic=False)
        else:
            block.compile()
