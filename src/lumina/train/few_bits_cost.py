"""What a base in few bits costs on held-out data, beside the base in its files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.data.kind import Data
from lumina.errors import LuminaError
from lumina.heartbeat import beat
from lumina.measure.divergence import divergence_sums
from lumina.model.adapters.attach import adapted_layers
from lumina.model.stored import as_in_files
from lumina.train.held_out import held_out_batches


@dataclass(frozen=True)
class FewBitsCost:
    """Two bases on the same held-out tokens, both without adapters.

    Attributes:
        divergence: mean of KL(base in its files || base in few bits), in nats a token.
        perplexity_before: of the base in its files.
        perplexity: of the base in few bits.
        tokens: that bear loss.
        codec: that holds the base.
    """

    divergence: float
    perplexity_before: float
    perplexity: float
    tokens: int
    codec: str

    @property
    def figures(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.codec} on {self.tokens:,} held-out tokens: its scores are "
            f"{self.divergence:.4g} nats (KL) from those of the weights in the files, "
            f"perplexity {self.perplexity:,.5g} instead of "
            f"{self.perplexity_before:,.5g}"
        )


@torch.no_grad()
def cost_of_few_bits(
    program: Program, data: Data, read: Callable[[str], Tensor], most: int
) -> FewBitsCost:
    """Compare the base in few bits with the base in its files.

    The files are read once for each batch, matrix by matrix, so that memory needs the
    largest matrix beside what is there.

    Args:
        program: holds its base in few bits.
        data: holds something out.
        read: logical name -> the tensor as it is in files.
        most: batches of each rank.

    Raises:
        LuminaError: E105 where no held-out row has a label.
    """
    network, model = program.network, program.model
    sums = torch.zeros(4, dtype=torch.float64, device=program.device)
    adapters: list[Any] = [layer.adapters for _, layer in adapted_layers(network)]
    factors = [one.weights for one in adapters]
    scores = partial(network.objective.logits, tied=network.output_matrix)
    training = model.training
    model.eval()
    for one in adapters:
        one.weights = dict.fromkeys(one.weights, 0.0)
    try:
        with torch.compiler.set_stance("force_eager"):
            for batch in islice(held_out_batches(data, program), most):
                beat("evaluating")
                moved = batch.to(program.device)
                few = network.backbone(moved, None).hidden
                with as_in_files(program.stored.values(), read):
                    exact = network.backbone(moved, None).hidden
                sums += divergence_sums(
                    exact, few, moved, scores, program.plan.spec.vocab_size
                )
    finally:
        for one, weights in zip(adapters, factors, strict=True):
            one.weights = weights
        model.train(training)
        program.way.after_evaluation()
    program.mesh.tokens.sum_(sums)
    apart, before, after, tokens = sums.tolist()
    if not tokens:
        raise LuminaError(
            "E105",
            "none of the held-out rows has a label to compare two bases on",
            "hold out other data, or leave out --quantization-eval-batches",
        )
    return FewBitsCost(
        divergence=apart / tokens,
        perplexity_before=math.exp(before / tokens),
        perplexity=math.exp(after / tokens),
        tokens=round(tokens),
        codec=program.plan.base_storage,
    )
