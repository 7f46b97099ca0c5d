"""A tokenizer trained on a stream of documents, within a bound of memory.

The library that trains keeps every different word, and what it needs grows with them.
A first pass counts them, with a stated price for each. Where they would not fit, only
every second document is read, or every fourth, and so on: text from all of the data,
and the same text on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lumina.data.documents import Document
from lumina.data.readers.text import PIECE_BYTES
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

BYTES_PER_LETTER = 150
"""Bytes that the library needs for each byte of a different word, measured as 78 to 139
on words of 4 to 4,000 letters, and two more bytes for each word."""

LEAST_BYTES = 2**26
"""A smaller bound makes no sense: the program itself is larger."""

_MOST_THINNED = 2**20


@dataclass(frozen=True)
class Learnt:
    """What a tokenizer was trained on.

    Attributes:
        tokenizer: the result.
        every: one document in this many was read.
        documents: how many were read.
        bytes: of these documents.
        words: different words in them, as white space divides them.
        expected_bytes: the memory that they were expected to need.
    """

    tokenizer: Tokenizer
    every: int
    documents: int
    bytes: int
    words: int
    expected_bytes: int


def texts_of(document: Document) -> Iterator[str]:
    """The texts of a document; of a conversation those of its turns."""
    if document.text is not None:
        yield document.text
    for message in document.messages or ():
        yield message["content"]


def train_on(
    documents: Callable[[], Iterator[Document]],
    vocab_size: int,
    memory_bytes: int,
) -> Learnt:
    """Train a byte-level BPE.

    Args:
        documents: begins a pass over the documents, the same ones each time.
        vocab_size: as for `Tokenizer.train`.
        memory_bytes: the most that training is to need, beside the program itself.

    Raises:
        LuminaError: E005 for a bound too small, E105 where there is no text.
    """
    if memory_bytes < LEAST_BYTES:
        raise LuminaError(
            "E005",
            f"{memory_bytes:,} bytes of memory are too few to train a tokenizer",
            f"give at least {LEAST_BYTES:,}",
        )
    every = 1
    while (counted := _count(documents, every, memory_bytes)) is None:
        every *= 2
        if every > _MOST_THINNED:
            raise LuminaError(
                "E005",
                "a single document has more different words than fit into "
                f"{memory_bytes:,} bytes of memory",
                "give more memory, or divide the document",
            )
    found, size, words, expected = counted
    if not size:
        raise LuminaError("E105", "there is no text to train on", "name other files")
    texts = (
        piece
        for document in _kept(documents(), every)
        for text in texts_of(document)
        for piece in _pieces(text)
    )
    tokenizer = Tokenizer.train(texts, vocab_size)
    return Learnt(tokenizer, every, found, size, words, expected)


def _kept(documents: Iterator[Document], every: int) -> Iterator[Document]:
    """One document in `every`, with all of its pieces."""
    place = -1
    for document in documents:
        place += not document.continues
        if place % every == 0:
            yield document


def _count(
    documents: Callable[[], Iterator[Document]], every: int, most: int
) -> tuple[int, int, int, int] | None:
    """(documents, bytes, words, expected memory), or None where it is more than `most`.

    The words are kept as numbers, which stand for them well enough to be counted.
    """
    seen: set[int] = set()
    found = size = expected = 0
    for document in _kept(documents(), every):
        found += not document.continues
        for text in texts_of(document):
            size += len(text.encode("utf-8", "surrogatepass"))
            for word in set(text.split()):
                number = hash(word)
                if number not in seen:
                    seen.add(number)
                    letters = len(word) if word.isascii() else len(word.encode())
                    expected += BYTES_PER_LETTER * (letters + 2)
        if expected > most:
            return None
    return found, size, len(seen), expected


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces that are cut before white space: the library keeps several."""
    start = 0
    while len(text) - start > PIECE_BYTES:
        cut = start + PIECE_BYTES
        while cut < len(text) and not text[cut].isspace():
            cut += 1
        yield text[start:cut]
        start = cut
    yield text[start:]


def require_new(folder: Path) -> None:
    """Refuse a folder in use: nothing is overwritten.

    Raises:
        LuminaError: E002.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LuminaError(
            "E002",
            f"{folder} is there already, and nothing is overwritten",
            "name a new folder",
        )
