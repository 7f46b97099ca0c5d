"""Text in, text out: streaming answers with stop strings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lumina.data.tokenizer import Tokenizer
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import END, Decoding
from lumina.infer.kv.decoding_cache import DecodingCache
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.model.network import Network


@dataclass(frozen=True)
class Completion:
    """One answer.

    Attributes:
        text: without the stop string, and without half a character at the end of an
            answer that was cut off.
        ids: the tokens decided, of which `text` may use all but the last few.
        reason: "stop", "length" or "context"; "" when it was interrupted.
    """

    text: str
    ids: list[int]
    reason: str


class UntilStop:
    """Lets text through up to the first stop string, never a part of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """The text that is certain to come before any stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [i for stop in self._stops if (i := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = self._hold(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        text, self._held = self._held, ""
        return text

    def _hold(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class Answers:
    """Streams answers to several prompts; iterating gives (row, piece of text).

    Args:
        network: any `Network`.
        tokenizer: its tokenizer.
        prompts: token ids of each row.
        sampling: how tokens are chosen.
        max_new_tokens: most tokens of an answer.
        stop: strings that end an answer, besides the tokenizer's stop tokens.
        cache: see `Decoding`, as `settings`, `stepping` and `workspace`.
        stopped: asked before every token; once true, no more are made.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        max_new_tokens: int = 512,
        stop: Sequence[str] = (),
        cache: DecodingCache | None = None,
        settings: CacheSettings | None = None,
        stepping: StepSettings | None = None,
        workspace: Workspace | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stopped = stopped
        self._decoding = Decoding(
            network,
            prompts,
            sampling,
            max_new_tokens=max_new_tokens,
            stop_ids=tokenizer.stop_ids,
            cache=cache,
            settings=settings,
            stepping=stepping,
            workspace=workspace,
        )
        self._streams = [tokenizer.stream(prompt) for prompt in prompts]
        self._filters = [UntilStop(stop) for _ in prompts]
        self._texts = [""] * len(prompts)
        self._open = set(range(len(prompts)))

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for step in self._decoding:
            for row, token in step:
                yield from self._say(row, self._streams[row].push(token))
                if self._filters[row].stopped:
                    self._decoding.end(row, END)
            for row in sorted(self._open):
                if reason := self._decoding.reasons[row]:
                    self._open.remove(row)
                    rest = self._streams[row].flush(cut_off=reason != END)
                    yield from self._say(row, rest, last=True)
            if self._stopped():
                return

    def _say(
        self, row: int, text: str, last: bool = False
    ) -> Iterator[tuple[int, str]]:
        piece = self._filters[row].push(text)
        if last:
            piece += self._filters[row].flush()
        if piece:
            self._texts[row] += piece
            yield row, piece

    def settle(self) -> None:
        """See `Decoding.settle`."""
        self._decoding.settle()

    @property
    def path(self) -> str:
        """How steps ran; see `Decoding.path`."""
        return self._decoding.path

    @property
    def completions(self) -> list[Completion]:
        """What was said, by row; complete once the iteration is over."""
        decoded = self._decoding
        return [
            Completion(text, list(ids), reason)
            for text, ids, reason in zip(
                self._texts, decoded.new_ids, decoded.reasons, strict=True
            )
        ]


def complete(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    max_new_tokens: int = 512,
    stop: Sequence[str] = (),
    batch_size: int = 16,
) -> list[Completion]:
    """Continues texts, `batch_size` side by side; see `Answers`."""
    done: list[Completion] = []
    workspace = Workspace()
    for start in range(0, len(prompts), batch_size):
        answers = Answers(
            network,
            tokenizer,
            [tokenizer.prompt(text) for text in prompts[start : start + batch_size]],
            sampling,
            max_new_tokens=max_new_tokens,
            stop=stop,
            workspace=workspace,
        )
        for _ in answers:
            pass
        done += answers.completions
    return done
