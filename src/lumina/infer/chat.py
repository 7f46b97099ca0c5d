"""A conversation: history, the cache over turns, and what to forget when it is long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lumina.data.records import Message
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import END, context_limit, new_cache
from lumina.infer.kv.decoding_cache import DecodingCache
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling, sampling_for
from lumina.infer.text import Answers, Completion
from lumina.model.adapters.attach import set_weights
from lumina.model.network import Network

LEAST_ANSWER = 16
"""Tokens of context that must be left for an answer, while there is a turn to drop."""


class ChatSession:
    """Talks with a network, turn by turn.

    What the network has read stays in its key/value cache, so a turn costs only its
    own tokens. When the conversation no longer fits the context, its oldest exchanges
    are dropped; the system prompt stays.

    Args:
        network: any `Network`.
        tokenizer: its tokenizer, with chat markers.
        sampling: how tokens are chosen; None: as the model asks for.
        max_new_tokens: most tokens of an answer.
        system_prompt: said before everything else, when not empty.
        stop: strings that end an answer, besides the end-of-turn token.
        settings: how keys and values are kept.
        stepping: how a step of an answer is run.

    Attributes:
        messages: the conversation, as `role` and `content`, the system prompt left out.
        dropped: messages that the last turn had to forget.
        last: the last answer; its reason is "" when it was interrupted.
        reused: tokens that the last turn found in the cache.

    Raises:
        LuminaError: E102 when the tokenizer has no chat markers; as of
            `CacheSettings.check`.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling | None = None,
        max_new_tokens: int = 512,
        system_prompt: str = "",
        stop: Sequence[str] = (),
        settings: CacheSettings | None = None,
        stepping: StepSettings | None = None,
    ) -> None:
        check_markers(tokenizer)
        self.network = network
        self.tokenizer = tokenizer
        self.sampling = sampling or sampling_for(tokenizer.generation)
        self.max_new_tokens = max_new_tokens
        self.stop = tuple(stop)
        self.settings = settings
        self.stepping = stepping
        self.system_prompt = system_prompt
        self.last = Completion("", [], "")
        self._cache: DecodingCache
        self._known: list[int]  # the tokens that the cache holds
        self.reset()

    def reset(self) -> None:
        """Forgets the conversation; the system prompt stays."""
        self.messages: list[dict[str, str]] = []
        self._contents: list[list[int]] = []
        self.dropped = 0
        self.reused = 0
        self._forget_cache()

    def say(
        self, text: str, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[str]:
        """One turn: gives the answer piece by piece as it is made.

        An iteration that is broken off leaves what was said until then as the answer.

        Args:
            text: what the user says.
            stopped: asked before every token; once true, the answer is over.

        Raises:
            LuminaError: E005 when this turn alone does not fit the context.
        """
        [content] = self.tokenizer.encode_contents([text])
        self._add("user", text, content)
        self.last = Completion("", [], "")
        answers: Answers | None = None
        try:
            prompt = self._fitted_prompt()
            self._reuse(prompt)
            answers = Answers(
                self.network,
                self.tokenizer,
                [prompt],
                self.sampling,
                max_new_tokens=self.max_new_tokens,
                stop=self.stop,
                cache=self._cache,
                stepping=self.stepping,
                stopped=stopped,
            )
            for _, piece in answers:
                yield piece
        except GeneratorExit:
            raise  # broken off between two steps: the cache is whole
        except LuminaError:
            self._take_back()
            raise
        except BaseException:
            self._forget_cache()  # it may hold half a step
            raise
        finally:
            if answers is not None:
                answers.settle()
                self._keep(prompt, answers.completions[0])

    def _keep(self, prompt: list[int], answer: Completion) -> None:
        self.last = answer
        if not self.messages or self.messages[-1]["role"] != "user":
            return  # the question was taken back
        if not answer.ids and not answer.reason:
            self._take_back()  # interrupted before a word: as if never asked
            return
        self._add("assistant", answer.text, self._answer_ids(prompt, answer))
        self._known = [*prompt, *answer.ids][: self._cache.length]

    def switch(self, factors: Mapping[str, float]) -> None:
        """Answer with other adapters from now on; the conversation stays.

        What was cached with the adapters before is computed anew.

        Args:
            factors: name of an adapter -> the factor of its change; others do not act.

        Raises:
            LuminaError: E005 for a name that no adapter of the network has.
        """
        set_weights(self.network, factors)
        self._forget_cache()

    def _answer_ids(self, prompt: list[int], answer: Completion) -> list[int]:
        """The tokens as they were decided, unless a stop string cut their text."""
        cut_off = answer.reason != END
        whole = self.tokenizer.decode_after(prompt, answer.ids, cut_off=cut_off)
        if whole == answer.text:
            return answer.ids
        return self.tokenizer.encode_continuation(answer.text)

    def _add(self, role: str, text: str, ids: list[int]) -> None:
        self.messages.append({"role": role, "content": text})
        self._contents.append(ids)

    def _take_back(self) -> None:
        """Removes a question that could not be answered."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()
            self._contents.pop()

    def _prompt(self) -> list[int]:
        """Ids up to where the assistant is to speak."""
        messages: list[Message] = [
            {"role": message["role"], "content": message["content"]}
            for message in self.messages
        ]
        said: list[list[int] | None] = [*self._contents]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
            said.insert(0, None)
        return self.tokenizer.chat_prompt(messages, said)

    def _fitted_prompt(self) -> list[int]:
        """The prompt, with the oldest exchanges dropped until an answer has room."""
        self.dropped = 0
        limit = context_limit(self.network)
        prompt = self._prompt()
        if limit is None:
            return prompt
        room = min(self.max_new_tokens, LEAST_ANSWER, limit // 2)
        while len(prompt) + room > limit and len(self.messages) > 1:
            count = 2 if self.messages[1]["role"] == "assistant" else 1
            del self.messages[:count], self._contents[:count]
            self.dropped += count
            prompt = self._prompt()
        return prompt

    def _reuse(self, prompt: list[int]) -> None:
        """Keeps of the cache what the new prompt begins with."""
        same = 0
        # The last token is always fed: its output is the first thing needed.
        for ours, new in zip(self._known, prompt[:-1], strict=False):
            if ours != new:
                break
            same += 1
        if not self._cache.rewind(same):
            self._forget_cache()
            same = 0
        self.reused = same
        self._known = self._known[:same]

    def _forget_cache(self) -> None:
        self._cache = new_cache(self.network, settings=self.settings)
        self._known = []


def check_markers(tokenizer: Tokenizer) -> None:
    """Refuse (E102) a tokenizer that knows no turns of a conversation."""
    if not tokenizer.has_chat:
        raise LuminaError(
            "E102",
            "the tokenizer has no chat template and no chat markers, so the model "
            "knows no turns",
            "use `lumina generate`, or train on conversations first",
        )
