"""Records -> texts and conversations, by their form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.data.record_forms.form import (
    Form,
    Record,
    all_fields,
    form_named,
    forms_with,
)
from lumina.data.record_forms.message import BadRecord, Content, kind_of
from lumina.data.record_forms.suggesting import suggestion
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.sections.data import DataSection


class RecordReader:
    """Reads records of one form, or of the form that each is found to have.

    What a record means depends on the record alone, so that reading can begin anywhere
    in the data.

    Args:
        format: the name of the form; None: it is recognised.
        fields: name of a field in the records -> the field of the form that it is.

    Raises:
        LuminaError: E005 for a form or a field that there is not.
    """

    def __init__(
        self, format: str | None = None, fields: Mapping[str, str] | None = None
    ) -> None:
        self.form = None if format is None else form_named(format)
        self.fields: dict[str, str] = dict(fields or {})
        self._last: tuple[Any, Record, Form] | None = None
        known = all_fields() if self.form is None else set(self.form.fields)
        for name, meant in self.fields.items():
            if meant not in known:
                raise LuminaError(
                    "E005",
                    f"--field {name}={meant}: "
                    + ("no form" if self.form is None else f"the form {format}")
                    + f" has a field {meant!r}",
                    f"its fields are {', '.join(sorted(known))}",
                )

    @property
    def key(self) -> list[Any]:
        """What decides how records are read, beside themselves; plain JSON."""
        form = None if self.form is None else self.form.name
        return [form, sorted(self.fields.items())] if form or self.fields else []

    def described_by(self, description: RecordReader) -> RecordReader:
        """The reader of a source that something beside it describes.

        Args:
            description: reads the records as they are described.
        """
        return description

    def parse(self, record: Any) -> Content:
        """The text, or the conversation, of one record.

        A field that is null counts as absent; other fields that no form reads are
        ignored, and named by `unread`.

        Raises:
            BadRecord: E101 not an object, E102 fields or roles, E103 text that is not
                Unicode, E105 nothing in it.
        """
        return self.read(record)[1]

    def read(self, record: Any) -> tuple[str, Content]:
        """The name of a record's form, and what is in it; errors as `parse`."""
        fields, form = self._known(record)
        return form.name, form.parse(fields)

    def parts(self, record: Any) -> tuple[Form, dict[str, Content]]:
        """The form of a record and what is in it; errors as `parse`.

        Unlike `parse` it refuses no form for not being trained on.
        """
        fields, form = self._known(record)
        return form, form.parts(fields)

    def unread(self, record: Any) -> list[str]:
        """Names of the fields of a good record that hold something and are not read.

        Those of turns are named as in "messages[].name", once for every turn.
        """
        fields, form = self._known(record)
        theirs = {meant: field for field, meant in self.fields.items()}
        return [theirs.get(name, name) for name in form.unread(fields)]

    def form_of(self, record: Any) -> str:
        """The name of a good record's form."""
        return self._known(record)[1].name

    def _known(self, record: Any) -> tuple[Record, Form]:
        """The fields of a record and its form; those of the last one are kept."""
        last = self._last
        if last is not None and last[0] is record:
            return last[1], last[2]
        fields = self._fields_of(record)
        form = self._form_of(fields, record)
        self._last = (record, fields, form)
        return fields, form

    def _fields_of(self, record: Any) -> Record:
        """The fields that hold something, under the names that forms know."""
        if not isinstance(record, dict):
            raise BadRecord("E101", f"expected a JSON object, found {kind_of(record)}")
        if not self.fields:
            return {name: value for name, value in record.items() if value is not None}
        found: Record = {}
        for name, value in record.items():
            if value is None:
                continue
            meant = str(self.fields.get(name, name))
            if meant in found:
                raise BadRecord(
                    "E102", f"two fields are {meant!r}: --field gives it another one"
                )
            found[meant] = value
        return found

    def _form_of(self, fields: Record, record: Record) -> Form:
        if self.form is not None:
            if self.form.recognises(fields):
                return self.form
            raise BadRecord(
                "E102",
                f"not a record of the form {self.form.name!r}, {self.form.about} "
                f"({_listed(fields, record)})",
                "name the fields with --field NAME=FIELD, or another --format",
            )
        for form in forms_with(tuple(fields)):
            if form.recognises(fields):
                return form
        raise _unknown(fields, record)


def _unknown(fields: Record, record: Record) -> BadRecord:
    """No form fits: its fields, and how to say what they are."""
    found = suggestion(fields)
    return BadRecord(
        "E102",
        f"no field 'text' or 'messages' ({_listed(fields, record)}), nor the fields of "
        "another form of record",
        f"{found}, or leave bad records out with --data-errors skip" if found else None,
    )


def _listed(fields: Record, record: Record) -> str:
    """The fields of a record, in words."""
    nulls = [name for name, value in record.items() if value is None]
    names = [*map(repr, fields), *(f"{name!r}, which is null" for name in nulls)]
    return f"fields: {', '.join(sorted(names))[:200] or 'none'}"


def record_reader(data: DataSection) -> RecordReader:
    """The reader that the settings ask for; errors as `RecordReader`."""
    fields = {}
    for text in data.field:
        name, _, meant = text.rpartition("=")
        if not name or not meant:
            raise LuminaError(
                "E005",
                f"--field {text} is not NAME=FIELD",
                "write the name in the records, then the field that it is, such as "
                "question=prompt",
            )
        fields[name] = meant
    return RecordReader(data.format, fields)


_DEFAULT = RecordReader()
parse_record = _DEFAULT.parse
unread_fields = _DEFAULT.unread


def each_field_once(pairs: list[tuple[str, Any]]) -> Record:
    """A JSON object from its fields, for `json.loads`.

    Raises:
        BadRecord: E102 a field that is read stands there twice with two values, of
            which JSON does not say which one holds.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        for name, value in pairs:
            if name in all_fields() and fields[name] != value:
                raise BadRecord(
                    "E102", f"the field {name!r} is there twice, with two values"
                )
    return fields
