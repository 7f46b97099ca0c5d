"""The questions of local files, in the formats that training reads: JSONL, CSV ..."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lumina.data.readers.reader import Reading, ReadOptions, RecordsReader
from lumina.data.readers.table import reader_of
from lumina.data.records import BadRecord
from lumina.data.skipping import Policy, Skipped
from lumina.data.sources.entry import Access, Damaged, Entry
from lumina.data.sources.find import find_entries, find_sources, named_files
from lumina.durable import sha256_of
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.task import EvaluationTask, Example

_FIRST_ROW_BYTES = 2**20


@dataclass(frozen=True)
class Questions:
    """What files hold for a task.

    Attributes:
        examples: in the order of the files.
        files: their names, without folders.
        sha256: of the contents of all files.
        skipped: bad records that were left out.
    """

    examples: list[Example]
    files: list[str] = field(default_factory=list)
    sha256: str = ""
    skipped: int = 0


def read_questions(
    task: EvaluationTask,
    paths: Sequence[str],
    *,
    limit: int | None = None,
    errors: Literal["fatal", "skip"] = "fatal",
    on_skip: Callable[[Skipped], None] | None = None,
) -> Questions:
    """The questions of files, folders and patterns.

    Args:
        task: makes examples of records.
        paths: what to read.
        limit: most examples, which are the first; None: all.
        errors: "fatal" raises at the first bad record, "skip" leaves it out.
        on_skip: is called with every record left out.

    Raises:
        LuminaError: E104 nothing there, E101 not a file of records, E102 wrong fields,
            E105 no question, E005 for a data set that is no local file.
    """
    names = [os.path.expanduser(path) for path in paths]
    remote = [name for name in names if name not in named_files([name])]
    if remote:
        raise LuminaError(
            "E005",
            f"{remote[0]} is no local file, and evaluation downloads nothing",
            "name a file of records: .jsonl, .json, .csv, .tsv, .parquet or .arrow",
        )
    sources = find_sources(names)
    skipped = 0

    def left_out(one: Skipped) -> None:
        nonlocal skipped
        skipped += 1
        if on_skip is not None:
            on_skip(one)

    policy = Policy(errors == "fatal", left_out)
    access = Access()
    access.policy = policy
    shown = _short_names([source.name for source in sources])
    examples: list[Example] = []
    for number, entry in enumerate(find_entries(sources, access)):
        if limit is not None and len(examples) >= limit:
            break
        name = _of_entry(entry.name, shown)
        for example in _of_file(task, entry, number, name, policy):
            examples.append(example)
            if limit is not None and len(examples) >= limit:
                break
    if not examples:
        raise LuminaError(
            "E105",
            f"there is no question for {task.name} in {', '.join(names)}",
            "name a file with records of this task",
        )
    content = hashlib.sha256()
    for source in sources:
        if source.path is not None:
            content.update(sha256_of(source.path).encode())
    return Questions(
        examples, [shown[s.name] for s in sources], content.hexdigest(), skipped
    )


def _of_file(
    task: EvaluationTask, entry: Entry, number: int, name: str, policy: Policy
) -> Iterator[Example]:
    """The examples of one file; bad records go to the policy."""
    reader = reader_of(entry.format)
    if not isinstance(reader, RecordsReader):
        raise LuminaError(
            "E101",
            f"{entry.name} holds text and no records",
            "evaluation reads .jsonl, .json, .csv, .tsv, .parquet and .arrow files",
        )
    base = os.path.basename(entry.name)

    def made(record: Any) -> tuple[str, Any]:
        if not isinstance(record, dict):
            raise BadRecord("E102", "the record is no object with fields")
        return task.read(record, base)

    def judged(record: Any) -> tuple[str, Any]:  # of an object that may hold records
        made(record)
        return "", ""

    options = ReadOptions(csv_columns=_columns(task, entry))
    reading = Reading(entry, number, policy, options, judged)
    try:
        for row in reader.rows(reading):
            try:
                if isinstance(row.record, BadRecord):
                    raise row.record
                group, content = made(row.record)
            except BadRecord as bad:
                hint = bad.hint or f"a record of {task.name} has {task.record}"
                reading.bad(bad.code, bad.reason, row.line, unit=reader.unit, hint=hint)
                continue
            yield Example(f"{name}:{row.line}", group, content)
    except Damaged as damage:
        reading.bad("E101", str(damage), hint=damage.hint)


def _columns(task: EvaluationTask, entry: Entry) -> tuple[str, ...]:
    """The columns that the task gives a table without a row of names."""
    if entry.format != "csv":
        return ()
    with entry.open() as handle:
        text = handle.read(_FIRST_ROW_BYTES).decode("utf-8", "replace")
    first = next(csv.reader(io.StringIO(text.removeprefix("\ufeff"))), [])
    return task.columns(first) or ()


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folders that all of them have in common."""
    whole = [os.path.abspath(name) for name in names]
    if len(names) == 1:
        return {names[0]: os.path.basename(whole[0])}
    shared = os.path.commonpath([os.path.dirname(one) for one in whole])
    return {
        name: os.path.relpath(one, shared)
        for name, one in zip(names, whole, strict=True)
    }


def _of_entry(name: str, shown: dict[str, str]) -> str:
    """The short name of an entry: of a file, or of a member of an archive."""
    for source, short in shown.items():
        if name == source or name.startswith(f"{source}/"):
            return short + name[len(source) :]
    return os.path.basename(name)
