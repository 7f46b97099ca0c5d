"""Conversations longer than a row: pieces that keep their question, or a cut.

A row of S positions holds S + 1 tokens of a document, for its last one is a label only.
What a later row is taught of an answer means little without the question, so every
piece of a divided conversation begins as a conversation does: with the begin token, the
system's turn where it fits, and the user's last turn. None of these bears loss there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumina.data.records import Message
from lumina.quantities import counted

Mode = Literal["split", "truncate", "drop", "cut"]

NEW_SHARE = 4
"""A piece leaves at least one in this many positions to what has not come yet."""


class Span(NamedTuple):
    """Where a turn of a conversation stands among its tokens.

    Attributes:
        words: the first token that the turn's speaker would be taught; before it stand
            only marks of the format.
        end: behind the turn's last token, the mark of its end included.
    """

    words: int
    end: int


@dataclass(frozen=True)
class LaidOut:
    """A conversation as tokens.

    Attributes:
        ids: token ids.
        mask: what each weighs in the loss: False, True or a weight.
        spans: of every turn, in order.
    """

    ids: list[int]
    mask: list[float]
    spans: list[Span]


LayOut = Callable[[Sequence[Message]], LaidOut]
"""From turns to their tokens."""


@dataclass(frozen=True)
class Piece:
    """Part of a conversation that fits into a row.

    Attributes:
        context: tokens that are repeated, without loss.
        begin: of the part, among the conversation's tokens; `end` behind it.
    """

    context: list[int]
    begin: int
    end: int


@dataclass(frozen=True)
class Long:
    """What became of one conversation that is longer than a row; counts add up.

    Attributes:
        conversations: one.
        pieces: rows or parts of rows that it fills.
        tokens: of the whole conversation.
        tokens_lost: those that stand in none of the pieces. Where it is split, they are
            of questions and behind the last answer, and bear no loss; the system's are
            not among them (`without_system`).
        questions_shortened: turns of a user that begin later in the pieces, because
            they leave no room for the answer.
        without_system: turns divided or begun in pieces without the system's turn.
        without_labels: one where nothing is left that bears loss.
    """

    conversations: int = 0
    pieces: int = 0
    tokens: int = 0
    tokens_lost: int = 0
    questions_shortened: int = 0
    without_system: int = 0
    without_labels: int = 0

    def __add__(self, other: Long) -> Long:
        """The counts of both."""
        mine, theirs = astuple(self), astuple(other)
        return Long(*(a + b for a, b in zip(mine, theirs, strict=True)))


def joined_counts(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The counts of several tasks as one; None where no conversation is too long."""
    found = [part for part in parts if part]
    if not found:
        return None
    counts = Long().__dict__
    return found[0] | {name: sum(part[name] for part in found) for name in counts}


def long_in_words(long: Mapping[str, Any]) -> str:
    """What became of a run's long conversations, in words.

    Args:
        long: the counts of `Long` by name, with "mode" and "row".
    """
    count, lost = long["conversations"], long["tokens_lost"]
    told = f"{count:,} {_of('conversation', count)} longer than a row of "
    told += f"{long['row']:,} tokens: "
    if long["mode"] == "drop":
        return told + f"left out (--long-conversations drop), {lost:,} tokens in all"
    if long["mode"] == "truncate":
        told += f"cut at the end of the row, {lost:,} of {long['tokens']:,} tokens lost"
        return f"{told}{_empty(long)} (--long-conversations truncate)"
    told += f"split into {counted(long['pieces'], 'piece')}, each with its question; "
    told += f"no answer is lost{_empty(long)}"
    if short := long["questions_shortened"]:
        noun = "question" if short == 1 else "questions"
        told += f"; the beginning of {short:,} {noun} is left out, for want of room"
    if bare := long["without_system"]:
        told += f"; {bare:,} {_of('turn', bare)} without the system's"
    if lost:
        told += f"; {lost:,} tokens without loss are left out"
    return told


def _empty(long: Mapping[str, Any]) -> str:
    count = long["without_labels"]
    told = f"; {count:,} left out, because nothing that bears loss is left"
    return told if count else ""


def _of(noun: str, count: int) -> str:
    verbs = {"conversation": "is", "turn": "stands"}
    plural = {"is": "are", "stands": "stand"}
    verb = verbs[noun]
    return f"{noun} {verb}" if count == 1 else f"{noun}s {plural[verb]}"


def divide(
    messages: Sequence[Message],
    whole: LaidOut,
    row: int,
    mode: Mode,
    lay_out: LayOut,
    begin: Sequence[int],
) -> tuple[list[Piece], Long]:
    """The pieces of a conversation of more than `row` + 1 tokens.

    Every token that bears loss stands in one piece as new, so that it is taught once;
    the first token of a document is no label, and none of the pieces begins with one
    that bears loss. An answer is divided only if it does not fit into a row with its
    question.

    Args:
        messages: the turns.
        whole: their tokens.
        row: positions of a row.
        mode: "split", "truncate" (the end is lost) or "drop" (all of it).
        lay_out: lays out other turns as `whole` is laid out.
        begin: the tokens before every text.

    Returns:
        (pieces, counts of what became of them).
    """
    size = len(whole.ids)
    if mode == "drop":
        return [], Long(1, 0, size, size)
    if mode == "truncate":
        kept = [Piece([], 0, row + 1)] if any(whole.mask[1 : row + 1]) else []
        lost = size - row - 1 if kept else size
        return kept, Long(1, len(kept), size, lost, without_labels=not kept)
    return _Division(messages, whole, row, lay_out, begin).run()


class _Context(NamedTuple):
    """What a piece begins with.

    Attributes:
        ids: the tokens.
        lost: tokens of the question for which there is no room.
        without_system: there is no room for the system's turn.
    """

    ids: list[int]
    lost: int = 0
    without_system: bool = False


class _Division:
    """One conversation, divided."""

    def __init__(
        self,
        messages: Sequence[Message],
        whole: LaidOut,
        row: int,
        lay_out: LayOut,
        begin: Sequence[int],
    ) -> None:
        self.messages = messages
        self.whole = whole
        self.row = row
        self.lay_out = lay_out
        self.begin = list(begin)
        self.most = row + 1  # tokens of a piece
        self.room = self.most - max(row // NEW_SHARE, 1)  # those of its context
        self.taught = np.flatnonzero(self._mask())
        self.ends = np.array([span.end for span in whole.spans])
        self.contexts: dict[tuple[int, bool], _Context] = {}

    def _mask(self) -> NDArray[np.bool_]:
        mask = np.array(self.whole.mask, dtype=bool)
        mask[:1] = False  # the first token of a document is no label
        return mask

    def run(self) -> tuple[list[Piece], Long]:
        size = len(self.whole.ids)
        if not len(self.taught):
            return [], Long(1, 0, size, size, without_labels=1)
        pieces = []
        place: int | None = 0
        context: list[int] = []
        if self.taught[0] > self.room:  # no room for an answer behind the question
            place = int(self.taught[0])
            context = self._context(place)
        while place is not None:
            end = self._end(place, len(context))
            pieces.append(Piece(context, place, end))
            place = self._next(end)
            if place is not None:
                context = self._context(place)
        made = {turn: one for (turn, _), one in self.contexts.items()}
        shortened = [one.lost for one in made.values() if one.lost]
        told = Long(
            conversations=1,
            pieces=len(pieces),
            tokens=size,
            tokens_lost=sum(shortened) + size - pieces[-1].end,
            questions_shortened=len(shortened),
            without_system=sum(one.without_system for one in made.values()),
        )
        return pieces, told

    def _next(self, place: int) -> int | None:
        """The first token from `place` on that bears loss."""
        at = int(np.searchsorted(self.taught, place))
        return int(self.taught[at]) if at < len(self.taught) else None

    def _end(self, place: int, before: int) -> int:
        """Behind the last token of the piece that begins at `place`."""
        end = place + self.most - before
        if end >= len(self.whole.ids):
            return len(self.whole.ids)
        following = self._next(end)
        if following == end:
            # It would end within a turn that bears loss. If that turn fits into one
            # piece, it begins the next one, where this piece has others before it.
            turn = self._turn(end)
            first = self._next(int(self.ends[turn - 1]) if turn else 0)
            assert first is not None
            if first > place and self._last(place, first) is not None:
                rest = int(self.ends[turn]) - first
                if len(self._context(first)) + rest <= self.most:
                    end = first
        last = self._last(place, end)
        assert last is not None
        return last + 1

    def _last(self, place: int, end: int) -> int | None:
        """The last token from `place` to before `end` that bears loss."""
        at = int(np.searchsorted(self.taught, end)) - 1
        last = int(self.taught[at]) if at >= 0 else -1
        return last if last >= place else None

    def _turn(self, place: int) -> int:
        """The turn that a token belongs to."""
        turn = int(np.searchsorted(self.ends, place, side="right"))
        return min(turn, len(self.ends) - 1)

    def _context(self, place: int) -> list[int]:
        """What comes before the token at `place`, where a piece begins with it."""
        turn = self._turn(place)
        words = place >= self.whole.spans[turn].words
        if (turn, words) not in self.contexts:
            self.contexts[turn, words] = self._context_of(turn, words)
        # A piece's first token is no label.
        return self.contexts[turn, words].ids or [self.whole.ids[place - 1]]

    def _context_of(self, turn: int, words: bool) -> _Context:
        """What comes before a turn, or before its words."""
        roles = [message["role"] for message in self.messages]
        if roles[turn] == "system":
            return _Context(self.begin)
        system = [0] if roles[0] == "system" else []
        asked = []
        if roles[turn] == "assistant":
            asked = [n for n in range(turn) if roles[n] == "user"][-1:]
        full = self._laid(system + asked, turn, words)
        if len(full) <= self.room:
            return _Context(full)
        bare = self._laid(asked, turn, words)
        if len(bare) <= self.room:
            return _Context(bare, without_system=bool(system))
        # The end of a question, with the marks that ask for the answer.
        begin = self.begin if bare[: len(self.begin)] == self.begin else []
        kept = max(self.room - len(begin), 1)
        lost = len(bare) - len(begin) - kept
        return _Context(begin + bare[-kept:], lost, without_system=bool(system))

    def _laid(self, before: list[int], turn: int, words: bool) -> list[int]:
        """The tokens of turns up to `turn`, or up to its words."""
        if not before and not words:
            return self.begin
        laid = self.lay_out([self.messages[n] for n in (*before, turn)])
        end = laid.spans[-1].words if words else laid.spans[-2].end
        return laid.ids[:end]
