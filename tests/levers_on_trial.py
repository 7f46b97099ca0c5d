"""A lever for tests, and what it may do to a run while it is on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lumina.assemble.program import Program
from lumina.features import FEATURES, Feature, register
from tiny_runs import Around

TIME_ASIDE = {
    "safe_optimizations": "watch",
    "experimental_throughput_drop_threshold": 1e-6,
}
"""For watched runs in which no step is slow enough: machines have other work."""


@contextmanager
def lever(*names: str) -> Iterator[None]:
    """Optimisations of these names, which do nothing."""
    before = dict(FEATURES)
    for name in names or ("lever",):
        register(Feature(name, "for a test", claim="exact", faster=True))
    try:
        yield
    finally:
        FEATURES.clear()
        FEATURES.update(before)


def harming(
    harm: Callable[[Program], Any], steps: Collection[int], name: str = "lever"
) -> Around:
    """Do something in some steps of a run, while its program has the lever.

    Args:
        harm: gives a handle with `remove`.
        steps: counted by the rows of the data, so that a step that is taken again is
            harmed again.
        name: of the lever.
    """

    @contextmanager
    def around(program: Program, batches: Any) -> Iterator[None]:
        step = batches.cursor["row"] // program.plan.global_batch_size
        hooks = []
        if step in steps and name in program.plan.features:
            hooks.append(harm(program))
        yield
        for hook in hooks:
            hook.remove()

    return around


def large_loss(program: Program) -> Any:
    """Scores that are far too large."""
    return program.network.backbone.norm.register_forward_hook(
        lambda module, given, out: out * 100
    )


def not_finite(program: Program) -> Any:
    """A gradient that is not finite."""
    parameter = program.optimizer.slots[0].parameter
    return parameter.register_hook(lambda gradient: gradient * torch.nan)
