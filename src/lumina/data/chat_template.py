"""A model's own chat template: the text it writes, the token ids, what bears loss.

A template is a program that came with a model's files. It runs in a sandbox, and what
it writes is encoded as transformers' `apply_chat_template` encodes it. Where the words
of each turn stand in that text is found by rendering the same conversation with names
in their places; the result is used only if the words put back give the same text.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Callable, Sequence

import tokenizers

from lumina.data.chat_format import Chat
from lumina.data.long_conversations import LaidOut, Span
from lumina.data.records import Message
from lumina.data.template_errors import UnusableTemplateError, failure
from lumina.data.template_files import DEFAULT, Templates
from lumina.data.template_loss import (
    behind_place,
    end_of_turn,
    first_token,
    loss_mask,
)
from lumina.data.template_places import Rendered
from lumina.data.template_rendering import Renderer
from lumina.data.template_tokens import TemplateVocabulary
from lumina.errors import LuminaError


class TemplateFormat:
    """The chat format that a template describes.

    Args:
        templates: of the model's folder.
        backend: its vocabulary.
        without_prefix: gives the vocabulary without what it puts before a text that
            stands behind a special token.
    """

    def __init__(
        self,
        templates: Templates,
        backend: tokenizers.Tokenizer,
        without_prefix: Callable[[tokenizers.Tokenizer], tokenizers.Tokenizer],
    ) -> None:
        self._templates = templates
        self._vocabulary = TemplateVocabulary(backend, without_prefix)
        self._renderer = Renderer(templates, self._vocabulary.spells_special)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the ids, besides the vocabulary."""
        text = self._templates.named.get(DEFAULT, "")
        day = self._templates.day if "strftime_now" in text else ""
        state = json.dumps([text, sorted(self._templates.variables.items()), day])
        return hashlib.sha256(state.encode()).hexdigest()

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens behind an assistant's last words.

        Empty for a template that has no such token, or that fails: an error follows
        when a conversation is encoded with it.
        """
        turns: list[Message] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        try:
            rendered = self._renderer.located(turns)
            tokens = self._vocabulary.tokens([rendered])[0]
        except LuminaError:
            return frozenset()
        ends = (
            end_of_turn(self._vocabulary, tokens, rendered, p)
            for p in rendered.places or ()
            if p.turn
        )
        return frozenset(tokens.ids[end] for end in ends if end is not None)

    def writes(self, field: str) -> bool:
        """Whether the template writes a field of turns, such as "name"."""
        return self._renderer.writes(field)

    def control_tokens(self) -> list[str]:
        """Added tokens that the template writes, but that text can spell as well.

        What the template looks for in words is left out: words are to spell it.
        """
        try:
            text = self._renderer.names_written()
            looked_for = self._renderer.looked_for
        except LuminaError:
            return []
        return [
            token
            for token in self._vocabulary.spelled_out(text)
            if not any(token in one for one in looked_for)
        ]

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids of a conversation up to where the assistant is to speak."""
        now = datetime.datetime.now()
        rendered = self._renderer.rendered(messages, now, ask=True, needed=False)
        return self._vocabulary.tokens([rendered])[0].ids

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> list[Chat | LuminaError]:
        """Ids and mask of each conversation, or why it has none.

        Args:
            conversations: turns; what a turn itself says of its loss is obeyed.
            loss_on: "assistant" teaches what it says and the end of its turn, "all"
                teaches everything.
        """
        rendered: list[Rendered | LuminaError] = []
        useless: UnusableTemplateError | None = None
        for messages in conversations:
            if useless is not None:  # to find that out may have taken a while
                rendered.append(useless)
                continue
            needed = loss_on != "all" or any(
                "train" in m or "weight" in m for m in messages
            )
            try:
                rendered.append(self._renderer.located(messages, needed=needed))
            except LuminaError as error:
                rendered.append(error)
                if isinstance(error, UnusableTemplateError):
                    useless = error
        good = [one for one in rendered if isinstance(one, Rendered)]
        whole = self._vocabulary.tokens(good)
        tokens = iter(
            [self._vocabulary.as_asked(*both) for both in zip(good, whole, strict=True)]
        )
        done: list[Chat | LuminaError] = []
        for messages, one in zip(conversations, rendered, strict=True):
            if isinstance(one, LuminaError):
                done.append(one)
                continue
            try:
                found = next(tokens)
                done.append(
                    (
                        found.ids,
                        loss_mask(self._vocabulary, messages, one, found, loss_on),
                    )
                )
            except LuminaError as error:
                done.append(error)
        return done

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand.

        Raises:
            LuminaError: E108 where the words of every turn are not found once.
        """
        rendered = self._renderer.located(messages)
        [tokens] = self._vocabulary.tokens([rendered])
        tokens = self._vocabulary.as_asked(rendered, tokens)
        places = rendered.places or []
        if [place.turn for place in places] != list(range(len(messages))):
            raise failure(
                "the model's chat template does not write the words of every turn "
                "once and in order"
            )
        spans = []
        for place, message in zip(places, messages, strict=True):
            said = message["role"] == "assistant"
            words = first_token(tokens, place.taught if said else place.begin)
            spans.append(
                Span(words, behind_place(self._vocabulary, tokens, rendered, place))
            )
        mask = loss_mask(self._vocabulary, messages, rendered, tokens, loss_on)
        return LaidOut(tokens.ids, mask, spans)
