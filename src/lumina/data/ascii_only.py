"""Documents without the characters that ASCII does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from lumina.data.readers.reader import Document
from lumina.data.records import Message


def ascii_documents(
    documents: Iterable[Document], on_removed: Callable[[int, bool], None] | None
) -> Iterator[Document]:
    """Documents of ASCII alone.

    Characters beyond it are taken out. A text of nothing else is left out, and so is a
    conversation of which a turn would be left empty.

    Args:
        documents: what is filtered.
        on_removed: is called for each document or piece of one that changes, with the
            number of characters, and whether all of it is left out.
    """
    begun = False  # a piece of the present document is out already
    for document in documents:
        begun = begun and document.continues
        changed, removed = _changed(document)
        if removed and on_removed is not None:
            on_removed(removed, changed is None)
        if changed is not None:
            yield replace(changed, continues=begun)
            begun = True


def _changed(document: Document) -> tuple[Document | None, int]:
    """The document in ASCII, or None; and how many characters were taken out."""
    if document.text is not None:
        text, removed = _ascii(document.text)
        if not removed:
            return document, 0
        return (replace(document, text=text) if text.strip() else None), removed
    messages: list[Message] = []
    total, emptied = 0, False
    for message in document.messages or ():
        content, removed = _ascii(message["content"])
        emptied = emptied or bool(removed and not content.strip())
        total += removed
        messages.append({**message, "content": content})
    if not total:
        return document, 0
    return (None if emptied else replace(document, messages=tuple(messages))), total


def _ascii(text: str) -> tuple[str, int]:
    if text.isascii():
        return text, 0
    kept = text.encode("ascii", "ignore").decode()
    return kept, len(text) - len(kept)
