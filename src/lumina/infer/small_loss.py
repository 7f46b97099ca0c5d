"""What storing weights with 8 bits costs: in logits, and on held-out text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.load import filled_network
from lumina.model.interface import Batch
from lumina.model.network import Network
from lumina.state.weights import Weights, open_weights

ROWS, LENGTH = 8, 128
"""Most rows and tokens that logits are compared on."""


@dataclass(frozen=True)
class SmallLoss:
    """Differences between a model and its 8-bit form.

    Attributes:
        largest: of the logits.
        mean: of the logits, absolute.
        spread: standard deviation of the model's own logits, to compare with.
        measured_on: what was read.
        perplexity: before and after, per token; None where no text was found.
    """

    largest: float
    mean: float
    spread: float
    measured_on: str
    perplexity: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@torch.no_grad()
def measure_small(
    weights: Weights, folder: Path, tokenizer: Tokenizer, eval_data: list[str]
) -> SmallLoss:
    """Compare a model with the 8-bit folder written of it, on the CPU in float32.

    Args:
        weights: the model's.
        folder: its 8-bit form.
        tokenizer: of both.
        eval_data: text files; where none is given, the data the run named.
    """
    ids, said = _held_out(weights, tokenizer, eval_data)
    place = torch.device("cpu")
    small = open_weights(folder)
    networks = [
        filled_network(one, place, torch.float32).eval() for one in (weights, small)
    ]
    small.close()
    rows = _rows(weights, ids)
    before, after = (network.logits(rows) for network in networks)
    difference = (before - after).abs()
    perplexity = None
    if ids:
        perplexity = _perplexity(networks[0], rows), _perplexity(networks[1], rows)
    return SmallLoss(
        difference.max().item(),
        difference.mean().item(),
        before.std().item(),
        said,
        perplexity,
    )


def _perplexity(network: Network, rows: torch.Tensor) -> float:
    losses, _ = network(Batch.from_rows(rows[:, :-1], rows[:, 1:]))
    return math.exp(min((losses.loss_sum / losses.weight_sum).item(), 700.0))


def _rows(weights: Weights, ids: list[int]) -> torch.Tensor:
    """[rows, length] of held-out tokens end to end, or of random ones without any."""
    length = min(LENGTH, weights.spec.seq_length)
    if not ids:
        generator = torch.Generator().manual_seed(0)
        size = (ROWS, length)
        return torch.randint(weights.spec.vocab_size, size, generator=generator)
    length = min(length, len(ids))
    rows = min(ROWS, len(ids) // length)
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _held_out(
    weights: Weights, tokenizer: Tokenizer, eval_data: list[str]
) -> tuple[list[int], str]:
    """Tokens that were not trained on, and where they are from; none if all is gone."""
    from lumina.data.documents import read_documents

    if eval_data:
        texts = (one.text for one in islice(read_documents(eval_data), 64) if one.text)
        ids = [i for text in texts for i in tokenizer.prompt(text)]
        if len(ids) < 2:
            raise LuminaError(
                "E105", "the evaluation data has no text", "name files that have some"
            )
        return ids, "the text given"
    ids = _from_run(weights, tokenizer)
    if len(ids) < 2:
        return [], "random tokens, as the run's held-out text is not there"
    return ids, "the run's held-out text"


def _from_run(weights: Weights, tokenizer: Tokenizer) -> list[int]:
    """The first held-out tokens of the run that a checkpoint lies in."""
    from lumina.config import Config
    from lumina.data.prepare import prepare

    path = weights.path.resolve().parent.parent / "config.yaml"
    if not path.is_file():
        return []
    try:
        held_out = prepare(Config.load(path), tokenizer=tokenizer).eval
    except LuminaError:
        return []  # the data has moved or changed since; the caller says so
    if held_out is None:
        return []
    return [int(token) for token in held_out.tokens[: ROWS * LENGTH]]
