"""One pass over data with all checks, and what they found."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from lumina.data.documents import read_documents
from lumina.data.quality.check import Item, Options, Result, checks, contents
from lumina.data.quality.storage import storage_advice
from lumina.data.readers.reader import Document
from lumina.data.reading_options import reading_options
from lumina.data.record_forms.form import Form
from lumina.data.record_forms.message import Content
from lumina.data.record_forms.reader import RecordReader, record_reader
from lumina.data.skipping import Skipped
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.sections.data import DataSection

_TOGETHER = 64


@dataclass
class Report:
    """What all checks found.

    Attributes:
        sources: the files, with the number of documents in each.
        documents: in all.
        bytes: of their texts.
        complete: the data was read to its end.
        results: of each check.
        left_out: files in folders and archives that hold no data, by kind.
        storage: where data of this size is best kept.
        seconds: the time it took.
    """

    sources: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    bytes: int = 0
    complete: bool = True
    results: list[Result] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    storage: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there is an error in the data."""
        return any(result.verdict == "failed" for result in self.results)

    def result(self, name: str) -> Result:
        """What the check of this name found."""
        return next(one for one in self.results if one.name == name)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "complete": self.complete,
            "failed": self.failed,
            "sources": dict(self.sources),
            "left_out": dict(self.left_out),
            "storage": self.storage,
            "results": [result.to_dict() for result in self.results],
        }


class AnyForm(RecordReader):
    """Reads records of every form, also of those that are not trained on.

    Of a record with several answers the first one is looked at: the better one, where
    the record says which that is.
    """

    _described: RecordReader | None = None

    def read(self, record: Any) -> tuple[str, Content]:
        """The name of a record's form, and the first thing in it."""
        form, parts = self.parts(record)
        return form.name, next(iter(parts.values()))

    def described_by(self, description: RecordReader) -> RecordReader:
        """A reader of every form that reads names and roles as the description says."""
        form = description.form
        made = AnyForm(form.name if form else None, description.fields)
        made._described = description  # which knows the names of roles, too
        return made

    def parts(self, record: Any) -> tuple[Form, dict[str, Content]]:
        """As of `RecordReader`; of a described source as its description says."""
        if self._described is not None:
            return self._described.parts(record)
        return super().parts(record)


def assess(
    paths: Sequence[str | os.PathLike[str]],
    options: Options,
    *,
    max_check: int | None = None,
    only: Sequence[str] | None = None,
    data: DataSection | None = None,
) -> Report:
    """Read data once and check it.

    Args:
        paths: files, folders, patterns and archives, as `train` takes them.
        options: for the checks.
        max_check: stop after this many documents; None: read everything.
        only: names of the checks; None: all.
        data: how files and records are read; None: as `train` does by default.

    Raises:
        LuminaError: E104 to E107 for paths, E105 where there is nothing at all.
    """
    begun = time.monotonic()
    report = Report(storage=storage_advice(paths))
    running = [
        make(options) for name, make in checks().items() if only is None or name in only
    ]

    def see_bad(record: Skipped) -> None:
        for check in running:
            check.see_bad(record)

    how = reading(data)
    for item in _items(paths, options, report, max_check, see_bad, how):
        for check in running:
            check.see(item)
    report.results = [check.result() for check in running]
    report.seconds = time.monotonic() - begun
    return report


def reading(data: DataSection | None) -> dict[str, Any]:
    """How `read_documents` is to read for a look: records of every form."""
    if data is None:
        return {"records": AnyForm()}
    given = reading_options(data).given()
    known = record_reader(data)
    form = known.form.name if known.form else None
    return {**given, "records": AnyForm(form, known.fields)}


def reading_whole(data: DataSection | None) -> dict[str, Any]:
    """How `read_documents` is to read for a copy: whole records, as `train` does."""
    return {} if data is None else reading_options(data).given()


def _items(
    paths: Sequence[str | os.PathLike[str]],
    options: Options,
    report: Report,
    max_check: int | None,
    see_bad: Callable[[Skipped], None],
    how: dict[str, Any],
) -> Iterator[Item]:
    """The documents, with their texts and numbers of tokens; they are counted, too."""
    documents = read_documents(
        paths,
        errors="skip",
        on_skip=see_bad,
        on_left_out=lambda kind, name: report.left_out.update([kind]),
        **how,
    )
    some_documents = _first(documents, max_check, report)
    while group := list(islice(some_documents, _TOGETHER)):
        texts = [contents(document) for document in group]
        counts: list[int | None] = [None] * len(group)
        if options.tokenizer is not None:
            ids = iter(
                options.tokenizer.encode_batch([t for some in texts for t in some])
            )
            counts = [sum(len(next(ids)) for _ in some) for some in texts]
        for document, some, count in zip(group, texts, counts, strict=True):
            text = "\n".join(some)
            report.bytes += len(text.encode())
            yield Item(document, text, count)


def _first(
    documents: Iterator[Document], most: int | None, report: Report
) -> Iterator[Document]:
    """The first documents; `report` says how many, and whether there are more."""
    for document in documents:
        if not document.continues:
            if most is not None and report.documents >= most:
                report.complete = False
                return
            report.documents += 1
            report.sources[document.source] += 1
        yield document


def read_word_list(path: str) -> frozenset[str]:
    """The entries of a file with one on each line; lines that begin with # are none.

    Raises:
        LuminaError: E104 no such file, E103 not UTF-8, E105 no entries.
    """
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as handle:
            lines = [line.strip().lower() for line in handle]
    except FileNotFoundError:
        raise LuminaError("E104", f"{path}: no such file", "check the path") from None
    except UnicodeDecodeError:
        raise LuminaError("E103", f"{path}: not UTF-8", "convert it") from None
    found = frozenset(line for line in lines if line and not line.startswith("#"))
    if not found:
        raise LuminaError("E105", f"{path}: no entries", "write one on each line")
    return found
