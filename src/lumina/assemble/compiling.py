"""Every block compiled by itself: alike ones share their graphs.

A block that sees several lengths (passes of a recursion, capacities of a ladder) gets a
graph for each. Left to itself the compiler makes lengths symbolic when it meets the
second one, which cuts the graph at attention, and stops compiling after a few graphs.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from lumina import start_clock
from lumina.garbage import no_search
from lumina.model.kinds.table import kinds_of
from lumina.model.spec import ModelSpec

GRAPHS_OF_A_LENGTH = 16
"""Training or evaluation, with gradients or not, rows packed or not, and to spare."""


def compile_blocks(backbone: Any, spec: ModelSpec) -> None:
    """Compile the blocks of a backbone in place, and what a recursion does between."""
    load_compiler()
    settings = torch._dynamo.config
    graphs = math.prod(kind.graphs(spec) for kind in kinds_of(spec))
    most = GRAPHS_OF_A_LENGTH * graphs
    settings.recompile_limit = max(settings.recompile_limit, most)
    settings.accumulated_recompile_limit = max(
        settings.accumulated_recompile_limit, 8 * most
    )
    recursion = getattr(backbone, "recursion", None)
    if recursion is None:
        for block in backbone.blocks:
            block.compile()
        return
    for module in (*backbone.blocks, *recursion.steps):
        module.compile(dynamic=False)


def load_compiler() -> None:
    """Load torch's compiler, and start the processes that compile for a GPU.

    Otherwise its second half is loaded with the first block, and the processes, which
    load torch themselves, start only then and are waited for.
    """
    before = start_clock.part(start_clock.COMPILER)
    with no_search():
        from torch._inductor import async_compile

        # Nothing is started without Triton, nor a second time.
        start = getattr(async_compile, "maybe_warm_pool", None)
        if start is not None:
            start()
        import torch._dynamo
        import torch._inductor.compile_fx  # noqa: F401
    start_clock.part(before)
