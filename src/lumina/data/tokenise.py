"""Documents -> token ids, on several threads, a block at a time."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lumina.data.chat_format import Chat
from lumina.data.documents import Document, Skipped
from lumina.data.long_conversations import LaidOut, Long, Mode, divide
from lumina.data.loss_rule import LossRule, loss_of, mask_and_weights
from lumina.data.records import Message
from lumina.data.split import document_bytes, message_bytes, utf8_length
from lumina.data.template_errors import UnusableTemplateError
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

BLOCK_BYTES = 2**19
"""Text that one thread encodes at a time."""

ENCODING_RULES = 8
"""Raised whenever equal documents get other ids: stores of older rules are not read."""

RULES_SINCE = {
    3: "texts begin with a begin token only where the tokenizer's files name one; "
    "before, the end token or <s> stood in for it",
    4: "texts begin with the tokens that tokenizer.json puts before them, as in "
    "transformers' plain call; before, a begin token that was only named began them",
    5: "conversations longer than a row are divided so that every piece has its "
    "question; before, they were cut where a row ended (--long-conversations cut)",
    6: "an answer continues the ids that a chat asks with; before, a chat template's "
    "text was encoded as a whole, which some vocabularies read otherwise",
    7: "text that spells a special token of a Unigram vocabulary stays text; before, "
    "it became that token",
    8: 'a record with the fields of Alpaca or of a prompt and "text" beside them is a '
    "conversation; before, it was the text (--format text)",
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
        weights: [N] float32, what each label weighs in the loss; None: all weigh 1.
        quality: the score of its record; None where records have none.
        text_bytes: UTF-8 bytes of the text; `loss_bytes` of what bears loss.
        last: the document ends here.
        conversation: it is one, or a piece of one.
        long: what became of a conversation that is longer than a row, with its first
            piece, or with no token where nothing of it is kept.
    """

    held_out: bool
    ids: NDArray[np.uint32]
    mask: NDArray[np.bool_]
    text_bytes: int
    loss_bytes: int
    last: bool
    conversation: bool = False
    long: Long | None = None
    weights: NDArray[np.float32] | None = None
    quality: float | None = None


@dataclass(frozen=True)
class Rows:
    """The rows that conversations have to fit into.

    Attributes:
        length: positions of a row.
        mode: what becomes of a longer conversation.
    """

    length: int
    mode: Mode


@dataclass(frozen=True, slots=True)
class _Refused:
    """A conversation that the chat template does not take."""

    document: Document
    error: LuminaError


@dataclass(frozen=True, slots=True)
class Part:
    """A document or a piece of one.

    Attributes:
        held_out: which side of the split it is on.
        document: what it says.
        last: the document ends here.
    """

    held_out: bool
    document: Document
    last: bool


def encode_documents(
    documents: Iterable[tuple[bool, Document]],
    tokenizer: Tokenizer,
    *,
    loss_on: str | LossRule,
    threads: int,
    rows: Rows | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> Iterator[Encoded]:
    """Encode (side, document) pairs; order and result do not depend on `threads`.

    The tokenizers library works without Python's global lock, so plain threads use
    all cores. Only a few blocks are in memory at once. With no thread it is done here.

    Args:
        documents: what to encode.
        tokenizer: with a chat format, if there are conversations.
        loss_on: which turns of a conversation bear loss: a rule, or its `loss_on`.
        threads: how many.
        rows: longer conversations become pieces, each a document of its own.
        on_skip: is called with every conversation that the chat template refuses, which
            is left out; without it, the first one raises its error.
    """
    return encode_marked(
        mark_last(documents),
        tokenizer,
        loss_on=loss_on,
        threads=threads,
        rows=rows,
        on_skip=on_skip,
    )


def encode_marked(
    parts: Iterable[Part],
    tokenizer: Tokenizer,
    *,
    loss_on: str | LossRule,
    threads: int,
    rows: Rows | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> Iterator[Encoded]:
    """`encode_documents` of parts of which it is known where a document ends."""
    blocks = _blocks(parts)
    rule = loss_on if isinstance(loss_on, LossRule) else LossRule(loss_on)

    def encode(block: list[Part]) -> list[Encoded | _Refused]:
        return _encode_block(block, tokenizer, rule, rows)

    for one in _encoded_blocks(blocks, encode, threads):
        if isinstance(one, Encoded):
            yield one
        elif on_skip is None or isinstance(one.error, UnusableTemplateError):
            raise _at(one.document, one.error)
        else:
            document, error = one.document, one.error
            on_skip(Skipped(document.source, document.line, error.code, error.message))


def encode_parts(
    parts: Sequence[tuple[Document, bool]],
    tokenizer: Tokenizer,
    *,
    loss_on: LossRule,
    rows: Rows | None = None,
    skip: bool = False,
) -> tuple[list[Encoded], list[Skipped]]:
    """Encode some documents at once, on the calling thread.

    Args:
        parts: documents or pieces of them, and whether each document ends there.
        tokenizer: as for `encode_documents`, and so are `loss_on` and `rows`.
        loss_on: which turns of a conversation bear loss.
        rows: longer conversations become pieces, each a document of its own.
        skip: leave out what the chat template refuses, in place of raising its error.

    Returns:
        The tokens, and what was left out.
    """
    block = [Part(False, document, last) for document, last in parts]
    encoded: list[Encoded] = []
    skipped: list[Skipped] = []
    for one in _encode_block(block, tokenizer, loss_on, rows):
        if isinstance(one, Encoded):
            encoded.append(one)
        elif not skip or isinstance(one.error, UnusableTemplateError):
            raise _at(one.document, one.error)
        else:
            document, error = one.document, one.error
            skipped.append(
                Skipped(document.source, document.line, error.code, error.message)
            )
    return encoded, skipped


def _encoded_blocks(
    blocks: Iterator[list[Part]],
    encode: Callable[[list[Part]], list[Encoded | _Refused]],
    threads: int,
) -> Iterator[Encoded | _Refused]:
    if threads == 0:
        for block in blocks:
            yield from encode(block)
        return
    with no_inner_threads(), ThreadPoolExecutor(threads, "lumina-tokens") as pool:
        running: deque[Future[list[Encoded | _Refused]]] = deque()
        for block in blocks:
            running.append(pool.submit(encode, block))
            if len(running) > threads + 1:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()


@contextlib.contextmanager
def no_inner_threads() -> Iterator[None]:
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


def mark_last(documents: Iterable[tuple[bool, Document]]) -> Iterator[Part]:
    """Know of each piece whether another one of the same document follows."""
    waiting: tuple[bool, Document] | None = None
    for side, document in documents:
        if waiting is not None:
            yield Part(*waiting, last=not document.continues)
        waiting = side, document
    if waiting is not None:
        yield Part(*waiting, last=True)


def _blocks(parts: Iterable[Part]) -> Iterator[list[Part]]:
    block: list[Part] = []
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
    block: list[Part], tokenizer: Tokenizer, rule: LossRule, rows: Rows | None
) -> list[Encoded | _Refused]:
    texts: list[str] = []
    loss_on = rule.base
    conversations = [
        rule.applied(part.document.messages or ())
        for part in block
        if part.document.text is None
    ]
    turns = iter(conversations)
    for part in block:
        document = part.document
        if document.text is not None and not document.continues:
            texts.append(document.text)
    wholes = tokenizer.encode_each(texts)
    chats: Iterator[Chat | LuminaError] = iter(())
    if conversations and tokenizer.chat_format is not None:
        chats = iter(tokenizer.chat_format.encode(conversations, loss_on=loss_on))
    encoded: list[Encoded | _Refused] = []
    for part in block:
        document = part.document
        if document.text is None:
            chat, messages = next(chats), next(turns)
            if isinstance(chat, LuminaError):
                encoded.append(_Refused(document, chat))
                continue
            if rows is None or len(chat[0]) <= rows.length + 1:
                encoded.append(_encode_chat(part, messages, chat, loss_on))
                continue
            try:
                pieces = list(
                    _encode_long(part, messages, chat, tokenizer, loss_on, rows)
                )
            except LuminaError as error:
                encoded.append(_Refused(document, _not_split(error, rows)))
            else:
                encoded += pieces
        elif document.continues:
            ids = tokenizer.encode_continuation(document.text)
            encoded.append(_encode_text(part, ids, tokenizer))
        else:
            encoded.append(_encode_text(part, next(wholes), tokenizer))
    return encoded


def _at(document: Document, error: LuminaError) -> LuminaError:
    """The error, with where the conversation stands."""
    where = f"{document.source}, line {document.line}"
    hint = error.hint
    if not isinstance(error, UnusableTemplateError):
        hint += "; --data-errors skip leaves such conversations out"
    return LuminaError(error.code, f"{where}: {error.message}", hint)


def _not_split(error: LuminaError, rows: Rows) -> LuminaError:
    """A template that takes the whole conversation may not take a part of it."""
    return LuminaError(
        error.code,
        f"a conversation longer than a row of {rows.length:,} tokens cannot be split: "
        f"{error.message}",
        "use --long-conversations truncate or drop, or a larger --seq-length",
    )


def _encode_text(part: Part, ids: list[int], tokenizer: Tokenizer) -> Encoded:
    document = part.document
    loss_bytes = size = document_bytes(document)
    if not document.continues:
        begin = tokenizer.begin
        if begin:
            ids = [*begin, *ids]
        elif ids:  # the first token is text without a loss
            loss_bytes -= min(tokenizer.spelled_bytes(ids[0]), size)
    if part.last:
        ids.append(tokenizer.eos_id)
    mask = np.ones(len(ids), dtype=bool)
    if not document.continues:
        mask[: len(begin)] = False
    return _encoded(part, ids, mask, loss_bytes, size)


def _encode_chat(
    part: Part, messages: Sequence[Message], chat: Chat, loss_on: str
) -> Encoded:
    ids, loss = chat
    mask, weights = mask_and_weights(loss)
    loss_bytes = _loss_bytes(messages, loss_on)
    return _encoded(part, ids, mask, loss_bytes, weights=weights)


def _encode_long(
    part: Part,
    messages: Sequence[Message],
    chat: Chat,
    tokenizer: Tokenizer,
    loss_on: str,
    rows: Rows,
) -> Iterator[Encoded]:
    """The pieces of a conversation that is longer than a row."""
    # Only to split it does one have to know where the turns stand.
    whole = (
        tokenizer.lay_out(messages, loss_on=loss_on)
        if rows.mode == "split"
        else LaidOut(*chat, [])
    )
    pieces, told = divide(
        messages,
        whole,
        rows.length,
        rows.mode,
        lambda turns: tokenizer.lay_out(turns, loss_on=loss_on),
        tokenizer.begin,
    )
    text_bytes = document_bytes(part.document)
    loss_bytes = _loss_bytes(messages, loss_on)
    if rows.mode == "truncate" and pieces:
        ids = whole.ids[: pieces[0].end]
        taught = [i for i, bears in zip(ids, whole.mask, strict=False) if bears]
        text_bytes = min(text_bytes, _spelled_bytes(tokenizer, ids))
        loss_bytes = min(loss_bytes, _spelled_bytes(tokenizer, taught))
    for number, piece in enumerate(pieces):
        ids = [*piece.context, *whole.ids[piece.begin : piece.end]]
        loss = [*([False] * len(piece.context)), *whole.mask[piece.begin : piece.end]]
        mask, weights = mask_and_weights(loss)
        yield _encoded(
            part,
            ids,
            mask,
            0 if number else loss_bytes,
            0 if number else text_bytes,
            None if number else told,
            weights,
        )
    if not pieces:
        nothing = np.zeros(0, dtype=np.uint32)
        yield Encoded(
            part.held_out, nothing, nothing.astype(bool), 0, 0, last=False, long=told
        )


def _spelled_bytes(tokenizer: Tokenizer, ids: list[int]) -> int:
    """Bytes of the text that tokens spell, marks of the format left out."""
    return utf8_length(tokenizer.decode(ids, skip_special=True))


def _loss_bytes(messages: Sequence[Message], loss_on: str) -> int:
    """Bytes of what bears loss in a conversation."""
    return sum(
        message_bytes(message) for message in messages if loss_of(message, loss_on)
    )


def _encoded(
    part: Part,
    ids: list[int],
    mask: NDArray[np.bool_],
    loss_bytes: int,
    text_bytes: int | None = None,
    long: Long | None = None,
    weights: NDArray[np.float32] | None = None,
) -> Encoded:
    if not part.document.continues:
        mask[:1] = False  # a document's first token is never a label
    return Encoded(
        part.held_out,
        # Three times as fast as numpy reads a list.
        np.frombuffer(array("I", ids), dtype=np.uint32),
        mask,
        document_bytes(part.document) if text_bytes is None else text_bytes,
        loss_bytes,
        part.last,
        part.document.text is None,
        long,
        weights,
        part.document.quality,
    )
