"""The model that is evaluated, as tasks see it: likelihoods and answers of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lumina.data.records import Message
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.chat import check_markers
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.evaluation_tasks.likelihood import Likelihood, Request, likelihoods
from lumina.infer.generate import CONTEXT, context_limit
from lumina.infer.sampling import Sampling
from lumina.infer.text import Answers, Completion
from lumina.measure.text_bits import windows
from lumina.model.network import Network
from lumina.state.task_heads import require_one_head

TooLong = Literal["refuse", "cut"]

Context = str | Sequence[Mapping[str, str]]
"""What stands before an answer: a text, or the turns of a conversation."""

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)

ANSWER_ROWS = 16
"""Prompts answered side by side where no number is given."""


@dataclass
class Counts:
    """What was done to fit the model.

    Attributes:
        cut: contexts whose beginning was left out.
        ended: answers that ended because the model reads no further.
    """

    cut: int = 0
    ended: int = 0


class Subject:
    """A model to ask.

    Args:
        network: a model of text with one head, in evaluation mode.
        tokenizer: its.
        rows: side by side; None: by the length of the rows. No result depends on it.
        too_long: what to do with a context that the model cannot read whole: refuse,
            or cut its beginning off, as lm-evaluation-harness does, and count it.
        chat: a context is what a user says, and a continuation is the answer.
        on_rows: called with the progress: rows done, rows in all.

    Attributes:
        counts: what was done to fit the model; a task's run begins with zeros.

    Raises:
        LuminaError: E005 for a model of several tasks and for `rows` below 1, E102 for
            `chat` with a model that was not trained on conversations.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        rows: int | None = None,
        too_long: TooLong = "refuse",
        chat: bool = False,
        on_rows: Callable[[int, int], None] | None = None,
    ) -> None:
        require_one_head(network)
        if rows is not None and rows < 1:
            raise LuminaError("E005", f"batch-size is {rows}", "give 1 or more")
        if chat:
            check_markers(tokenizer)
        self.network = network
        self.tokenizer = tokenizer
        self.rows = rows
        self.too_long = too_long
        self.chat = chat
        self.on_rows = on_rows
        self.counts = Counts()
        self._last: tuple[str | None, list[int]] = None, []

    @property
    def limit(self) -> int | None:
        """Most tokens that the model reads; None: there is no limit."""
        return context_limit(self.network)

    def likelihoods(self, pairs: Sequence[tuple[Context, str]]) -> list[Likelihood]:
        """How likely each continuation is after its context.

        Args:
            pairs: (context, continuation); a context may be empty, a continuation not.
                The continuation of a conversation is the assistant's next turn.

        Raises:
            LuminaError: E005 for an empty continuation, and for what does not fit.
        """
        requests = [self._fitted(*self.encoded(*pair)) for pair in pairs]
        return likelihoods(self.network, requests, rows=self.rows, on_rows=self.on_rows)

    def encoded(
        self, context: Context, continuation: str
    ) -> tuple[list[int], list[int]]:
        """The ids of a context and of its continuation.

        As in lm-evaluation-harness, spaces at a context's end belong to what follows,
        and the continuation has the ids that it has in the whole text. Where a token
        lies across the cut, it is encoded as text that goes on, so that what is scored
        is exactly the continuation.
        """
        if not continuation:
            raise LuminaError(
                "E005",
                "there is no text to score: a continuation is empty",
                "give every choice a text",
            )
        tokenizer = self.tokenizer
        if self.chat or not isinstance(context, str):
            before = tokenizer.chat_prompt(_turns(context))
            [after] = tokenizer.encode_contents([continuation.lstrip()])
            return before, after
        text = context.rstrip()
        continuation = context[len(text) :] + continuation
        if self._last[0] != text:  # the choices of a question come one by one
            self._last = text, tokenizer.prompt(text) if text else tokenizer.begin
        before = self._last[1]
        whole = tokenizer.prompt(text + continuation)
        if whole[: len(before)] == before and len(whole) > len(before):
            after = whole[len(before) :]
        else:
            after = tokenizer.encode_continuation(continuation)
        # Something has to stand before the first token that is predicted.
        return before or [tokenizer.eos_id], after

    def text_losses(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(nats, tokens) of each text, every token of it predicted once.

        A text that is longer than what the model reads is read in windows, each of
        which goes on half a window: see `lumina.measure.text_bits`.

        Args:
            texts: none of them empty.
        """
        context = self.limit or self.network.spec.seq_length
        begin = self.tokenizer.begin or [self.tokenizer.eos_id]
        requests, owners = [], []
        for number, ids in enumerate(self.tokenizer.encode_batch(texts)):
            for window, first in windows([*begin, *ids], context, begin):
                before, after = window[: first + 1], window[first + 1 :]
                requests.append(Request(tuple(before), tuple(after)))
                owners.append(number)
        sums = [(0.0, 0)] * len(texts)
        scored = likelihoods(
            self.network, requests, rows=self.rows, on_rows=self.on_rows
        )
        for number, one in zip(owners, scored, strict=True):
            nats, tokens = sums[number]
            sums[number] = nats - one.log_probability, tokens + one.tokens
        return sums

    def _fitted(self, context: list[int], continuation: list[int]) -> Request:
        limit = self.limit
        room = None if limit is None else limit - len(continuation) + 1
        if room is not None and len(context) > room:
            if room < 1:
                raise LuminaError(
                    "E005",
                    f"a continuation has {len(continuation):,} tokens, and the model "
                    f"reads {limit:,}",
                    "leave it out: a continuation is never cut",
                )
            self._refuse_or_count(len(context) + len(continuation) - 1)
            context = context[-room:]
        return Request(tuple(context), tuple(continuation))

    def _refuse_or_count(self, length: int) -> None:
        if self.too_long == "refuse":
            raise LuminaError(
                "E005",
                f"a question has {length:,} tokens, and the model reads {self.limit:,}",
                "show fewer --shots, or leave out the beginning of such questions with "
                "--too-long cut, which counts them",
            )
        self.counts.cut += 1

    def answers(
        self,
        prompts: Sequence[Context],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sampling = GREEDY,
    ) -> list[Completion]:
        """What the model answers to each prompt.

        Args:
            prompts: contexts, as of `likelihoods`.
            max_new_tokens: most tokens of an answer.
            stop: texts before which an answer ends.
            sampling: how tokens are chosen; by default always the likeliest.

        Raises:
            LuminaError: E005 for a prompt that does not fit.
        """
        ids = [self._prompt(prompt, max_new_tokens) for prompt in prompts]
        found: list[Completion] = []
        workspace = Workspace()
        size = self.rows or ANSWER_ROWS
        for start in range(0, len(ids), size):
            if self.on_rows is not None:
                self.on_rows(start, len(ids))
            made = Answers(
                self.network,
                self.tokenizer,
                ids[start : start + size],
                sampling,
                max_new_tokens=max_new_tokens,
                stop=stop,
                workspace=workspace,
            )
            for _ in made:
                pass
            found += made.completions
        self.counts.ended += sum(one.reason == CONTEXT for one in found)
        return found

    def _prompt(self, prompt: Context, max_new_tokens: int) -> list[int]:
        tokenizer, limit = self.tokenizer, self.limit
        if self.chat or not isinstance(prompt, str):
            ids = tokenizer.chat_prompt(_turns(prompt))
        else:
            ids = tokenizer.prompt(prompt) or [tokenizer.eos_id]
        if limit is not None and len(ids) >= limit:
            self._refuse_or_count(len(ids) + 1)
            ids = ids[-max(limit - max_new_tokens, 1) :]
        return ids


def _turns(context: Context) -> list[Message]:
    """A conversation; a text is what its user says."""
    if isinstance(context, str):
        return [{"role": "user", "content": context}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in context]
