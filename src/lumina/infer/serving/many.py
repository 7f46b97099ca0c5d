"""Many prompts through one batch: a row that ends makes room for the next prompt."""

from __future__ import annotations

from collections.abc import Sequence

from lumina.data.tokenizer import Tokenizer
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import context_limit, evaluating
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.infer.serving.batch import Batch
from lumina.infer.serving.request import Request
from lumina.infer.serving.seating import Limits
from lumina.model.kinds.table import why_not
from lumina.model.network import Network


def takes_many(
    network: Network, prompts: Sequence[Sequence[int]], stepping: StepSettings
) -> bool:
    """Whether prompts can go through one batch; else they go side by side, in turn.

    Not with guesses, nor with prompts that are refused anyway.
    """
    limit, vocabulary = context_limit(network), network.spec.vocab_size
    fit = all(
        prompt and (not limit or len(prompt) < limit) and max(prompt) < vocabulary
        for prompt in prompts
    )
    return fit and not stepping.speculate and not why_not(network.spec, "rows_apart")


def answers_of(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    rows: int,
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    stepping: StepSettings | None = None,
) -> list[str]:
    """The answers to prompts, `rows` of them at any time; see `Answers`.

    Raises:
        LuminaError: E301 where the model's output is no number.
    """
    limit = context_limit(network)
    longest = max(map(len, prompts)) + max_new_tokens
    tokens = min(longest, limit) if limit else longest
    batch = _Raising(network, Limits(rows, tokens), CacheSettings(), stepping)
    requests = [
        Request(
            list(prompt),
            sampling,
            min(max_new_tokens, tokens - len(prompt)),
            stop,
            tokenizer,
        )
        for prompt in prompts
    ]
    batch.waiting.extend(requests)
    with evaluating(network):
        while batch.busy:
            batch.round()
    return [_text(request) for request in requests]


class _Raising(Batch):
    """A batch whose failures are the caller's."""

    def _fail(self, request: Request, error: Exception) -> None:
        raise error


def _text(request: Request) -> str:
    pieces = []
    while not request.said.empty():
        pieces.append(request.said.get().text)
    return "".join(pieces)
