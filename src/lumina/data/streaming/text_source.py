"""The text that a configuration names, read as a stream from any place on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lumina.data.documents import read_documents
from lumina.data.order import permutation
from lumina.data.reading_options import reading_options
from lumina.data.sources.entry import Place, Source
from lumina.data.sources.find import find_sources, gone
from lumina.data.split import UNREAD_KEPT
from lumina.data.store_folder import cache_key
from lumina.data.streaming.held_out import FRACTION, Sides, content_hash
from lumina.data.streaming.left_out import LeftOut
from lumina.data.streaming.places import Placed, Where
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

SAMPLED_BYTES = 2**16
"""Of each end of a file, what tells its content besides its size."""

NAME_LENGTH = 80
"""Characters of the name of a field that are told."""

SAMPLED_FILES = 1000
"""Files whose content is looked at; of more, these are spread evenly over all."""


class TextSource:
    """Documents of files, in an order that each pass has for itself.

    Args:
        config: its sections `data`, `loading` and `train` are read.

    Attributes:
        files: what is read.
        bytes: their size.
        sides: which documents are held out.

    Raises:
        LuminaError: E104 to E106 for paths.
    """

    def __init__(self, config: Config) -> None:
        self._unread, self._kinds = _Names(), _Names()
        self._removes, self._told_of_removed = False, False
        self.data = config.data
        self.shuffled = not config.loading.linear_dataset
        self.seed = config.train.seed
        self.how = reading_options(self.data)
        self.files = find_sources(self.data.train_data)
        self.how.check(self.files)
        self._sizes = {file.name: file.size for file in self.files}
        self.bytes = sum(self._sizes.values())
        fraction = self.data.eval_fraction
        if self.data.eval_data:
            fraction = 0.0
        elif self.data.eval_split != "hash":
            raise LuminaError(
                "E002",
                f"eval_split {self.data.eval_split} needs to know all documents before "
                "the first step, and streamed data is read as a run trains",
                "use --data-loading sharded, or leave --eval-split out",
            )
        self.sides = Sides(FRACTION if fraction is None else fraction)
        if self.sides.fraction:
            self.sides = Sides(self.sides.fraction, self._first_content())

    @property
    def fingerprint(self) -> str:
        """Names the files: their order, sizes, and both ends of their content.

        To hash all of the content would be to read all of the data before the first
        step. What changes in the middle of a file and keeps its size is not noticed.
        """
        step = -(-len(self.files) // SAMPLED_FILES)
        parts = [
            [file.size, _ends(file) if n % step == 0 else ""]
            for n, file in enumerate(self.files)
        ]
        options = [self.data.max_record_bytes, self.sides.fraction]
        options += self.how.parts(self.files)
        return cache_key("streamed", parts, options)

    def documents(
        self,
        number: int | None,
        begin: Where | None,
        left_out: LeftOut | None = None,
    ) -> Iterator[Placed]:
        """The documents of a pass to learn from, from a place in it on."""
        for held_out, placed in self.all_documents(number, begin, left_out):
            if not held_out:
                yield placed

    def all_documents(
        self,
        number: int | None,
        begin: Where | None = None,
        left_out: LeftOut | None = None,
    ) -> Iterator[tuple[bool, Placed]]:
        """(held out, document) of the documents of a pass, from a place in it on.

        Args:
            number: the pass, from 0; None: in the order of the files, whatever the
                order of a pass is.
            begin: the place; None: the start.
            left_out: counts what is left out.
        """
        return self.sides.of(self._read(self._order(number), begin, left_out))

    def documents_of(
        self, file: Source, left_out: LeftOut
    ) -> Iterator[tuple[bool, Placed]]:
        """(held out, document) of the documents of one file."""
        return self.sides.of(self._read([file], None, left_out))

    def _order(self, number: int | None) -> list[Source]:
        """The files in the order of a pass."""
        if number is None or not self.shuffled:
            return self.files
        order = permutation(len(self.files), self.seed, number, "files")
        return [self.files[index] for index in order]

    def _read(
        self,
        files: list[Source],
        begin: Where | None,
        left_out: LeftOut | None,
    ) -> Iterator[Placed]:
        left_out = LeftOut() if left_out is None else left_out
        of_document = LeftOut()

        def remove(characters: int, whole: bool) -> None:
            (left_out if whole else of_document).remove(characters, whole)
            self._removes = True

        documents = read_documents(
            files,
            errors=self.data.data_errors,
            on_skip=left_out.skip,
            on_unread=self._unread.add,
            on_left_out=lambda kind, name: self._kinds.add([kind]),
            on_removed=remove,
            begin=None if begin is None else Place.of(begin),
            **self.how.given(),
        )
        self._require_unchanged(files)
        last = None
        for document in documents:
            entry, record, hint = document.place
            if entry != last:
                # Of archives the entries are others: then only the ends of a pass tell.
                self._require_unchanged(files[max(entry - 1, 0) : entry + 1])
                last = entry
            yield Placed([entry, record, list(hint)], document)
            # Not before: reading that begins with this document counts it again.
            left_out.take(of_document)
        self._require_unchanged(files)

    def _require_unchanged(self, files: Iterable[Source]) -> None:
        """Refuse to go on with files that have another size than when reading began.

        Raises:
            LuminaError: E002; E104 for one that has gone.
        """
        for file in files:
            size, before = file.size, self._sizes[file.name]
            if before and file.path is not None and not file.path.exists():
                raise gone(file.name)
            if size != before:
                raise LuminaError(
                    "E002",
                    f"{file.name} has {size:,} bytes and had {before:,} when the run "
                    "began: the data must not change while it is streamed",
                    "restore it, then go on with --auto-resume; or begin another run",
                )

    def events(self) -> list[dict[str, Any]]:
        """Events about fields and members of archives that nothing reads.

        Each name and each kind is reported once.
        """
        found = []
        if fields := self._unread.new():
            text = "fields of the records that nothing reads: "
            text += f"{', '.join(fields)}; what they say is not trained on"
            found.append(_event("data_fields_ignored", text, fields=fields))
        if kinds := self._kinds.new():
            text = f"members of archives that are not read: {', '.join(kinds)}"
            found.append(_event("data_members_ignored", text, kinds=kinds))
        if self._removes and not self._told_of_removed:
            text = "characters beyond ASCII are taken out of the data (--ascii-only); "
            text += "data.removed_characters of the metrics counts them"
            found.append(_event("data_ascii_only", text))
            self._told_of_removed = True
        return found

    def _first_content(self) -> int:
        """The hash of the first document."""
        for placed in self._read(self.files, None, None):
            return content_hash(placed.document)
        raise LuminaError(
            "E105",
            f"{', '.join(map(str, self.data.train_data))}: no usable document",
            "give data with at least one document",
        )


class _Names:
    """Names that were seen, at most this many, each to be reported once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._new: list[str] = []

    def add(self, names: Iterable[str]) -> None:
        """Names, seen before or not."""
        for name in names:
            shown = name[:NAME_LENGTH]
            if shown not in self._seen and len(self._seen) < UNREAD_KEPT:
                self._seen.add(shown)
                self._new.append(shown)

    def new(self) -> list[str]:
        """Those that were seen first since the last call."""
        new, self._new = self._new, []
        return new


def _event(kind: str, message: str, **data: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "severity": "warning",
        "code": None,
        "message": message,
        **data,
    }


def _ends(source: Source) -> Any:
    """A hash of both ends of a file; "unreadable" where it may not be read."""
    if source.path is None:
        return source.kind.identity(source)
    try:
        with open(source.path, "rb") as handle:
            found = handle.read(SAMPLED_BYTES)
            handle.seek(max(os.fstat(handle.fileno()).st_size - SAMPLED_BYTES, 0))
            found += handle.read(SAMPLED_BYTES)
    except PermissionError:
        return "unreadable"
    return hashlib.sha256(found).hexdigest()
