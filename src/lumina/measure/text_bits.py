"""How many bits a model needs for a text: comparable between tokenizers and tools."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from lumina.batch import IGNORE, Batch
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.host_table import device_of
from lumina.model.network import Network


def text_loss(
    network: Network, tokenizer: Tokenizer, texts: Sequence[str], *, context: int
) -> float:
    """Mean loss in nats of a token of `texts`; arguments as for `text_bits`.

    Raises:
        LuminaError: E105 where no token is predicted.
    """
    tokens = sum(max(len(tokenizer.prompt(text)) - 1, 0) for text in texts)
    if not tokens:
        raise LuminaError(
            "E105", "the texts have no token to predict", "name longer texts"
        )
    bits = text_bits(network, tokenizer, texts, context=context)
    return bits * math.log(2) / tokens


@torch.no_grad()
def text_bits(
    network: Network,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    context: int,
    batch_size: int = 16,
) -> float:
    """Bits to write `texts` down, every token predicted exactly once.

    Each text begins after the begin token and is read in windows of `context` tokens.
    Where the tokenizer has no begin token, nothing predicts a text's first token.
    A window advances by half its length, so all but a text's first tokens are
    predicted from at least half a window.

    Args:
        network: any `Network`, on the device it is to run on.
        tokenizer: the one it was trained with.
        texts: the documents.
        context: most tokens the network reads at a time.
        batch_size: windows side by side.
    """
    device = device_of(network)
    cut = [
        window
        for ids in tokenizer.encode_batch(texts)
        for window in windows([*tokenizer.begin, *ids], context, tokenizer.begin)
    ]
    cut.sort(key=lambda window: len(window[0]))  # little padding in a batch
    nats = 0.0
    for start in range(0, len(cut), batch_size):
        batch = _batch(cut[start : start + batch_size])
        losses, _ = network(batch.to(device))
        nats += losses.loss_sum.item()
    return nats / math.log(2)


Window = tuple[list[int], int]
"""Token ids, and the first place in them whose successor is to be predicted."""


def windows(ids: list[int], context: int, begin_ids: list[int]) -> Iterator[Window]:
    """Windows of at most `context + 1` ids that predict each id once.

    The first id, and what begins every text, is not predicted.
    """
    stride = max(context // 2, 1)
    predicted = max(len(begin_ids) - 1, 0)  # ids[:predicted + 1] are done
    while predicted < len(ids) - 1:
        begin = max(0, predicted + stride - context) if predicted else 0
        end = min(begin + context, len(ids) - 1)
        yield ids[begin : end + 1], predicted - begin
        predicted = end


def _batch(windows: Sequence[Window]) -> Batch:
    """Windows side by side; what is padded or predicted elsewhere does not count.

    Padding stands after a window's tokens, where causal attention does not look.
    """
    length = max(len(ids) for ids, _ in windows) - 1
    inputs = torch.zeros(len(windows), length, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORE)
    for row, (ids, first) in enumerate(windows):
        tokens = torch.tensor(ids)
        inputs[row, : len(ids) - 1] = tokens[:-1]
        labels[row, first : len(ids) - 1] = tokens[first + 1 :]
    return Batch.from_rows(inputs, labels)
