"""A look at the beginnings of streamed text, before the run: what kind of text it is.

From it come the documents that are judged as held-out data, the markers that
conversations need, and a tokenizer where none is named. How much is read is bounded, so
that a run begins at once whatever the size of the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers

from lumina.cache_root import cache_root
from lumina.data.cache import build_once
from lumina.data.chat_tools import has_tools
from lumina.data.documents import Document
from lumina.data.loss_rule import loss_rule
from lumina.data.sources.entry import Source
from lumina.data.split import count_form, document_bytes
from lumina.data.store import StoreWriter, TokenStore
from lumina.data.store_folder import cache_key, chat_parts
from lumina.data.streaming.left_out import LeftOut
from lumina.data.streaming.text_source import TextSource
from lumina.data.tokenise import ENCODING_RULES, Rows, encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import SAMPLE_BYTES, vocabulary_size

if TYPE_CHECKING:
    from lumina.config import Config

HEAD_BYTES = 32 * 2**20
"""The most text that is looked at."""

HEAD_FILES = 64
"""The most files that are looked at."""

HELD_OUT_BYTES = 2 * 2**20
"""The most text that is held out and judged; further documents are only left out."""


@dataclass
class Head:
    """What is known of the beginning of the data.

    Attributes:
        held_out: documents to judge, whole ones.
        conversations: documents that are conversations.
        tools: conversations with calls, results or definitions of tools.
        forms: how many records of each form every source has.
        documents: documents that were looked at.
        held_out_bytes: text of the documents to judge.
        first: the first document to learn from, or its first piece, if there is one.
    """

    held_out: list[Document] = field(default_factory=list)
    conversations: int = 0
    tools: int = 0
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    documents: int = 0
    held_out_bytes: int = 0
    first: Document | None = None


def look_at(source: TextSource) -> Head:
    """Read the beginnings of the files, of many files of some that lie far apart."""
    head = Head()
    step = -(-len(source.files) // HEAD_FILES)
    files = source.files[::step]
    for file in files:
        _look_at_file(source, file, head, HEAD_BYTES // len(files))
    return head


def _look_at_file(source: TextSource, file: Source, head: Head, most: int) -> None:
    """Read so much of the beginning of a file."""
    read, taken = 0, False
    for held_out, placed in source.documents_of(file, LeftOut()):
        document = placed.document
        if read >= most and not document.continues:
            return
        size = document_bytes(document)
        read += size
        if not document.continues:
            head.documents += 1
            head.conversations += document.messages is not None
            head.tools += has_tools(document.messages or ())
            count_form(head.forms, document)
            if head.first is None and not held_out:
                head.first = document
            taken = held_out and head.held_out_bytes < HELD_OUT_BYTES
        if taken:
            head.held_out_bytes += size
            head.held_out.append(document)


def held_out_store(
    config: Config,
    source: TextSource,
    head: Head,
    tokenizer: Tokenizer,
    rows: Rows | None,
) -> TokenStore | None:
    """The held-out documents of the beginning as tokens, kept in the cache."""
    if not head.held_out:
        return None
    rule = loss_rule(config.data)
    key = cache_key(
        "held out",
        source.fingerprint,
        HEAD_BYTES,
        HEAD_FILES,
        HELD_OUT_BYTES,
        tokenizer.fingerprint,
        config.data.loss_on,
        *rule.key,
        ENCODING_RULES,
        *chat_parts(tokenizer),
        *((rows.length, rows.mode) if rows else ()),
    )

    def build(folder: Path) -> None:
        writer = StoreWriter(folder, tokenizer.vocab_size, True)
        for one in encode_documents(
            ((True, document) for document in head.held_out),
            tokenizer,
            loss_on=rule,
            threads=0,
            rows=rows,
            on_skip=(lambda _: None) if config.data.data_errors == "skip" else None,
        ):
            writer.add(
                one.ids,
                one.mask,
                text_bytes=one.text_bytes,
                loss_bytes=one.loss_bytes,
                last=one.last,
            )
        writer.close()

    store, _ = build_once(cache_root() / "held-out", key, build, TokenStore.open)
    return store if len(store) else None


def trained_on_head(config: Config, source: TextSource) -> Tokenizer:
    """A tokenizer trained on the beginning of what is learned from."""
    size = vocabulary_size(config, source.files)
    key = cache_key("head", source.fingerprint, size, tokenizers.__version__)

    def texts() -> Iterator[str]:
        taken = 0
        for placed in source.documents(None, None):
            document = placed.document
            if taken >= SAMPLE_BYTES:
                return
            taken += document_bytes(document)
            if document.text is not None:
                yield document.text
            for message in document.messages or ():
                yield message["content"]

    tokenizer, _ = build_once(
        cache_root() / "tokenizers",
        key,
        lambda folder: Tokenizer.train(texts(), size).save(folder),
        Tokenizer.from_path,
    )
    return tokenizer
