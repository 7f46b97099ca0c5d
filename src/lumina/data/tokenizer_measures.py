"""What tokenizers make of texts: tokens, bytes for each, and what comes back."""

from __future__ import annotations

import itertools
import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumina.data.documents import Document
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_backend import specials
from lumina.data.tokenizer_learning import texts_of

SAMPLE = "Hello, world! 123 + 4.5\n\tdéjà vu — 漢字 かな 😀 مرحبا"
"""A text of several scripts, to see whether it comes back."""

_TOGETHER = 64
_COMPARED = 10**6


@dataclass
class Measured:
    """Tokens of the texts of one source.

    Attributes:
        source: the file.
        texts: how many.
        bytes: of the texts.
        tokens: of the texts.
        unknown: tokens for characters that the vocabulary cannot spell.
        changed: texts that do not come back as they were.
        used: whether each token of the vocabulary occurs.
        seconds: for making tokens of the texts.
    """

    source: str
    used: np.ndarray[Any, np.dtype[np.bool_]]
    texts: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    changed: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text that one token stands for."""
        return self.bytes / max(self.tokens, 1)

    @property
    def coverage(self) -> float:
        """The share of the vocabulary that occurs."""
        return float(self.used.mean())

    def add(self, other: Measured) -> None:
        """Count what another source had, too."""
        self.texts += other.texts
        self.bytes += other.bytes
        self.tokens += other.tokens
        self.unknown += other.unknown
        self.changed += other.changed
        self.seconds += other.seconds
        self.used |= other.used

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "source": self.source,
            "texts": self.texts,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "bytes_per_token": self.bytes_per_token,
            "unknown_tokens": self.unknown,
            "changed_texts": self.changed,
            "vocabulary_used": self.coverage,
            "bytes_per_second": self.bytes / self.seconds if self.seconds else None,
        }


def by_source(
    documents: Iterable[Document], most_bytes: int | None
) -> Iterator[tuple[str, list[str]]]:
    """(source, some texts) in turn; of each source the first `most_bytes` only."""
    for source, group in itertools.groupby(documents, lambda one: one.source):
        taken, texts = 0, []
        for text in (text for document in group for text in texts_of(document)):
            if most_bytes is not None and taken >= most_bytes:
                break
            taken += len(text.encode())
            texts.append(text)
            if len(texts) == _TOGETHER:
                yield source, texts
                texts = []
        if texts:
            yield source, texts


def measure(tokenizer: Tokenizer, source: str, texts: Sequence[str]) -> Measured:
    """Encode some texts of one source."""
    found = Measured(source, np.zeros(tokenizer.vocab_size, dtype=bool))
    unknown = tokenizer.unknown_id
    begun = time.perf_counter()
    encoded = tokenizer.encode_batch(texts)
    found.seconds = time.perf_counter() - begun
    for text, ids in zip(texts, encoded, strict=True):
        found.texts += 1
        found.bytes += len(text.encode())
        found.tokens += len(ids)
        found.unknown += 0 if unknown is None else ids.count(unknown)
        found.changed += tokenizer.decode(ids) != text
        found.used[ids] = True
    return found


def measure_all(
    tokenizer: Tokenizer, documents: Iterable[Document], most_bytes: int | None
) -> list[Measured]:
    """`measure` of each source, and of all together as the last where there are more.

    Args:
        tokenizer: makes tokens of the texts.
        documents: those of one source stand together.
        most_bytes: read no more of each source.
    """
    found: dict[str, Measured] = {}
    for source, texts in by_source(documents, most_bytes):
        one = measure(tokenizer, source, texts)
        if source in found:
            found[source].add(one)
        else:
            found[source] = one
    rows = list(found.values())
    if len(rows) > 1:
        total = Measured("all", np.zeros(tokenizer.vocab_size, dtype=bool))
        for row in rows:
            total.add(row)
        rows.append(total)
    return rows


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer is, without any data."""
    state = json.loads(tokenizer.backend.to_str())
    size = tokenizer.vocab_size
    ids = tokenizer.encode(SAMPLE)
    names = {tokenizer.token_id(token): token for token in specials(tokenizer.backend)}
    return {
        "kind": _kind(state),
        "tokens": size,
        "rows_of_a_model": -(-size // 64) * 64,
        "special_tokens": {names[index]: index for index in sorted(names)},
        "texts_begin_with": _names(tokenizer, tokenizer.begin),
        "documents_end_with": _names(tokenizer, [tokenizer.eos_id]),
        "answers_end_with": _names(tokenizer, sorted(tokenizer.stop_ids)),
        "chat": _chat(tokenizer),
        "sample": SAMPLE,
        "sample_ids": ids,
        "sample_pieces": pieces(tokenizer, SAMPLE),
        "sample_comes_back": tokenizer.decode(ids) == SAMPLE,
        "fingerprint": tokenizer.fingerprint,
        "notes": tokenizer.notes,
    }


def _kind(state: dict[str, Any]) -> str:
    model = state["model"]["type"]
    text = json.dumps(state.get("pre_tokenizer"))
    if "ByteLevel" in text:
        return f"{model} of bytes"
    if state["model"].get("byte_fallback"):
        return f"{model} of characters, with bytes for others"
    return f"{model} of characters"


def _chat(tokenizer: Tokenizer) -> str:
    if tokenizer.templates is not None:
        return "a template of its own"
    return "Lumina's markers" if tokenizer.has_markers else "none"


def _names(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    return [str(tokenizer.backend.id_to_token(index)) for index in ids]


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces of a text that its tokens stand for."""
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    return [text[start:end] for start, end in encoding.offsets]


@dataclass
class Difference:
    """A stretch of text that two tokenizers divide differently.

    Attributes:
        text: the stretch.
        first: the pieces of the first tokenizer.
        second: the pieces of the second.
    """

    text: str
    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)


def differences(first: Tokenizer, second: Tokenizer, text: str) -> list[Difference]:
    """The shortest stretches of a text that two tokenizers divide differently."""
    one, other = (
        [
            span
            for span in tokenizer.backend.encode(text, add_special_tokens=False).offsets
            if span[1] > span[0]
        ]
        for tokenizer in (first, second)
    )
    common = sorted({end for _, end in one} & {end for _, end in other} | {0})
    found = []
    for start, end in itertools.pairwise(common):
        parts = [
            [text[a:b] for a, b in spans if start <= a and b <= end]
            for spans in (_within(one, start, end), _within(other, start, end))
        ]
        if parts[0] != parts[1]:
            found.append(Difference(text[start:end], *parts))
    return found


def _within(
    spans: Sequence[tuple[int, int]], start: int, end: int
) -> Sequence[tuple[int, int]]:
    """The spans that begin from `start` on, before `end`."""
    return spans[bisect_left(spans, (start,)) : bisect_left(spans, (end,))]


def frequent_differences(
    first: Tokenizer, second: Tokenizer, documents: Iterable[Document], most: int
) -> list[tuple[Difference, int]]:
    """The stretches that two tokenizers divide differently most often, and how often.

    Args:
        first: divides each text.
        second: divides it, too.
        documents: read until about 1 MB of text was compared.
        most: how many stretches.
    """
    times: Counter[str] = Counter()
    shown: dict[str, Difference] = {}
    read = 0
    for text in (text for document in documents for text in texts_of(document)):
        for one in differences(first, second, text):
            times[one.text] += 1
            shown.setdefault(one.text, one)
        read += len(text)
        if read >= _COMPARED:
            break
    return [(shown[text], count) for text, count in times.most_common(most)]
