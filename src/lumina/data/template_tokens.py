"""The text of a chat template as tokens: special ones only where it writes them."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tokenizers

from lumina.data.template_errors import failure
from lumina.data.template_places import Rendered


@dataclass(frozen=True)
class Tokens:
    """Ids of a text, and the characters that each stands for."""

    ids: list[int]
    begins: list[int]
    ends: list[int]


class TemplateVocabulary:
    """Encodes rendered conversations.

    Args:
        backend: the vocabulary.
        without_prefix: gives the vocabulary without what it puts before a text that
            stands behind a special token.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        without_prefix: Callable[[tokenizers.Tokenizer], tokenizers.Tokenizer],
    ) -> None:
        state = json.loads(backend.to_str())
        # It only moves the reported places of tokens: no special tokens are asked for.
        state["post_processor"] = None
        plain = json.dumps(state)
        self._whole = tokenizers.Tokenizer.from_str(plain)
        self._whole.encode_special_tokens = False  # the template's are meant
        self._first = tokenizers.Tokenizer.from_str(plain)
        self._first.encode_special_tokens = True
        self._behind = without_prefix(self._first)
        self._behind.encode_special_tokens = True
        added = backend.get_added_tokens_decoder()
        self._special = {i: t.content for i, t in added.items() if t.special}
        unknown = state["model"].get("unk_token")
        self._unknown = state["model"].get("unk_id")
        if unknown is not None:
            self._unknown = backend.token_to_id(unknown)

    def spelled_out(self, text: str) -> list[str]:
        """Added tokens in `text` that are not special: any text can spell them."""
        added = self._whole.get_added_tokens_decoder().values()
        return sorted(
            token.content
            for token in added
            if not token.special and token.content in text and token.content.strip()
        )

    def spells_special(self, text: str) -> bool:
        """Whether a special token would be made of this text."""
        found = self._whole.encode(text, add_special_tokens=False)
        return any(
            self.is_special(index, text[begin:end])
            for index, (begin, end) in zip(found.ids, found.offsets, strict=True)
        )

    def is_special(self, index: int, text: str) -> bool:
        """Whether a token is special; the unknown token stands for anything."""
        if index not in self._special:
            return False
        return index != self._unknown or text.strip() == self._special[index]

    def tokens(self, rendered: Sequence[Rendered]) -> list[Tokens]:
        """The tokens of each text."""
        encoded = self._whole.encode_batch(
            [one.text for one in rendered], add_special_tokens=False
        )
        return [
            self._guarded(one, self._spread(found))
            for one, found in zip(rendered, encoded, strict=True)
        ]

    def as_asked(self, rendered: Rendered, tokens: Tokens) -> Tokens:
        r"""The tokens, divided where the model is asked to speak.

        Some vocabularies encode white space at the end of a text as one token, and as
        several where a word follows: GPT-2's do so with the two line ends of
        ``assistant\n\n``. An answer has to be trained behind the ids of the prompt
        that a chat will give, which ends there.
        """
        for place in reversed(rendered.places or []):
            if place.asked:
                tokens = self._divided(rendered.text, tokens, place.taught)
        return tokens

    @staticmethod
    def _spread(encoding: tokenizers.Encoding) -> Tokens:
        offsets = encoding.offsets
        return Tokens(encoding.ids, [b for b, _ in offsets], [e for _, e in offsets])

    def _guarded(self, rendered: Rendered, tokens: Tokens) -> Tokens:
        """The tokens, but with special ones only where the template writes them."""
        if rendered.places is None:
            return tokens
        text = shadow = rendered.text
        seen = tokens
        while found := self._spelled(rendered, shadow, seen):
            # What decides is only where the template's own special tokens stand.
            for begin, end in found:
                shadow = shadow[:begin] + "x" * (end - begin) + shadow[end:]
            seen = self._spread(self._whole.encode(shadow, add_special_tokens=False))
        if shadow == text:
            return tokens
        ids: list[int] = []
        begins: list[int] = []
        ends: list[int] = []

        def add(upto: int) -> None:
            start = ends[-1] if ends else 0
            part = self._ordinary(text, start, upto)
            for index, begin, end in zip(part.ids, part.begins, part.ends, strict=True):
                piece = text[begin:end]
                if self.is_special(index, piece):
                    raise failure(
                        f"the vocabulary makes ordinary text {piece!r} a special token",
                        "remove that text from the conversation",
                    )
            ids.extend(part.ids)
            begins.extend(part.begins)
            ends.extend(part.ends)

        for index, begin, end in zip(seen.ids, seen.begins, seen.ends, strict=True):
            if self.is_special(index, shadow[begin:end]):
                if begin > (ends[-1] if ends else 0):
                    add(begin)
                ids.append(index)
                begins.append(begin)
                ends.append(end)
        if len(text) > (ends[-1] if ends else 0):
            add(len(text))
        return Tokens(ids, begins, ends)

    def _divided(self, text: str, tokens: Tokens, at: int) -> Tokens:
        """The tokens with those around character `at` made of the text on each side."""

        def special(n: int) -> bool:
            piece = text[tokens.begins[n] : tokens.ends[n]]
            return self.is_special(tokens.ids[n], piece)

        first = last = bisect.bisect_left(tokens.begins, at)
        if first and special(first - 1) and tokens.ends[first - 1] >= at:
            return tokens
        while first and not special(first - 1):
            first -= 1
        while last < len(tokens.ids) and not special(last):
            last += 1
        start = tokens.ends[first - 1] if first else 0
        stop = tokens.begins[last] if last < len(tokens.ids) else len(text)
        asks = self._ordinary(text, start, at)
        if tokens.ids[first : first + len(asks.ids)] == asks.ids and (
            first + len(asks.ids) == len(tokens.ids)
            or tokens.begins[first + len(asks.ids)] >= at
        ):
            return tokens
        says = self._ordinary(text, at, stop)
        return Tokens(
            [*tokens.ids[:first], *asks.ids, *says.ids, *tokens.ids[last:]],
            [*tokens.begins[:first], *asks.begins, *says.begins, *tokens.begins[last:]],
            [*tokens.ends[:first], *asks.ends, *says.ends, *tokens.ends[last:]],
        )

    def _ordinary(self, text: str, start: int, stop: int) -> Tokens:
        """Tokens of text that holds no special token, as it stands in the whole."""
        backend = self._behind if start else self._first
        part = self._spread(backend.encode(text[start:stop], add_special_tokens=False))
        return Tokens(
            part.ids,
            [start + begin for begin in part.begins],
            [start + end for end in part.ends],
        )

    def _spelled(
        self, rendered: Rendered, text: str, tokens: Tokens
    ) -> list[tuple[int, int]]:
        """Characters of words that special tokens were made of."""
        found = []
        places = sorted(p.words for p in rendered.places or ())
        for index, begin, end in zip(
            tokens.ids, tokens.begins, tokens.ends, strict=True
        ):
            if not self.is_special(index, text[begin:end]):
                continue
            # Some special tokens take the white space beside them.
            piece = text[begin:end]
            begin += len(piece) - len(piece.lstrip())
            end = begin + len(piece.strip())
            at = bisect.bisect_left(places, (begin + 1, -1)) - 1
            for one in places[max(at, 0) : at + 2]:
                low, high = max(begin, one[0]), min(end, one[1])
                if low < high:
                    found.append((low, high))
        return found
