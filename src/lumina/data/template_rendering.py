"""Conversations as the text of a chat template, with the places of their words."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lumina.data.chat_tools import has_tools
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
    lost,
)
from lumina.data.template_program import Said, TemplateProgram
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
        if "strftime_now" not in self._templates.conversation:
            now = self._training_time  # nothing asks for it
        self._refuse_specials(messages)
        turns = [_said(message) for message in messages]
        text = self._program.render(turns, now, ask=ask)
        self._check_tools(turns, text, now, ask)
        try:
            return Rendered(text, self._places(messages, text, now, ask))
        except LuminaError:
            if (
                needed
                or has_tools(messages)
                or any(self._spells_special(m["content"]) for m in messages)
            ):
                raise
        return Rendered(text, None)

    def names_written(self) -> str:
        """What the template writes around a question and an answer, which are names."""
        names = (
            Said("user", f"{OPEN}0.0{CLOSE}"),
            Said("assistant", f"{OPEN}1.0{CLOSE}"),
        )
        return "".join(self._skeleton(names, self._training_time, True))

    @property
    def looked_for(self) -> tuple[str, ...]:
        """Marks that the template looks for in the words of a turn."""
        return self._program.looked_for

    def _skeleton_of(
        self, forms: tuple[Said, ...], now: datetime.datetime, ask: bool
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
        turns = [self._turn(n, one) for n, one in enumerate(messages)]
        roles = [message["role"] for message in messages]
        forms = tuple(
            Said(role, turn.form, turn.more)
            for role, turn in zip(roles, turns, strict=True)
        )
        bare = full = Cut(self._skeleton(forms, now, ask))
        if any(turn.lead or turn.trail for turn in turns):
            spaced = tuple(
                one._replace(words=turn.lead + turn.form + turn.trail)
                for one, turn in zip(forms, turns, strict=True)
            )
            full = Cut(self._skeleton_of(spaced, now, ask))
        places = find_places(turns, bare, full, text)
        for number, turn in enumerate(turns):
            if turn.form and all(place.turn != number for place in places):
                raise failure(
                    f"the model's chat template leaves out the words of turn "
                    f"{number + 1}, of the {roles[number]}",
                    "leave that turn out, or correct the template",
                )
            if turn.calls > sum(
                key == number and part >= turn.said for key, part in bare.keys
            ):
                raise failure(
                    "the model's chat template leaves out the calls of tools in turn "
                    f"{number + 1}",
                    "use a model whose chat template writes tools, or leave such "
                    "conversations out",
                )
        if ask:
            return places
        places = [
            replace(place, closed=self._closed(messages, place, text, now))
            if turns[place.turn].calls
            else place
            for place in places
        ]
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
        forms: tuple[Said, ...],
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

    def _closed(
        self,
        messages: Sequence[Message],
        place: Place,
        text: str,
        now: datetime.datetime,
    ) -> int:
        """Where a turn with calls of tools ends: as if nothing came behind it."""
        turns = [_said(message) for message in messages[: place.turn + 1]]
        alone = self._program.render(turns, now)
        if not text.startswith(alone):
            raise lost(
                f"what it writes of turn {place.turn + 1} depends on later turns"
            )
        return len(alone)

    def _refuse_specials(self, messages: Sequence[Message]) -> None:
        """Refuse special tokens in calls of tools, which would become what they spell.

        In the words of a turn they stay text.
        """
        for number, message in enumerate(messages, 1):
            more = _more(message)
            if more and self._spells_special(more):
                raise failure(
                    "the calls, names or definitions of tools in turn "
                    f"{number} spell a special token of the vocabulary",
                    "change that text, or leave such conversations out",
                )

    def _check_tools(
        self, turns: Sequence[Said], text: str, now: datetime.datetime, ask: bool
    ) -> None:
        """Refuse a template that leaves out the definitions of tools."""
        if not turns[0].more or "tools" not in json.loads(turns[0].more):
            return
        fields = json.loads(turns[0].more)
        del fields["tools"]
        bare = [turns[0]._replace(more=json.dumps(fields)), *turns[1:]]
        try:
            same = self._program.render(bare, now, ask=ask) == text
        except LuminaError:
            same = False
        if same:
            raise failure(
                "the model's chat template leaves out the definitions of tools",
                "use a model whose chat template writes tools, or take 'tools' out of "
                "the records",
            )

    def writes(self, field: str) -> bool:
        """Whether the template writes a field of turns, such as "name"."""
        probe = f"{OPEN}9.9{CLOSE}"
        call = {"id": "abcdefghi", "type": "function",
                "function": {"name": "f", "arguments": {}}}  # fmt: skip
        more = json.dumps({field: probe}, ensure_ascii=False)
        answer = Said("tool", "1", json.dumps({"name": "f"} | json.loads(more)))
        asked = Said("user", "a")
        calling = Said("assistant", "", json.dumps({"tool_calls": [call]}))
        said = Said("assistant", "b")
        for turns in (
            [asked._replace(more=more), said],
            [asked, calling, answer, said],
        ):
            try:
                if probe in self._program.render(turns, self._training_time):
                    return True
            except LuminaError:
                continue  # it does not take such turns, so it does not write them
        return False

    def _turn(self, number: int, message: Message) -> Turn:
        words = message["content"]
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
        more = _more(message)
        names: list[str] = []
        if calls := message.get("tool_calls"):
            named = []
            for call in calls:
                name = f"{OPEN}{number}.{len(parts) + len(names)}{CLOSE}"
                names.append(call["function"]["name"])
                named.append({**call, "function": {**call["function"], "name": name}})
            more = _more({**message, "tool_calls": named})
        return Turn(form, (*parts, *names), lead, trail, len(names), more)


_MORE = ("tool_calls", "name", "tool_call_id", "tools")


def _more(message: Message) -> str:
    """The fields of a message besides its role and words, as in `Said`."""
    found: dict[str, Any] = {key: message[key] for key in _MORE if key in message}  # type: ignore[literal-required]
    if message.get("no_content"):
        found["content"] = None
    return json.dumps(found, ensure_ascii=False) if found else ""


def _said(message: Message) -> Said:
    return Said(message["role"], message["content"], _more(message))
