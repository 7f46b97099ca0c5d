"""A chat template as a program that runs in a sandbox."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import jinja2.nodes
from jinja2.exceptions import SecurityError

from lumina.data.template_errors import HINT, UnusableTemplateError, failure
from lumina.data.template_sandbox import MAX_OUTPUT, Sandbox
from lumina.errors import LuminaError

MAX_TEMPLATE = 2**18
"""Characters of a template."""


class Said(NamedTuple):
    """A turn as a template gets it.

    Attributes:
        role: the speaker.
        words: what is said.
        more: JSON of the turn's other fields; "" without any. "tools" among them are
            those of the conversation.
    """

    role: str
    words: str
    more: str = ""

    def fields(self) -> dict[str, Any]:
        """The turn as an object; a template sees no other."""
        more = json.loads(self.more) if self.more else {}
        return {"role": self.role, "content": self.words, **more}


class TemplateProgram:
    """A template, compiled; renders conversations."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        if len(source) > MAX_TEMPLATE:
            raise UnusableTemplateError(
                "E108",
                f"the chat template has {len(source):,} characters, more than the "
                f"{MAX_TEMPLATE:,} that are allowed",
                HINT,
            )
        self._variables = variables
        self._sandbox = Sandbox()
        try:
            tree, self._compiled = self._sandbox.compiled(source)
            self.looked_for = _looked_for(tree)
        except (jinja2.TemplateError, RecursionError) as error:
            raise UnusableTemplateError(
                "E108", f"the chat template is not valid: {error}", HINT
            ) from None

    def render(
        self,
        messages: Sequence[Said],
        now: datetime.datetime,
        *,
        ask: bool = False,
        marks: bool = False,
    ) -> str:
        """The text of turns.

        Args:
            messages: the turns.
            now: the time it may write.
            ask: with what comes before the assistant's next words.
            marks: with characters around what `{% generation %}` encloses.
        """
        words = sum(len(one.words) + len(one.more) for one in messages)
        limit = MAX_OUTPUT + 4 * words
        self._sandbox.begin(len(messages), words)
        pieces: list[str] = []
        size = 0
        try:
            turns = [one.fields() for one in messages]
            tools = [turn.pop("tools", None) for turn in turns]
            for piece in self._compiled.generate(
                messages=turns,
                tools=next((some for some in tools if some), None),
                documents=None,
                add_generation_prompt=ask,
                strftime_now=now.strftime,
                lumina_marks=marks,
                **self._variables,
            ):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise SecurityError("it writes without end")
        except SecurityError as error:
            raise UnusableTemplateError(
                "E108", f"the model's chat template was stopped: {error}", HINT
            ) from None
        except Exception as error:  # a template is a program: it can raise anything
            raise self._told(messages, now, ask, error) from None
        return "".join(pieces)

    def _told(
        self,
        messages: Sequence[Said],
        now: datetime.datetime,
        ask: bool,
        error: Exception,
    ) -> LuminaError:
        """The error, with the role that the template does not take, if it is that."""
        said = str(error) or type(error).__name__
        others = [message for message in messages if message.role != "system"]
        if 0 < len(others) < len(messages):
            try:
                self.render(others, now, ask=ask)
            except LuminaError:
                pass
            else:
                return failure(
                    f"the model's chat template takes no system turn: {said}",
                    "leave the system turn out, or put its words into the user's turn",
                )
        roles = ", ".join(message.role for message in messages[:6])
        more = ", ..." if len(messages) > 6 else ""
        return failure(
            f"the model's chat template refuses the turns {roles}{more}: {said}",
            "give turns that the model was made for, or remove the template from its "
            "folder: then Lumina's own chat markers are used",
        )


def _looked_for(tree: jinja2.nodes.Template) -> tuple[str, ...]:
    """Texts that the template looks for in the words of a turn, longest first.

    Words and names are left out: only marks such as ``</think>`` divide a turn.
    """
    found = set()
    places: list[Any] = []
    for compare in tree.find_all(jinja2.nodes.Compare):
        if any(one.op in ("in", "notin") for one in compare.ops):
            places.append(compare.expr)
    for call in tree.find_all(jinja2.nodes.Call):
        if isinstance(call.node, jinja2.nodes.Getattr):
            places += call.args
    for filtered in tree.find_all(jinja2.nodes.Filter):
        places += filtered.args
    for place in places:
        if isinstance(place, jinja2.nodes.Const) and isinstance(place.value, str):
            text = place.value.strip()
            if len(text) > 1 and not text.replace("_", "").isalnum():
                found.add(text)
    return tuple(sorted(found, key=lambda text: (-len(text), text)))
