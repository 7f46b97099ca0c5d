"""One request for text while the server works on it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from lumina.data.tokenizer import Tokenizer
from lumina.infer.generate import END, FULL
from lumina.infer.sampling import Sampler, Sampling
from lumina.infer.text import UntilStop

RETRY_SECONDS = 2
"""After which a client may ask a busy server again."""

DRAWN_AT_ONCE = 64
"""Tokens whose random numbers are drawn together."""


@dataclass(frozen=True)
class Problem:
    """Why there is no answer.

    Attributes:
        status: of HTTP.
        text: what happened.
        kind: as OpenAI's API names it.
        code: what programs know it by, where the API has a name for it.
        retry: seconds after which to ask again; 0: that would not help.
    """

    status: int
    text: str
    kind: str = "server_error"
    code: str | None = None
    retry: int = 0


@dataclass(frozen=True)
class Said:
    """What a request is sent: a piece of its answer, or how it ended.

    Attributes:
        text: the piece; "" where only the end is told.
        reason: "stop" or "length" at the end, else "".
        problem: why there is no answer.
        index: of the request among those that share a queue.
    """

    text: str = ""
    reason: str = ""
    problem: Problem | None = None
    index: int = 0

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return bool(self.reason) or self.problem is not None


@dataclass
class Request:
    """A prompt and its answer so far.

    The thread of the engine works on it, and the thread that asked reads `said`.

    Attributes:
        prompt: token ids.
        new_ids: the answer's.
        seat: where it sits, while it is read and answered.
        begun: tokens of the answer that are in its row, or on their way.
        said: what `Said` there is to send; requests that are asked together share it.
        gone: set once nobody waits for the answer any more.
        index: among those that share a queue.
    """

    prompt: list[int]
    sampling: Sampling
    max_new_tokens: int
    stop: Sequence[str]
    tokenizer: Tokenizer
    new_ids: list[int] = field(default_factory=list)
    seat: int | None = None
    begun: int = 0
    said: queue.SimpleQueue[Said] = field(default_factory=queue.SimpleQueue)
    gone: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    index: int = 0

    def __post_init__(self) -> None:
        self._sampler = Sampler(self.sampling, 1)
        self._drawn: list[float] = []
        self._stream = self.tokenizer.stream(self.prompt)
        self._filter = UntilStop(self.stop)

    @staticmethod
    def together(requests: Sequence[Request]) -> None:
        """Let requests share one queue: what is said to one waits for no other."""
        for index, request in enumerate(requests):
            request.said, request.index = requests[0].said, index

    @property
    def ids(self) -> list[int]:
        """The prompt and the answer so far."""
        return [*self.prompt, *self.new_ids]

    def uniform(self, number: int) -> float:
        """The random number that decides a token of the answer, in [0, 1)."""
        if self.sampling.greedy:
            return 0.0
        while len(self._drawn) <= number:
            self._drawn += self._sampler.uniforms(DRAWN_AT_ONCE)[:, 0].tolist()
        return self._drawn[number]

    def take(self, token: int) -> None:
        """Goes on with a token, or ends there."""
        if token in self.tokenizer.stop_ids:
            self._end(END)
            return
        self.new_ids.append(token)
        piece = self._filter.push(self._stream.push(token))
        if piece:
            self.said.put(Said(piece, index=self.index))
        if self._filter.stopped:
            self._end(END)
        elif len(self.new_ids) >= self.max_new_tokens:
            self._end(FULL)

    def fail(self, problem: Problem) -> None:
        """Ends without an answer."""
        self.ended = True
        self.said.put(Said(problem=problem, index=self.index))

    def _end(self, reason: str) -> None:
        self.ended = True
        rest = ""
        if not self._filter.stopped:
            rest = self._stream.flush(cut_off=reason != END)
            rest = self._filter.push(rest) + self._filter.flush()
        self.said.put(Said(rest, reason, index=self.index))
