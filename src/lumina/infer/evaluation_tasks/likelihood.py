"""How likely a model finds given tokens after others, for many rows side by side.

As `loglikelihood` of lm-evaluation-harness (Gao et al., 2024,
doi:10.5281/zenodo.12608602): the sum of the log-probabilities of a continuation's
tokens, in nats, after all that stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lumina.batch import IGNORE, Batch
from lumina.model.host_table import device_of
from lumina.model.network import Network

BATCH_TOKENS = 16_384
"""Positions of a forward pass, padding included, where no number of rows is given."""

_LOGITS_BYTES = 2**26


class Request(NamedTuple):
    """A continuation to be scored.

    Attributes:
        context: ids before it, at least one.
        continuation: its own ids, at least one.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """What the model reads: the last token is predicted, not read."""
        return self.context + self.continuation[:-1]


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    Attributes:
        log_probability: the sum over its tokens, in nats.
        tokens: of the continuation.
        greedy: each of them is the likeliest one at its place.
    """

    log_probability: float
    tokens: int
    greedy: bool


@torch.no_grad()
def likelihoods(
    network: Network,
    requests: Sequence[Request],
    *,
    rows: int | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> list[Likelihood]:
    """Score continuations; a result does not depend on what else is asked.

    Requests that differ in their last token alone, as the letters of multiple choice
    do, share a row.

    Args:
        network: in evaluation mode.
        requests: what to score; each `Request.row` fits the model.
        rows: side by side; None: as many as `BATCH_TOKENS` allows.
        on_rows: called before every batch with the rows done, and the rows in all.

    Returns:
        One for each request, in their order.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        asked.setdefault(request.row, []).append(number)
    found: dict[int, Likelihood] = {}
    order = sorted(asked, key=len, reverse=True)  # little padding; the largest first
    done = 0
    while done < len(order):
        if on_rows is not None:
            on_rows(done, len(order))
        size = rows or max(BATCH_TOKENS // len(order[done]), 1)
        part = order[done : done + size]
        hidden = network.backbone(padded(part).to(device_of(network))).hidden
        for place, row in enumerate(part):
            _score(network, hidden[place], row, requests, asked[row], found)
        done += len(part)
    return [found[number] for number in range(len(requests))]


def _score(
    network: Network,
    hidden: Tensor,
    row: tuple[int, ...],
    requests: Sequence[Request],
    numbers: Sequence[int],
    found: dict[int, Likelihood],
) -> None:
    """Enter the scores of the requests that share a row; `hidden` is [S, D]."""
    longest = max(len(requests[number].continuation) for number in numbers)
    begin = len(row) - longest  # the place before the first token of the longest
    places = hidden[begin : len(row)]
    wanted = [
        torch.tensor(requests[number].continuation, device=hidden.device)
        for number in numbers
    ]
    totals = torch.zeros(len(numbers), dtype=torch.float64)
    greedy = [True] * len(numbers)
    size = max(1, _LOGITS_BYTES // (4 * network.spec.padded_vocab_size))
    for first in range(0, longest, size):
        part = places[first : first + size]
        logs = network._logits(part[None], None)[0].float().log_softmax(-1)
        likeliest = logs.argmax(-1)
        for at, ids in enumerate(wanted):
            skipped = longest - len(ids)  # this one begins later in the row
            low, high = max(first - skipped, 0), first + len(part) - skipped
            if high <= low:
                continue
            mine = ids[low:high]
            here = slice(low + skipped - first, high + skipped - first)
            picked = logs[here].gather(1, mine[:, None])
            totals[at] += picked.double().sum().cpu()
            greedy[at] &= bool((likeliest[here] == mine).all())
    for at, number in enumerate(numbers):
        found[number] = Likelihood(float(totals[at]), len(wanted[at]), greedy[at])


def padded(rows: Sequence[Sequence[int]]) -> Batch:
    """Rows of ids, each one document, with padding behind the shorter ones."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    if all(len(row) == width for row in rows):
        ids[:] = torch.tensor(rows)
        return Batch.from_rows(ids)
    documents = torch.full_like(ids, -1)
    places = torch.arange(width).repeat(len(rows), 1)
    edges = []
    for number, row in enumerate(rows):
        length = len(row)
        ids[number, :length] = torch.tensor(row)
        documents[number, :length] = 0
        places[number, length:] -= length  # padding is a document of its own
        edges += [number * width, number * width + length]
    edges.append(len(rows) * width)
    return Batch(
        input_ids=ids,
        labels=torch.full_like(ids, IGNORE),
        position_ids=places,
        document_ids=documents,
        cu_seqlens=torch.tensor(edges, dtype=torch.int32),
        max_seqlen=width,
    )
