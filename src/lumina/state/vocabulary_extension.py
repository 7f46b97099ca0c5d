"""A model with more tokens: their rows are the means of the rows of their parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.spec import ModelSpec
from lumina.state.weights import Weights

_MULTIPLE = 64
"""The rows of an embedding are padded to a multiple of this."""


@dataclass(frozen=True)
class Extended:
    """A model whose vocabulary was extended.

    Attributes:
        spec: the shape with the new tokens.
        tensors: every logical tensor of that shape.
        tokenizer: knows the new tokens.
        parts: token → the pieces whose rows were averaged.
        changed: names of the tensors that have rows for tokens.
    """

    spec: ModelSpec
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    parts: dict[str, list[str]]
    changed: list[str]


def extend_vocabulary(
    weights: Weights, tokenizer: Tokenizer, tokens: Sequence[str], *, special: bool
) -> Extended:
    """Add tokens to a tokenizer and to a model.

    Every tensor with a row for each token (the embedding, and heads that are not tied
    to it) gets a row for each new one: the mean of the rows of the tokens that spelled
    it before. The means of the rest of the row past the vocabulary stay what they were.

    Args:
        weights: the model.
        tokenizer: of that model.
        tokens: the new tokens.
        special: ordinary text never becomes them.

    Raises:
        LuminaError: E005 for tokens that cannot be added, E002 for a tokenizer of
            another model.
    """
    if tokenizer.vocab_size > weights.spec.padded_vocab_size:
        raise LuminaError(
            "E002",
            f"the tokenizer knows {tokenizer.vocab_size:,} tokens, the model "
            f"{weights.spec.vocab_size:,}",
            "the tokenizer and the weights do not belong together",
        )
    larger = tokenizer.with_tokens(tokens, special=special)
    ids = {token: tokenizer.encode_continuation(token) for token in tokens}
    rows = {larger.token_id(token): parts for token, parts in ids.items()}
    known = max(weights.spec.vocab_size, larger.vocab_size)
    padded = max(weights.spec.padded_vocab_size, -(-known // _MULTIPLE) * _MULTIPLE)
    spec = replace(weights.spec, vocab_size=known, padded_vocab_size=padded)
    info = tensor_info(weights.spec)
    tensors, changed = {}, []
    for name in weights.source.names():
        value = weights.source.tensor(name)
        axes = info[name].axes
        if "vocab" in axes:
            value = _with_rows(value, axes.index("vocab"), padded, rows)
            changed.append(name)
        tensors[name] = value
    backend = tokenizer.backend
    parts = {
        token: [str(backend.id_to_token(index)) for index in found]
        for token, found in ids.items()
    }
    return Extended(spec, tensors, larger, parts, changed)


def _with_rows(
    value: Tensor, axis: int, padded: int, rows: dict[int, list[int]]
) -> Tensor:
    """A tensor with the rows of new tokens; `axis` counts the tokens."""
    table = value.movedim(axis, 0)
    grown = table.new_zeros((padded, *table.shape[1:]))
    grown[: len(table)] = table
    for index, parts in rows.items():
        mean = table[torch.tensor(parts)].double().mean(0)
        grown[index] = mean.to(table.dtype)
    return grown.movedim(0, axis).contiguous()
