"""The rows that few bits are chosen on: text to learn from, never held-out text."""

from __future__ import annotations

from collections.abc import Sequence

from lumina.batch import Batch
from lumina.data.packed_stream import eval_batches
from lumina.data.prepare import fit_rows, prepare
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.state.weights import Weights

LENGTH = 2048
"""Most tokens of a row, as in the paper."""


def calibration_rows(
    weights: Weights, tokenizer: Tokenizer, paths: Sequence[str], rows: int
) -> tuple[list[Batch], str]:
    """Rows of one each, drawn once and for all from the whole text.

    Args:
        weights: the model's; a run's name the text that it learned from.
        tokenizer: of the model.
        paths: text files; () takes what the run learned from.
        rows: how many at most.

    Returns:
        The rows, and what they are of, in words.

    Raises:
        LuminaError: E105 where there is no text, E002 where none is named and the run's
            is not known; as `lumina.data.prepare` for files.
    """
    length = min(LENGTH, weights.spec.seq_length)
    store, said = _text(weights, tokenizer, paths, length)
    if not len(store):
        raise LuminaError(
            "E105", "the calibration data has no text", "name files that have some"
        )
    return list(eval_batches(store, length, 1, rows)), said


def _text(
    weights: Weights, tokenizer: Tokenizer, paths: Sequence[str], length: int
) -> tuple[TokenStore, str]:
    # Only here, since the configuration is large.
    from lumina.config import Config

    if paths:
        config = Config(train_data=list(paths), eval_fraction=0.0)
        prepared = prepare(config, tokenizer=tokenizer)
        return fit_rows(prepared, config, length).train, "the text given"
    path = weights.path.resolve().parent.parent / "config.yaml"
    if not path.is_file():
        raise LuminaError(
            "E002",
            f"{weights.path} does not say what text its model has learned from",
            "name text like it with --calibration-data",
        )
    config = Config.load(path)
    prepared = prepare(config, tokenizer=tokenizer)
    return fit_rows(prepared, config, length).train, "what the run learned from"
