"""Where the words of each turn stand in what a chat template writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lumina.data.template_errors import failure
from lumina.data.template_sandbox import BEGIN, END
from lumina.errors import LuminaError

OPEN, CLOSE = "\ue0f0", "\ue0f1"
KEY = re.compile(f"{OPEN}([0-9]+)\\.([0-9]+){CLOSE}")
_MARKS = re.compile(f"[{BEGIN}{END}]")


@dataclass(frozen=True)
class Turn:
    """The words of one turn, and the form in which a template is tried with them.

    Attributes:
        form: the words with a name for every part between marks, the white space
            around all of them left out.
        parts: what the names stand for; behind those of the words stand the names of
            the tools that the turn calls.
        lead: white space before, `trail` behind.
        calls: how many of the parts are tools.
        more: the turn's other fields, as in `Said`, with names in place of the tools.
    """

    form: str
    parts: tuple[str, ...]
    lead: str
    trail: str
    calls: int = 0
    more: str = ""

    @property
    def said(self) -> int:
        """How many of the parts are words."""
        return len(self.parts) - self.calls

    @property
    def head(self) -> str:
        """What stands before the first name of the words."""
        return self.form.partition(OPEN)[0] if self.said else ""

    @property
    def tail(self) -> str:
        """What stands behind the last name of the words."""
        return self.form.rpartition(CLOSE)[2] if self.said else ""


@dataclass(frozen=True)
class Place:
    """Words of a turn in a text, by characters.

    Attributes:
        turn: its number.
        key: the number of its first name among all names in the text.
        begin: of the words; `end` behind them.
        core: where what that name stands for begins.
        taught: where what the model has to say begins: not behind `begin`.
        tagged: the end of what `{% generation %}` encloses, if it does.
        asked: the text before `taught` is what the model is asked with in a chat.
        closed: behind the mark of the turn's end, where the turn calls tools: what it
            ends with is found there, and not right behind the words.
        words_end: the end of the words alone, where calls of tools stand behind them.
    """

    turn: int
    key: int
    begin: int
    core: int
    end: int
    taught: int
    tagged: int | None = None
    asked: bool = False
    closed: int | None = None
    words_end: int | None = None

    @property
    def words(self) -> tuple[int, int]:
        """Where the words alone begin and end."""
        return self.begin, self.end if self.words_end is None else self.words_end


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation; `places` is None where the words were not found."""

    text: str
    places: list[Place] | None


class Cut:
    """A rendering cut at its names.

    Attributes:
        texts: before, between and behind the names.
        keys: (turn, part) of each name.
        marks: of each text, (characters before it, whether it begins) of every end of
            a `{% generation %}`.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.keys = list(
            zip(map(int, pieces[1::3]), map(int, pieces[2::3]), strict=True)
        )
        self.texts = [_MARKS.sub("", text) for text in pieces[::3]]
        self.marks = [
            [
                (m.start() - n, m[0] == BEGIN)
                for n, m in enumerate(_MARKS.finditer(text))
            ]
            for text in pieces[::3]
        ]


def lost(why: str) -> LuminaError:
    """Why the words of the turns are not found."""
    return failure(
        "the words of the turns cannot be found in what the chat template writes: "
        f"{why}",
        "train on everything it writes (--loss-on all), or remove the template from "
        "the model's folder: then Lumina's own chat markers are used",
    )


def find_places(turns: Sequence[Turn], bare: Cut, full: Cut, text: str) -> list[Place]:
    """The places of the words in `text`.

    Args:
        turns: the conversation.
        bare: its rendering with names, without white space around the turns' words.
        full: the same with that white space.
        text: its rendering with its words.
    """
    if bare.keys != full.keys:
        raise lost("white space decides what is written")
    keys = bare.keys
    kept = [_kept(turns, bare, full, n) for n in range(len(full.texts))]
    written, size = [], 0
    begins, ends = [], []  # of what each name stands for
    ranges: list[tuple[int, int]] = []
    opened: list[int] = []
    for n, between in enumerate(full.texts):
        for at, is_begin in full.marks[n]:
            if is_begin:
                opened.append(size + at)
            elif opened:
                ranges.append((opened.pop(), size + at))
        written.append(between)
        size += len(between)
        if n < len(keys):
            turn, part = keys[n]
            words = turns[turn].parts[part]
            begins.append(size)
            written.append(words)
            size += len(words)
            ends.append(size)
    if "".join(written) != text:
        raise lost("it changes them, or what it writes depends on them")
    places = []
    first = 0
    for n in range(len(keys)):
        following = n + 1 < len(keys) and keys[n + 1][0] == keys[n][0]
        if following and keys[n + 1][1] > keys[n][1]:
            continue  # another part of the same words
        begin = begins[first] - kept[first][1]
        words_end = None
        if turns[keys[n][0]].calls:
            said = [
                m for m in range(first, n + 1) if keys[m][1] < turns[keys[m][0]].said
            ]
            words_end = ends[said[-1]] + kept[said[-1] + 1][0] if said else begin
        tag = next((r for r in ranges if r[0] <= begins[first] < r[1]), None)
        places.append(
            Place(
                turn=keys[n][0],
                key=first,
                begin=begin,
                core=begins[first],
                end=ends[n] + kept[n + 1][0],
                taught=tag[0] if tag else begin,
                tagged=tag[1] if tag else None,
                words_end=words_end,
            )
        )
        first = n + 1
    return places


def _kept(turns: Sequence[Turn], bare: Cut, full: Cut, n: int) -> tuple[int, int]:
    """How much at the two ends of text `n` belongs to the words on its two sides."""
    tail = trail = head = lead = ""
    if n > 0:
        turn, part = bare.keys[n - 1]
        if part == turns[turn].said - 1:
            tail, trail = turns[turn].tail, turns[turn].trail
    if n < len(bare.keys):
        turn, part = bare.keys[n]
        if part == 0 and turns[turn].said:
            head, lead = turns[turn].head, turns[turn].lead
    short, long = bare.texts[n], full.texts[n]
    if not short.startswith(tail):
        tail = trail = ""  # the template wrote it anew
    if not short[len(tail) :].endswith(head):
        head = lead = ""
    middle = short[len(tail) : len(short) - len(head)]
    inside = long[len(tail) : len(long) - len(head)]
    cuts = {
        (a, b)
        for a in range(len(trail) + 1)
        if 0 <= (b := len(inside) - len(middle) - a) <= len(lead)
        and inside == trail[:a] + middle + lead[len(lead) - b :]
    }
    if len(cuts) != 1 or not long.startswith(tail) or not long.endswith(head):
        raise lost("it changes white space around them")
    [(a, b)] = cuts
    return len(tail) + a, len(head) + b
