"""Conversations as the text of a chat template, with the places of their words."""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from lumina.data.chat_tools import tools_refused
from lumina.data.records import Message
from lumina.data.template_errors import failure
from lumina.data.template_files import Templates
from lumina.data.template_places import (
    CLOSE,
    KEY,
    OPEN,
    Cut,
    Place,
    Rendered,
    Turn,
    find_places,
)
from lumina.data.template_program import TemplateProgram
from lumina.errors import LuminaError


class Renderer:
    """Renders conversations by a template and finds the words of their turns.

    Args:
        templates: of the model's folder.
        spells_special: says whether a text holds a special token of the vocabulary.
    """

    def __init__(
        self, templates: Templates, spells_special: Callable[[str], bool]
    ) -> None:
        self._templates = templates
        self._spells_special = spells_special
        self._skeleton = functools.lru_cache(1024)(self._skeleton_of)

    @functools.cached_property
    def _program(self) -> TemplateProgram:
        return TemplateProgram(self._templates.conversation, self._templates.variables)

    @property
    def _training_time(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self._templates.day)

    def located(self, messages: Sequence[Message], *, needed: bool = True) -> Rendered:
        """The text of a conversation to train on; arguments as `rendered`."""
        return self.rendered(messages, self._training_time, needed=needed)

    def rendered(
        self,
        messages: Sequence[Message],
        now: datetime.datetime,
        *,
        ask: bool = False,
        needed: bool,
    ) -> Rendered:
        """The text, with the places of the words; without, if not `needed` and lost."""
        if not messages:
            raise failure("a conversation without a turn", "give it a turn")
        refused = tools_refused(messages, "the model's chat template")
        if refused is not None:
            raise refused
        if "strftime_now" not in self._templates.conversation:
            now = self._training_time  # nothing asks for it
        turns = [(message["role"], message["content"]) for message in messages]
        text = self._program.render(turns, now, ask=ask)
        try:
            return Rendered(text, self._places(messages, text, now, ask))
        except LuminaError:
            if needed or any(self._spells_special(m["content"]) for m in messages):
                raise
        return Rendered(text, None)

    def names_written(self) -> str:
        """What the template writes around a question and an answer, which are names."""
        names = (("user", f"{OPEN}0.0{CLOSE}"), ("assistant", f"{OPEN}1.0{CLOSE}"))
        return "".join(self._skeleton(names, self._training_time, True))

    @property
    def looked_for(self) -> tuple[str, ...]:
        """Marks that the template looks for in the words of a turn."""
        return self._program.looked_for

    def _skeleton_of(
        self, forms: tuple[tuple[str, str], ...], now: datetime.datetime, ask: bool
    ) -> tuple[str, ...]:
        """A rendering of names, cut at the names: text, turn, part, text, ..."""
        return tuple(KEY.split(self._program.render(forms, now, ask=ask, marks=True)))

    def _places(
        self,
        messages: Sequence[Message],
        text: str,
        now: datetime.datetime,
        ask: bool,
    ) -> list[Place]:
        turns = [self._turn(n, one["content"]) for n, one in enumerate(messages)]
        roles = [message["role"] for message in messages]
        forms = tuple(zip(roles, (turn.form for turn in turns), strict=True))
        bare = full = Cut(self._skeleton(forms, now, ask))
        if any(turn.lead or turn.trail for turn in turns):
            spaced = (turn.lead + turn.form + turn.trail for turn in turns)
            full = Cut(
                self._skeleton_of(tuple(zip(roles, spaced, strict=True)), now, ask)
            )
        places = find_places(turns, bare, full, text)
        for number, turn in enumerate(turns):
            if turn.form and all(place.turn != number for place in places):
                raise failure(
                    f"the model's chat template leaves out the words of turn "
                    f"{number + 1}, of the {roles[number]}",
                    "leave that turn out, or correct the template",
                )
        if ask:
            return places
        taught = []
        for place in places:
            if roles[place.turn] == "assistant" and place.tagged is None:
                begin = self._taught(place, turns, bare, forms, now)
                if begin is not None:
                    place = replace(place, taught=begin, asked=True)
            taught.append(place)
        return taught

    def _taught(
        self,
        place: Place,
        turns: Sequence[Turn],
        bare: Cut,
        forms: tuple[tuple[str, str], ...],
        now: datetime.datetime,
    ) -> int | None:
        """Where what the model says begins: behind what asks it to speak.

        None where what asks it is not known, so that its words have to do.
        """
        if place.turn == 0:
            return None
        try:
            asked = Cut(self._skeleton(forms[: place.turn], now, True))
        except LuminaError:
            return None  # these turns alone are none the model is asked with
        before, tail = bare.texts[place.key], asked.texts[-1]
        if asked.keys != bare.keys[: place.key] or not before.startswith(tail):
            return None
        head = turns[place.turn].head if bare.keys[place.key][1] == 0 else ""
        head = head if before.endswith(head) else ""
        written = len(before) - len(head) - len(tail)
        return (
            place.begin - written
            if written >= 0
            else place.core - len(before) + len(tail)
        )

    def _turn(self, number: int, words: str) -> Turn:
        inner = words.strip()
        lead = words[: len(words) - len(words.lstrip())]
        trail = words[len(lead) + len(inner) :]
        marks = [
            mark
            for mark in self._program.looked_for
            if mark in inner and not self._spells_special(mark)
        ]
        pieces = (
            re.split(f"({'|'.join(map(re.escape, marks))})", inner)
            if marks
            else [inner]
        )
        form = ""
        parts: list[str] = []
        for index, piece in enumerate(pieces):
            core = piece.strip()
            if index % 2 or not core:
                form += piece
                continue
            at = piece.index(core)
            name = f"{OPEN}{number}.{len(parts)}{CLOSE}"
            form += piece[:at] + name + piece[at + len(core) :]
            parts.append(core)
        return Turn(form, tuple(parts), lead, trail)
