"""Many prompts through one batch: a row that ends makes room for the next prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lumina.data.tokenizer import Tokenizer
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import CONTEXT, FULL, context_limit, evaluating
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.infer.serving.batch import Batch
from lumina.infer.serving.request import Request
from lumina.infer.serving.seating import Limits
from lumina.infer.text import Completion
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


def completions_of(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    rows: int,
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    stepping: StepSettings | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Completion]:
    """The answers to prompts in their order, `rows` of them at any time.

    Each is given once it and those before it are over. See `Answers` for what is not
    named here.

    Args:
        network: that `takes_many`.
        tokenizer: its tokenizer.
        prompts: token ids of each.
        sampling: how tokens are chosen, the same for each prompt.
        rows: prompts answered side by side.
        max_new_tokens: most tokens of an answer.
        stop: strings that end an answer.
        stepping: how steps are run.
        stopped: asked before every round; once true, what there is of answers that
            have begun is given, and no more are made.

    Raises:
        LuminaError: E301 where the model's output is no number.
    """
    limit = context_limit(network)
    longest = max(map(len, prompts)) + max_new_tokens
    tokens = min(longest, limit) if limit else longest
    limits = Limits(min(rows, len(prompts)), tokens)
    batch = _Raising(network, limits, CacheSettings(), stepping)
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
    given = 0
    with evaluating(network):
        while batch.busy and not stopped():
            batch.round()
            while given < len(requests) and requests[given].ended:
                yield _completion(requests[given], max_new_tokens)
                given += 1
    for request in requests[given:]:
        if request.new_ids:
            yield _completion(request, max_new_tokens)


def answers_of(*asked: Any, **options: Any) -> list[str]:
    """The texts of `completions_of`, all at once."""
    return [done.text for done in completions_of(*asked, **options)]


class _Raising(Batch):
    """A batch whose failures are the caller's."""

    def _fail(self, request: Request, error: Exception) -> None:
        raise error


def _completion(request: Request, most: int) -> Completion:
    """What was said to a request, and why it ended; "" where it was cut off."""
    text, reason = "", ""
    while not request.said.empty():
        said = request.said.get()
        text, reason = text + said.text, said.reason
    if reason == FULL and len(request.new_ids) < most:
        reason = CONTEXT
    return Completion(text, list(request.new_ids), reason)
