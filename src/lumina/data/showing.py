"""One record of the data through every stage, up to its tokens and their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lumina.data.chat_tools import has_tools
from lumina.data.documents import Document
from lumina.data.loss_rule import LossRule, loss_rule
from lumina.data.readers.reader import Reading, RecordsReader
from lumina.data.readers.table import reader_of
from lumina.data.reading_options import reading_options
from lumina.data.record_forms.dataset_info import reader_of_source
from lumina.data.record_forms.reader import RecordReader
from lumina.data.record_forms.turns import NAMES
from lumina.data.records import BadRecord, Content, Message
from lumina.data.skipping import Policy
from lumina.data.sources.entry import Access
from lumina.data.sources.find import find_entries
from lumina.data.template_choice import with_template
from lumina.data.text_files import TextFiles
from lumina.data.tokenise import encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import trained_tokenizer
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

Turn = tuple[str, str, str]
"""Speaker, words, and what else is known of a turn."""


@dataclass(frozen=True)
class Found:
    """A record as it stands in its file.

    Attributes:
        source: the file, or the member of an archive.
        line: where it begins; of what has no lines, its number.
        number: among the records of all sources, from 0.
        record: what it says, or what is wrong with it; None for a text.
        document: of a text.
        reader: reads the records of this source.
    """

    source: str
    line: int
    number: int
    reader: RecordReader
    record: Any = None
    document: Document | None = None


@dataclass
class Shown:
    """A record through the stages that make tokens of it.

    Attributes:
        form: the form of the record; None for a text or a bad record.
        about: how a record of the form looks.
        parts: the turns by name, or a text as one turn.
        refused: why it is not trained on, with its code and advice.
        unread: fields that nothing reads.
        text: what the tokens spell.
        ids: token ids; `pieces` is the text of each.
        weights: what each weighs in the loss, 0 for no loss.
        tokenizer: what made the tokens, in words.
    """

    form: str | None = None
    about: str | None = None
    parts: dict[str, list[Turn]] = field(default_factory=dict)
    refused: tuple[str, str, str] | None = None
    unread: list[str] = field(default_factory=list)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tokenizer: str = ""


def find_record(config: Config, *, index: int | None, line: int | None) -> Found:
    """The record with a number, or at a line; by default the first.

    Raises:
        LuminaError: E005 where there is none; as `read_documents` for the sources.
    """
    seen = 0
    for found in _records(config):
        if found.line == line or (line is None and seen == (index or 0)):
            return found
        seen += 1
    wanted = f"record at line {line}" if line is not None else f"record {index}"
    raise LuminaError(
        "E005",
        f"the data has no {wanted}",
        f"it has {seen:,} records, counted from 0",
    )


def _records(config: Config) -> Iterator[Found]:
    how = reading_options(config.data)
    access = Access()
    access.limits = how.limits
    access.policy = policy = Policy(fatal=False)
    number = 0
    for entry_number, entry in enumerate(find_entries(config.data.train_data, access)):
        records = reader_of_source(how.records, entry.name)
        reading = Reading(entry, entry_number, policy, how.options)
        reader = reader_of(entry.format)
        if isinstance(reader, RecordsReader):
            for row in reader.rows(reading):
                yield Found(entry.name, row.line, number, records, row.record)
                number += 1
            continue
        for document in reader.read(reading):
            if not document.continues:
                yield Found(
                    entry.name, document.line, number, records, document=document
                )
                number += 1


def show_record(config: Config, found: Found) -> Shown:
    """The record through every stage; what goes wrong in one is shown, not raised."""
    shown = Shown()
    try:
        if found.document is not None:
            document = found.document
            shown.parts = {"": [("text", document.text or "", "")]}
        else:
            document = _document(found, shown, loss_rule(config.data))
    except BadRecord as bad:
        shown.refused = (bad.code, bad.reason, bad.hint or "")
        return shown
    try:
        tokenizer = tokenizer_of(config)
        if document.messages is not None:
            tokenizer = tokenizer.with_chat(tools=has_tools(document.messages))
            chat = tokenizer.chat_format
            assert chat is not None
            shown.unread = [
                name
                for name in shown.unread
                if not any(name.endswith(f"[].{n}") and chat.writes(n) for n in NAMES)
            ]
        [encoded] = encode_documents(
            [(False, document)], tokenizer, loss_on=loss_rule(config.data), threads=0
        )
    except LuminaError as error:
        shown.refused = (error.code, error.message, error.hint)
        return shown
    shown.ids = encoded.ids.tolist()
    shown.text = tokenizer.decode(shown.ids)
    shown.pieces = pieces_of(tokenizer, shown.ids)
    weights = encoded.mask.astype(float)
    if encoded.weights is not None:
        weights *= encoded.weights
    shown.weights = weights.tolist()
    shown.tokenizer = _in_words(config, tokenizer, document)
    return shown


def _document(found: Found, shown: Shown, rule: LossRule) -> Document:
    """The record as a document.

    Raises:
        BadRecord: it is bad, or of a form that is not trained on.
    """
    if isinstance(found.record, BadRecord):
        raise found.record
    form, parts = found.reader.parts(found.record)
    shown.form, shown.about = form.name, form.about
    shown.parts = {name: _turns(content, rule) for name, content in parts.items()}
    shown.unread = found.reader.unread(found.record)
    content = found.reader.parse(found.record)
    if isinstance(content, str):
        return Document(content, None, found.source, found.line)
    return Document(None, content, found.source, found.line)


def _turns(content: Content, rule: LossRule) -> list[Turn]:
    if isinstance(content, str):
        return [("text", content, "")]
    return [
        (m["role"], m["content"], _of_turn(m, asked))
        for m, asked in zip(content, rule.applied(content), strict=True)
    ]


def _of_turn(message: Message, asked: Message) -> str:
    """What a turn holds besides its words."""
    told = []
    for name in ("name", "tool_call_id"):
        if name in message:
            told.append(f"{name} {message[name]}")  # type: ignore[literal-required]
    for call in message.get("tool_calls", []):
        told.append(f"calls {call['function']['name']}")
    if tools := message.get("tools"):
        told.append("tools " + ", ".join(one["function"]["name"] for one in tools))
    if "train" in asked and not asked["train"]:
        told.append("no loss")
    if "weight" in asked:
        told.append(f"weight {asked['weight']:g}")
    return "; ".join(told)


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The text of each token; of a character over several tokens, with the last."""
    stream = tokenizer.stream()
    pieces = [stream.push(index) for index in ids]
    if pieces:
        pieces[-1] += stream.flush()
    return pieces


def tokenizer_of(config: Config) -> Tokenizer:
    """The tokenizer that a run with these settings would use."""
    if config.data.tokenizer is not None:
        found = Tokenizer.from_path(config.data.tokenizer)
    else:
        lenient = config.replace(data_errors="skip")
        found = trained_tokenizer(lenient, [TextFiles(lenient)])
    return with_template(found, config.data.chat_template)


def _in_words(config: Config, tokenizer: Tokenizer, document: Document) -> str:
    name = config.data.tokenizer or "trained on the data"
    told = f"{name}, {tokenizer.vocab_size:,} tokens"
    if document.messages is None:
        return told
    if tokenizer.templates is None:
        return f"{told}; chat format: Lumina's own markers"
    return f"{told}; chat format: {tokenizer.templates.origin or 'its chat template'}"
