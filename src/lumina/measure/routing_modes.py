"""What a model whose tokens choose their depth loses under another way of choosing.

Top-k over a row, a causal predictor and soft weights over all tokens are three
different functions of the same weights. A model is meant to be used as it was trained;
this says how far apart they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from lumina.batch import Batch
from lumina.measure.held_out import held_out_loss
from lumina.model.kinds.table import kinds_of
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.parallel.mesh import Mesh


def routing_modes(spec: ModelSpec) -> tuple[str, ...]:
    """The ways a model can be evaluated, that of `evaluation` first; none if one."""
    found = [kind.routing(spec) for kind in kinds_of(spec)]
    chosen = [routing for routing in found if routing is not None]
    if not any(routing.learned for routing in chosen):
        return ()
    modes = {routing.mode for routing in chosen}
    if len(modes) > 1:
        return ()
    return (
        ("static", "top_k") if modes == {"static"} else ("predictor", "top_k", "static")
    )


def compare_modes(
    network: Network,
    model: nn.Module,
    batches: Callable[[], Iterable[Batch]],
    *,
    device: torch.device,
    mesh: Mesh,
    sources: Sequence[str] = (),
    watched: Sequence[str] = (),
    stop: Callable[[], bool] | None = None,
    parts: int = 1,
) -> dict[str, float]:
    """Held-out loss by mode, as an evaluation counts it. Top-k looks into the future.

    Args:
        network: whose mode changes meanwhile.
        model: the same, as it is called; this and what follows as in `held_out_loss`.
        batches: gives the same batches each time.
        device: where the model is.
        mesh: the ranks that share the batches.
        sources: names of the sources of a mixture.
        watched: sources that do not count.
        stop: whether to leave.
        parts: of a batch, in forwards of their own.

    Raises:
        EvaluationStoppedError: `stop` said so on any rank.
    """
    losses = {}
    try:
        for mode in routing_modes(network.spec):
            network.backbone.routing = mode
            outcome = held_out_loss(
                model,
                batches(),
                device=device,
                mesh=mesh,
                tasks=network.tasks,
                sources=sources,
                watched=watched,
                stop=stop,
                parts=parts,
            )
            losses[mode] = outcome.loss
    finally:
        network.backbone.routing = ""
    return losses
