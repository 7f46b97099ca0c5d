"""Lumina's own chat format: a special token before and after the words of a turn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from lumina.data.chat_format import Chat
from lumina.data.chat_tools import has_tools
from lumina.data.long_conversations import LaidOut, Span
from lumina.data.loss_rule import loss_of
from lumina.data.records import Message
from lumina.data.template_errors import failure
from lumina.errors import LuminaError

END_OF_TEXT = "<|endoftext|>"
MARKERS: dict[str, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
END_OF_TURN = "<|end|>"
SPECIALS = (END_OF_TEXT, *MARKERS.values(), END_OF_TURN)
TOOL, CALL = "<|tool|>", "<|call|>"
"""Before the definition of a tool and before what a tool answers; before a call."""
TOOL_SPECIALS = (TOOL, CALL)

BODY = "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    f"{BODY}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""What `Tokenizer.encode_chat` does, for programs that read templates."""

_DEFINED = "{%- for tool in tools %}{{- '<|tool|>' + (tool | tojson) }}{%- endfor %}"
TOOL_BODY = (
    "{{- '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{%- if tools and loop.first and message['role'] == 'system' %}"
    f"{_DEFINED}"
    "{%- endif %}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{- '<|call|>' + (call['function'] | tojson) }}"
    "{%- endfor %}"
    "{{- '<|end|>' }}"
)
TOOL_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if tools and messages[0]['role'] != 'system' %}"
    "{{- '<|system|>' }}"
    f"{_DEFINED}"
    "{{- '<|end|>' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    f"{TOOL_BODY}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""The same for a vocabulary with `TOOL_SPECIALS`; the same text where no tool is."""


class Vocabulary(Protocol):
    """The part of a tokenizer that the markers need."""

    @property
    def begin(self) -> list[int]:
        """The tokens that come before a document."""

    def token_id(self, token: str) -> int:
        """The id of a token; a LuminaError where there is none."""

    def encode_contents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that each stand right behind a special token."""


_ROLES = {**MARKERS, "tool": TOOL}


@dataclass(frozen=True)
class _Turn:
    """A turn as it is written.

    Attributes:
        pieces: (marker, text behind it); the first is that of the speaker.
        loss: what a token of the turn weighs in the loss.
        message: it is one of the conversation, and not made for the tools alone.
    """

    pieces: list[tuple[str, str]]
    loss: float
    message: bool = True


class MarkerFormat:
    """Lumina's own chat format; see `CHAT_TEMPLATE` and `TOOL_TEMPLATE`.

    Args:
        tokenizer: has the markers.
        tools: it has those of tools, too.
    """

    fingerprint = ""

    def __init__(self, tokenizer: Vocabulary, tools: bool = False) -> None:
        self._tokenizer = tokenizer
        self._tools = tools
        # A long conversation is laid out in parts, whose turns are the same ones.
        self._words = lru_cache(16)(
            lambda text: self._tokenizer.encode_contents([text])[0]
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """The marker at the end of a turn."""
        return frozenset({self._tokenizer.token_id(END_OF_TURN)})

    def writes(self, field: str) -> bool:
        """No field of a turn but its words and calls."""
        return False

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> list[Chat | LuminaError]:
        """(ids, mask) of each conversation."""
        written: list[list[_Turn] | LuminaError] = []
        for messages in conversations:
            try:
                written.append(self._written(messages, loss_on))
            except LuminaError as error:
                written.append(error)
        ids = iter(
            self._tokenizer.encode_contents(
                [
                    text
                    for turns in written
                    if not isinstance(turns, LuminaError)
                    for turn in turns
                    for _, text in turn.pieces
                ]
            )
        )
        return [
            turns
            if isinstance(turns, LuminaError)
            else self._join(turns, ids, loss_on == "all")
            for turns in written
        ]

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand."""
        turns = self._written(messages, loss_on)
        words = [[self._words(text) for _, text in turn.pieces] for turn in turns]
        ids, mask = self._join(
            turns, itertools.chain.from_iterable(words), loss_on == "all"
        )
        spans = []
        end = len(self._tokenizer.begin)
        for turn, pieces in zip(turns, words, strict=True):
            # Between its marker and the end of its turn.
            begin, end = end + 1, end + sum(1 + len(one) for one in pieces) + 1
            if turn.message:
                spans.append(Span(begin, end))
        return LaidOut(ids, mask, spans)

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak; see `ChatFormat.prompt`."""
        known = iter(said or [None] * len(messages))
        turns = self._written(messages, "assistant")
        words = iter(
            self._tokenizer.encode_contents(
                [text for turn in turns for _, text in turn.pieces]
            )
        )
        contents = []
        for turn in turns:
            made = [next(words) for _ in turn.pieces]
            given = next(known) if turn.message else None
            contents += made if given is None else [given, *made[1:]]
        # An empty answer, without the token that would end it.
        answer = _Turn([(MARKERS["assistant"], "")], False)
        ids, _ = self._join([*turns, answer], iter([*contents, []]), False)
        return ids[:-1]

    def _written(self, messages: Sequence[Message], loss_on: str) -> list[_Turn]:
        """The turns of a conversation as markers and texts.

        Raises:
            LuminaError: E108 for tools that the vocabulary has no markers of.
        """
        if has_tools(messages) and not self._tools:
            raise failure(
                "the conversation has calls, results or definitions of tools, and the "
                "tokenizer has no markers of Lumina's chat format for them",
                "train the model on conversations with tools from its beginning, or "
                "leave such conversations out",
            )
        turns = []
        for number, message in enumerate(messages):
            pieces = [(_ROLES[message["role"]], message["content"])]
            defined = [(TOOL, _json(tool)) for tool in message.get("tools", [])]
            if defined and (number or message["role"] != "system"):
                first = [(MARKERS["system"], ""), *defined]
                turns.append(_Turn(first, loss_on == "all", message=False))
            else:
                pieces += defined
            calls = message.get("tool_calls", [])
            pieces += [(CALL, _json(call["function"])) for call in calls]
            turns.append(_Turn(pieces, loss_of(message, loss_on)))
        return turns

    def _join(
        self, turns: Sequence[_Turn], contents: Iterator[list[int]], everything: bool
    ) -> Chat:
        """Ids and mask of turns.

        Args:
            turns: as `_written` gives them.
            contents: ids of the text of every piece, of `encode_contents`.
            everything: what stands between the turns bears loss, too.
        """
        end = self._tokenizer.token_id(END_OF_TURN)
        ids = self._tokenizer.begin
        mask: list[float] = [everything] * len(ids)
        for turn in turns:
            begin = len(ids)
            for marker, _ in turn.pieces:
                ids += [self._tokenizer.token_id(marker), *next(contents)]
            ids.append(end)
            mask.append(turn.loss if everything else False)
            mask += [turn.loss] * (len(ids) - begin - 1)
        return ids, mask


def _json(value: Any) -> str:
    """As `tojson` of a template writes it."""
    return json.dumps(value, ensure_ascii=False)
