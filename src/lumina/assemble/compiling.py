"""Every block compiled by itself: alike ones share their graphs.

A block that sees several lengths (passes of a recursion, capacities of a ladder) gets a
graph for each. Left to itself the compiler makes lengths symbolic when it meets the
second one, which cuts the graph at attention, and stops compiling after a few graphs.
"""

from __future__ import annotations

from typing import Any

import torch

from lumina.model.spec import ModelSpec

GRAPHS_OF_A_LENGTH = 16
"""Training or evaluation, with gradients or not, rows packed or not, and to spare."""


def compile_blocks(backbone: Any, spec: ModelSpec) -> None:
    """Compile the blocks of a backbone in place, and what a recursion does between."""
    passes = spec.mor.recursions if spec.mor is not None else 1
    ladder = len(spec.mod.ladder) if spec.mod is not None else 1
    settings = torch._dynamo.config
    most = GRAPHS_OF_A_LENGTH * passes * ladder
    settings.recompile_limit = max(settings.recompile_limit, most)
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 8 * most
    )
    if passes == 1:
        for block in backbone.blocks:
            block.compile()
        return
    for module in (*backbone.blocks, *backbone.recursion.steps):
        module.compile(dynamic=False)
