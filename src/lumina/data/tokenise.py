"""Documents -> token ids, on several threads, a block at a time."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.data.chat_template import Chat
from lumina.data.documents import Document
from lumina.data.split import document_bytes, utf8_length
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

BLOCK_BYTES = 2**19
"""Text that one thread encodes at a time."""

ENCODING_RULES = 4
"""Raised whenever equal documents get other ids: stores of older rules are not read."""

RULES_SINCE = {
    3: "texts begin with a begin token only where the tokenizer's files name one; "
    "before, the end token or <s> stood in for it",
    4: "texts begin with the tokens that tokenizer.json puts before them, as in "
    "transformers' plain call; before, a begin token that was only named began them",
}
"""What changed with `ENCODING_RULES`, for runs that were begun with older ones."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a document or a piece of one.

    Attributes:
        held_out: which side of the split it is on.
        ids: [N] token ids, the begin token first, if there is one, and the end token
            last where the document begins and ends.
        mask: [N], which of them count as labels.
        text_bytes: UTF-8 bytes of the text; `loss_bytes` of what bears loss.
        last: the document ends here.
    """

    held_out: bool
    ids: NDArray[np.uint32]
    mask: NDArray[np.bool_]
    text_bytes: int
    loss_bytes: int
    last: bool


@dataclass(frozen=True, slots=True)
class _Part:
    held_out: bool
    document: Document
    last: bool


def encode_documents(
    documents: Iterable[tuple[bool, Document]],
    tokenizer: Tokenizer,
    *,
    loss_on: str,
    threads: int,
) -> Iterator[Encoded]:
    """Encode (side, document) pairs; order and result do not depend on `threads`.

    The tokenizers library works without Python's global lock, so plain threads use
    all cores. Only a few blocks are in memory at once. With no thread it is done here.
    """
    blocks = _blocks(_mark_last(documents))
    if threads == 0:
        for block in blocks:
            yield from _encode_block(block, tokenizer, loss_on)
        return
    with _no_inner_threads(), ThreadPoolExecutor(threads, "lumina-tokens") as pool:
        running: deque[Future[list[Encoded]]] = deque()
        for block in blocks:
            running.append(pool.submit(_encode_block, block, tokenizer, loss_on))
            if len(running) > threads + 1:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


@contextlib.contextmanager
def _no_inner_threads() -> Iterator[None]:
    """Keep the library from starting its own threads beside ours."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _mark_last(documents: Iterable[tuple[bool, Document]]) -> Iterator[_Part]:
    """Know of each piece whether another one of the same document follows."""
    waiting: tuple[bool, Document] | None = None
    for side, document in documents:
        if waiting is not None:
            yield _Part(*waiting, last=not document.continues)
        waiting = side, document
    if waiting is not None:
        yield _Part(*waiting, last=True)


def _blocks(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    block: list[_Part] = []
    size = 0
    for part in parts:
        block.append(part)
        size += document_bytes(part.document) + 64  # short ones cost something too
        if size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _encode_block(
    block: list[_Part], tokenizer: Tokenizer, loss_on: str
) -> list[Encoded]:
    texts: list[str] = []
    conversations = [
        part.document.messages or () for part in block if part.document.text is None
    ]
    for part in block:
        document = part.document
        if document.text is not None and not document.continues:
            texts.append(document.text)
    wholes = iter(tokenizer.encode_batch(texts))
    chats: Iterator[Chat | LuminaError] = iter(())
    if conversations and tokenizer.chat_format is not None:
        chats = iter(tokenizer.chat_format.encode(conversations, loss_on=loss_on))
    encoded = []
    for part in block:
        document = part.document
        if document.text is None:
            chat = next(chats)
            if isinstance(chat, LuminaError):
                raise _at(document, chat)
            encoded.append(_encode_chat(part, chat, loss_on))
        elif document.continues:
            ids = tokenizer.encode_continuation(document.text)
            encoded.append(_encode_text(part, ids, tokenizer))
        else:
            encoded.append(_encode_text(part, next(wholes), tokenizer))
    return encoded


def _at(document: Document, error: LuminaError) -> LuminaError:
    """The error, with where the conversation stands."""
    where = f"{document.source}, line {document.line}"
    return LuminaError(error.code, f"{where}: {error.message}", error.hint)


def _encode_text(part: _Part, ids: list[int], tokenizer: Tokenizer) -> Encoded:
    document = part.document
    loss_bytes = size = document_bytes(document)
    if not document.continues:
        if tokenizer.bos_id is None:  # the first token is text without a loss
            loss_bytes -= min(utf8_length(tokenizer.decode(ids[:1])), size)
        ids = [*tokenizer.begin, *ids]
    if part.last:
        ids = [*ids, tokenizer.eos_id]
    mask = np.ones(len(ids), dtype=bool)
    if not document.continues:
        mask[: len(tokenizer.begin)] = False
    return _encoded(part, ids, mask, loss_bytes)


def _encode_chat(part: _Part, chat: Chat, loss_on: str) -> Encoded:
    ids, taught = chat
    loss_bytes = sum(
        utf8_length(message["content"])
        for message in part.document.messages or ()
        if message.get("train", loss_on == "all" or message["role"] == "assistant")
    )
    return _encoded(part, ids, np.array(taught, dtype=bool), loss_bytes)


def _encoded(
    part: _Part, ids: list[int], mask: NDArray[np.bool_], loss_bytes: int
) -> Encoded:
    if not part.document.continues:
        mask[:1] = False  # a document's first token is never a label
    return Encoded(
        part.held_out,
        np.array(ids, dtype=np.uint32),
        mask,
        document_bytes(part.document),
        loss_bytes,
        part.last,
    )
