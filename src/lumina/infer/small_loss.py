"""What storing weights with 8 bits costs: in logits, and on held-out text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lumina.data.prepare import fit_rows, prepare
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.load import filled_network, find_device
from lumina.measure.held_out import OnRows, loss_of_text
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
        perplexity: before and after, per token of the whole text; None where no text
            was found.
    """

    largest: float
    mean: float
    spread: float
    measured_on: str
    perplexity: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure_small(
    weights: Weights,
    folder: Path,
    tokenizer: Tokenizer,
    eval_data: list[str],
    on_rows: OnRows | None = None,
) -> SmallLoss:
    """Compare a model with the 8-bit folder written of it, in float32.

    The perplexities are those of the whole text, as `lumina evaluate` measures them.

    Args:
        weights: the model's.
        folder: its 8-bit form.
        tokenizer: of both.
        eval_data: text files; where none is given, the data the run named.
        on_rows: called with the rows done, and the rows in all, of both models.

    Raises:
        LuminaError: E105 for data without text; as `lumina.data.prepare` for the files.
    """
    length = weights.spec.seq_length
    store, said = _held_out(weights, tokenizer, eval_data, length)
    place = find_device("auto")
    small = open_weights(folder)
    networks = [
        filled_network(one, place, torch.float32).eval() for one in (weights, small)
    ]
    small.close()
    rows = _rows(weights, store).to(place)
    with torch.no_grad():
        before, after = (network.logits(rows) for network in networks)
    difference = (before - after).abs()
    perplexity = None
    if store is not None:
        first, second = (
            loss_of_text(network, store, length, on_rows=_part(on_rows, n)).perplexity
            for n, network in enumerate(networks)
        )
        perplexity = first, second
    return SmallLoss(
        difference.max().item(),
        difference.mean().item(),
        before.std().item(),
        said,
        perplexity,
    )


def _part(on_rows: OnRows | None, number: int) -> OnRows | None:
    """Progress of one of the two models as progress of both."""
    if on_rows is None:
        return None
    return lambda done, rows: on_rows(number * rows + done, 2 * rows)


def _rows(weights: Weights, store: TokenStore | None) -> torch.Tensor:
    """[rows, length] of held-out tokens end to end, or of random ones without any."""
    length = min(LENGTH, weights.spec.seq_length)
    if store is None:
        generator = torch.Generator().manual_seed(0)
        size = (ROWS, length)
        return torch.randint(weights.spec.vocab_size, size, generator=generator)
    ids = [int(token) for token in store.tokens[: ROWS * length]]
    length = min(length, len(ids))
    rows = len(ids) // length
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _held_out(
    weights: Weights, tokenizer: Tokenizer, eval_data: list[str], length: int
) -> tuple[TokenStore | None, str]:
    """Text that was not trained on, and where it is from; None if all is gone."""
    from lumina.config import Config

    if eval_data:
        config = Config(train_data=eval_data, eval_fraction=0.0)
        prepared = prepare(config, tokenizer=tokenizer)
        store = fit_rows(prepared, config, length).train
        if not store.loss_tokens:
            raise LuminaError(
                "E105", "the evaluation data has no text", "name files that have some"
            )
        return store, "the text given"
    own = _of_run(weights, tokenizer, length)
    if own is None or not own.loss_tokens:
        return None, "random tokens, as the run's held-out text is not there"
    return own, "the run's held-out text"


def _of_run(weights: Weights, tokenizer: Tokenizer, length: int) -> TokenStore | None:
    """What the run that a checkpoint lies in held out."""
    from lumina.config import Config

    path = weights.path.resolve().parent.parent / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = Config.load(path)
        prepared = prepare(config, tokenizer=tokenizer)
        return fit_rows(prepared, config, length).eval
    except LuminaError:
        return None  # the data has moved or changed since; the caller says so
