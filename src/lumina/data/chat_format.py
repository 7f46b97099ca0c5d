"""What a chat format is: how a conversation becomes ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lumina.data.long_conversations import LaidOut
from lumina.data.records import Message
from lumina.errors import LuminaError

Chat = tuple[list[int], list[float]]
"""Ids of a conversation, and what each weighs in the loss: False, True or a weight."""


class ChatFormat(Protocol):
    """How a conversation becomes ids: by a model's template, or Lumina's markers."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end what the assistant says."""

    @property
    def fingerprint(self) -> str:
        """Names what decides the ids besides the vocabulary; empty for the markers."""

    def writes(self, field: str) -> bool:
        """Whether it writes a field of turns besides their words, such as "name"."""

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> Sequence[Chat | LuminaError]:
        """(ids, mask) of each conversation, or why it has none."""

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand.

        Raises:
            LuminaError: E108 where a template does not let them be found.
        """

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak.

        Args:
            messages: the turns.
            said: the ids of each turn's words where they were decided before; a format
                that writes history anew does not look at them.
        """
