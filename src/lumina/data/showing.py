"""One record of the data as a run will learn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.data.documents import Document, read_documents
from lumina.data.loss_rule import loss_rule
from lumina.data.reading_options import reading_options
from lumina.data.text_files import TextFiles
from lumina.data.tokenise import encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import trained_tokenizer
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass(frozen=True)
class Shown:
    """A document through the stages that make tokens of it.

    Attributes:
        source: the file.
        line: where it begins.
        turns: (role, words) of a conversation, or one ("text", text).
        ids: token ids; `pieces` is the text of each.
        mask: whether each bears loss.
    """

    source: str
    line: int
    turns: list[tuple[str, str]]
    ids: list[int]
    pieces: list[str]
    mask: list[bool]


def find_document(config: Config, *, index: int | None, line: int | None) -> Document:
    """The document with a number, or at a line; by default the first.

    Raises:
        LuminaError: E005 where there is none.
    """
    seen = 0
    for document in read_documents(
        config.data.train_data, **reading_options(config.data).given()
    ):
        if document.continues:
            continue
        if document.line == line or (line is None and seen == (index or 0)):
            return document
        seen += 1
    wanted = f"a record at line {line}" if line is not None else f"record {index}"
    raise LuminaError(
        "E005", f"the data has no {wanted}", f"there are {seen:,} records"
    )


def show_document(config: Config, document: Document) -> Shown:
    """The document as tokens."""
    tokenizer = tokenizer_of(config)
    if document.messages is not None:
        tokenizer = tokenizer.with_chat()
    [encoded] = encode_documents(
        [(False, document)], tokenizer, loss_on=loss_rule(config.data), threads=0
    )
    ids = encoded.ids.tolist()
    if document.text is not None:
        turns = [("text", document.text)]
    else:
        turns = [(m["role"], m["content"]) for m in document.messages or ()]
    return Shown(
        source=document.source,
        line=document.line,
        turns=turns,
        ids=ids,
        pieces=[tokenizer.decode([one]) for one in ids],
        mask=encoded.mask.tolist(),
    )


def tokenizer_of(config: Config) -> Tokenizer:
    """The tokenizer that a run with these settings would use."""
    if config.data.tokenizer is not None:
        return Tokenizer.from_path(config.data.tokenizer)
    return trained_tokenizer(config, [TextFiles(config)])
