"""Lumina's own chat format: a special token before and after the words of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from lumina.data.chat_format import Chat
from lumina.data.chat_tools import tools_refused
from lumina.data.long_conversations import LaidOut, Span
from lumina.data.loss_rule import loss_of
from lumina.data.records import Message
from lumina.errors import LuminaError

END_OF_TEXT = "<|endoftext|>"
MARKERS: dict[str, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
END_OF_TURN = "<|end|>"
SPECIALS = (END_OF_TEXT, *MARKERS.values(), END_OF_TURN)

BODY = "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    f"{BODY}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""What `Tokenizer.encode_chat` does, for programs that read templates."""


class Vocabulary(Protocol):
    """The part of a tokenizer that the markers need."""

    @property
    def begin(self) -> list[int]:
        """The tokens that come before a document."""

    def token_id(self, token: str) -> int:
        """The id of a token; a LuminaError where there is none."""

    def encode_contents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that each stand right behind a special token."""


_NAME = "Lumina's own chat format"


def _refuse_tools(messages: Sequence[Message]) -> None:
    error = tools_refused(messages, _NAME)
    if error is not None:
        raise error


class MarkerFormat:
    """Lumina's own chat format; see `CHAT_TEMPLATE`."""

    fingerprint = ""

    def __init__(self, tokenizer: Vocabulary) -> None:
        self._tokenizer = tokenizer
        # A long conversation is laid out in parts, whose turns are the same ones.
        self._words = lru_cache(16)(
            lambda text: self._tokenizer.encode_contents([text])[0]
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """The marker at the end of a turn."""
        return frozenset({self._tokenizer.token_id(END_OF_TURN)})

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> list[Chat | LuminaError]:
        """(ids, mask) of each conversation."""
        refused = [tools_refused(turns, _NAME) for turns in conversations]
        taken = [
            turns
            for turns, error in zip(conversations, refused, strict=True)
            if error is None
        ]
        words = [message["content"] for turns in taken for message in turns]
        ids = iter(self._tokenizer.encode_contents(words))
        done = iter(
            [
                self._join(
                    [message["role"] for message in turns],
                    [next(ids) for _ in turns],
                    loss_on=loss_on,
                    loss=[loss_of(message, loss_on) for message in turns],
                )
                for turns in taken
            ]
        )
        return [next(done) if error is None else error for error in refused]

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand."""
        _refuse_tools(messages)
        words = [self._words(message["content"]) for message in messages]
        ids, mask = self._join(
            [message["role"] for message in messages],
            words,
            loss_on=loss_on,
            loss=[loss_of(message, loss_on) for message in messages],
        )
        spans = []
        end = len(self._tokenizer.begin)
        for content in words:  # between its marker and the end of its turn
            spans.append(Span(end + 1, end + len(content) + 2))
            end = spans[-1].end
        return LaidOut(ids, mask, spans)

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak; see `ChatFormat.prompt`."""
        _refuse_tools(messages)
        known = said or [None] * len(messages)
        words = self._tokenizer.encode_contents([m["content"] for m in messages])
        contents = [w if k is None else k for k, w in zip(known, words, strict=True)]
        # An empty answer, without the token that would end it.
        roles = [message["role"] for message in messages]
        ids, _ = self._join([*roles, "assistant"], [*contents, []])
        return ids[:-1]

    def _join(
        self,
        roles: Sequence[str],
        contents: Sequence[list[int]],
        *,
        loss_on: str = "assistant",
        loss: Sequence[float] | None = None,
    ) -> Chat:
        """Ids and mask of turns whose contents are ids, of `encode_contents`.

        Args:
            roles: of each turn.
            contents: token ids of each turn.
            loss_on: as for `encode`.
            loss: what a token of each turn weighs, of `loss_of`; None: of no use.
        """
        end = self._tokenizer.token_id(END_OF_TURN)
        everything = loss_on == "all"
        ids = self._tokenizer.begin
        mask: list[float] = [everything] * len(ids)
        weights = loss or [False] * len(roles)
        for role, content, weight in zip(roles, contents, weights, strict=True):
            ids += [self._tokenizer.token_id(MARKERS[role]), *content, end]
            mask += [weight if everything else False, *([weight] * (len(content) + 1))]
        return ids, mask
