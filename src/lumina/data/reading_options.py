"""How the files of a configuration are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lumina.data.known_hashes import known_hash
from lumina.data.readers.encodings import fits, parsed
from lumina.data.readers.reader import ReadOptions, RecordsReader
from lumina.data.readers.table import known_readers
from lumina.data.record_forms.dataset_info import DATASET_INFO
from lumina.data.record_forms.reader import RecordReader, record_reader
from lumina.data.sources.entry import Limits, Source
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.sections.data import DataSection


@dataclass(frozen=True)
class ReadingOptions:
    """What `read_documents` is given.

    Attributes:
        options: how files are read.
        limits: bounds on what archives give.
        records: reads records.
    """

    options: ReadOptions
    limits: Limits
    records: RecordReader

    def given(self) -> dict[str, Any]:
        """The arguments for `read_documents`."""
        return {
            "options": self.options,
            "limits": self.limits,
            "records": self.records,
        }

    def check(self, sources: Sequence[Source]) -> None:
        """Refuse options for files of a format that none of the sources can have.

        Raises:
            LuminaError: E002.
        """
        options = self.options
        records = tuple(
            suffix
            for reader in known_readers().values()
            if isinstance(reader, RecordsReader)
            for suffix in (*reader.suffixes, *reader.by_name)
        )
        if self.records.key and not any(one.may_hold(records) for one in sources):
            name = "format" if self.records.form else "field"
            raise LuminaError(
                "E002",
                f"{name} is about records, and the data has none: all of it is plain "
                "text",
                f"leave out --{name}",
            )
        if options.quality_field and not all(one.may_hold(records) for one in sources):
            raise LuminaError(
                "E002",
                f"quality_field {options.quality_field} is a field of records, and "
                "some of the data is plain text, which has no fields",
                "leave out --quality-field, or give the text as records (.jsonl)",
            )
        for name, given, suffixes in (
            ("csv_columns", options.csv_columns, (".csv", ".tsv")),
            ("json_field", options.json_field, (".json",)),
            ("encoding", options.encodings, _of_bytes()),
        ):
            if given and not any(source.may_hold(suffixes) for source in sources):
                raise LuminaError(
                    "E002",
                    f"{name} is about {_listed(suffixes)} files, and the data has none",
                    f"leave out --{name.replace('_', '-')}",
                )

        for pattern, encoding in options.encodings:
            if not any(one.unpacks or fits(pattern, one.name) for one in sources):
                raise LuminaError(
                    "E002",
                    f"--encoding {pattern}={encoding}: no file has such a name",
                    "write a pattern that fits the names of the files, or leave it out",
                )

    def parts(self, sources: Sequence[Source]) -> list[Any]:
        """What of the options decides which documents the sources give.

        Plain files of lines are not read otherwise by any of them.
        """
        formats = known_readers().values()
        parts = [part for reader in formats for part in reader.parts(self.options)]
        if self.options.encodings:
            parts.append(["encoding", *self.options.encodings])
        if self.options.ascii_only:
            parts.append("ascii only")
        if self.options.quality_field:
            parts.append(["quality", self.options.quality_field])
        most = (self.options.most_of_file, self.options.most_of_dataset)
        if most != (None, None):
            parts.append(["most conversations", *most])
        if any(source.unpacks for source in sources):
            limits = self.limits
            parts.append([limits.member_bytes, limits.unpacked_bytes, limits.ratio])
        parts += self.records.key
        for folder in sorted({one.path.parent for one in sources if one.path}):
            if (folder / DATASET_INFO).is_file():
                parts.append([DATASET_INFO, known_hash(folder / DATASET_INFO)])
        return parts


def _of_bytes() -> tuple[str, ...]:
    """Suffixes of the files of which the bytes are decoded here."""
    formats = [one for one in known_readers().values() if one.decodes]
    return tuple(s for one in formats for s in (*one.suffixes, *one.by_name))


def _listed(suffixes: Sequence[str]) -> str:
    """The first suffixes, in words."""
    more = " and other" if len(suffixes) > 6 else ""
    return " and ".join(suffixes[:2]) + more


def reading_options(data: DataSection) -> ReadingOptions:
    """The options of a configuration's `data` section."""
    return ReadingOptions(
        ReadOptions(
            max_record_bytes=data.max_record_bytes,
            ascii_only=data.ascii_only,
            csv_columns=data.csv_columns,
            json_field=data.json_field,
            encodings=parsed(data.encoding),
            most_of_file=data.max_conversations_per_file,
            most_of_dataset=data.max_conversations_per_dataset,
            quality_field=data.quality_field,
        ),
        Limits(
            member_bytes=data.max_member_bytes,
            unpacked_bytes=data.max_unpacked_bytes,
            ratio=data.max_unpacking_ratio,
        ),
        record_reader(data),
    )
