"""Token ids of text that stands inside of a document, not at its beginning.

Many tokenizers put a space before the beginning of a text. Text that follows a special
token, or that goes on where other text ended, is no beginning and must not get one.
"""

from __future__ import annotations

from functools import cached_property

import tokenizers

from lumina.data.tokenizer_backend import no_text, without_prefix


class InsideText:
    """Encodes text that is not the beginning of a document.

    Args:
        backend: the tokenizer of whole documents.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend

    @cached_property
    def behind_special(self) -> tokenizers.Tokenizer:
        """Encodes texts that each stand right behind a special token."""
        return without_prefix(self._backend, only_first=True)

    @cached_property
    def _within(self) -> tokenizers.Tokenizer:
        return without_prefix(self._backend, only_first=False)

    @cached_property
    def _spelled_added(self) -> frozenset[int]:
        """Ids of added tokens that text can spell: they are not special."""
        added = self._backend.get_added_tokens_decoder().items()
        return frozenset(index for index, token in added if not token.special)

    def encode(self, text: str) -> list[int]:
        """Token ids of text that goes on where other text ended.

        They are those that it has in the whole text, if no token lies across the cut.

        Raises:
            LuminaError: E005 for what is no text, E103 for one that is not Unicode.
        """
        if self._within is self._backend:
            return self._ids(self._backend, text)
        # Behind an added token, which text itself can spell, a prefix comes again.
        try:
            rest = self.behind_special.encode(text, add_special_tokens=False)
        except TypeError:
            raise no_text(text) from None
        added = self._spelled_added
        at = next((n for n, i in enumerate(rest.ids) if i in added), len(rest.ids))
        if at < len(rest.ids):
            text = text[: rest.offsets[at][0]]
        return [*self._ids(self._within, text), *rest.ids[at:]]

    @staticmethod
    def _ids(backend: tokenizers.Tokenizer, text: str) -> list[int]:
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise no_text(text) from None
        return ids
