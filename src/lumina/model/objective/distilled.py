"""Next-token prediction that stays near what a frozen model says of base text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from lumina.batch import Batch
    from lumina.model.interface import LossSums, Output
    from lumina.model.network import Network

DIVERGENCE = "base_divergence.statistics"
"""[2]: the divergence from the frozen model, and the tokens that it was summed over."""


def distil(network: Network, plan: Any) -> None:
    """Make the objective of a network read `Batch.base_outputs` (`Feature.build`).

    The objective stays the same module, so its parameters keep their names.

    Args:
        network: its objective is that of a language model.
        plan: gives the strength and the temperature.
    """
    objective = network.objective
    plain = objective.forward

    def forward(output: Output, batch: Batch, tied: Tensor | None = None) -> LossSums:
        if batch.base_outputs is None:
            losses: LossSums = plain(output, batch, tied)
            losses.aux = losses.aux | {DIVERGENCE: losses.loss_sum.new_zeros(2)}
            return losses
        strength, temperature = plan.preservation, plan.preservation_temperature
        return _distilled(objective, output, batch, tied, strength, temperature)

    objective.forward = forward


def _distilled(
    objective: Any,
    output: Output,
    batch: Batch,
    tied: Tensor | None,
    strength: float,
    temperature: float,
) -> LossSums:
    """Sums of a batch, some of whose rows a frozen model has read too."""
    import torch

    from lumina.batch import IGNORE
    from lumina.model.interface import LossSums
    from lumina.ops.cross_entropy.distilled import Pull, distilled_cross_entropy

    assert batch.base_outputs is not None
    hidden, head = batch.base_outputs
    weights = batch.loss_weights
    labels_t = batch.labels.reshape(-1)
    weights_t = None if weights is None else weights.reshape(-1)
    sums = distilled_cross_entropy(
        output.hidden.flatten(0, 1),
        objective.matrix(tied),
        labels_t,
        weights_t,
        objective.vocab_size,
        objective.loss_chunk_bytes,
        Pull(hidden.flatten(0, 1), head, strength, temperature),
    )
    counted_t = (labels_t != IGNORE).to(torch.float32)
    if weights_t is not None:
        counted_t = counted_t * weights_t
    pulled = counted_t[: hidden.shape[0] * hidden.shape[1]].sum()
    return LossSums(
        sums.loss,
        counted_t.sum(),
        terms={
            "correct": sums.correct,
            "each": sums.loss_t.view(batch.labels.shape),
            "right": sums.correct_t.view(batch.labels.shape),
            "log_z": sums.log_z_t.view(batch.labels.shape),
        },
        trained_sum=sums.trained,
        aux={DIVERGENCE: torch.stack([sums.divergence, pulled])},
    )


def divergence_shapes(distilled: bool) -> dict[str, tuple[int, ...]]:
    """What is counted where training stays near a frozen model's scores."""
    return {DIVERGENCE: (2,)} if distilled else {}


def divergence_metrics(counted: Mapping[str, Tensor]) -> dict[str, Any]:
    """The mean divergence of the tokens of base text; None in a step without any."""
    if DIVERGENCE not in counted:
        return {}
    divergence, tokens = counted[DIVERGENCE].tolist()
    return {"base_divergence": divergence / tokens if tokens else None}
