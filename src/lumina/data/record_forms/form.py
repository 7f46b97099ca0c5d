"""What a form of record is, and the table of all forms."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from lumina.data.record_forms.message import BadRecord, Content, is_empty
from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

Record = dict[str, Any]


class Form(ABC):
    """A form of record; each is a file of this package with an object named `FORM`.

    Attributes:
        name: what `--format` calls it.
        about: what a record of this form is, for messages.
        rank: forms of lower ranks are looked for first; a record belongs to one form.
        fields: the fields of a record that are read.
        turn_fields: the fields of its turns that are read.
        marks: a record of this form has at least one of these fields.
    """

    name: str
    about: str
    rank: int = 50
    fields: tuple[str, ...]
    turn_fields: tuple[str, ...] = ()
    marks: tuple[str, ...]

    @abstractmethod
    def recognises(self, record: Record) -> bool:
        """Whether a record is of this form, by its fields; none of them is null."""

    @abstractmethod
    def parts(self, record: Record) -> dict[str, Content]:
        """What is in a record, checked: by name where there are several things.

        Raises:
            BadRecord: E102 fields, E103 text that is not Unicode, E105 nothing in it.
        """

    def parse(self, record: Record) -> Content:
        """The text or the conversation to learn from; errors as `parts`."""
        [content] = self.parts(record).values()
        return content

    def unread(self, record: Record) -> list[str]:
        """Names of the fields of a good record that hold something and are not read."""
        return [
            n for n, v in record.items() if n not in self.fields and not is_empty(v)
        ]


class UntrainedForm(Form):
    """A form that is recognised, checked and shown, but not trained on.

    Attributes:
        reason: why not.
        advice: what to do.
    """

    reason: str
    advice: str

    def parse(self, record: Record) -> Content:
        """Refuse a good record by name; errors of a bad one come first."""
        self.parts(record)
        raise BadRecord(
            "E102",
            f"a record of the form {self.name!r}: {self.reason}",
            self.advice_for(record),
        )

    def advice_for(self, record: Record) -> str:
        """What to do about such a record."""
        return self.advice


@functools.cache
def forms() -> dict[str, Form]:
    """Every form by name, in the order in which they are looked for."""
    package = importlib.import_module(__package__)
    found = [
        module.FORM
        for info in pkgutil.iter_modules(package.__path__)
        if hasattr(
            module := importlib.import_module(f"{__package__}.{info.name}"), "FORM"
        )
    ]
    return {form.name: form for form in sorted(found, key=lambda form: form.rank)}


@functools.lru_cache(1024)
def forms_with(fields: tuple[str, ...]) -> tuple[Form, ...]:
    """The forms that a record with these fields can be of."""
    return tuple(
        form for form in forms().values() if any(one in fields for one in form.marks)
    )


@functools.cache
def all_fields() -> frozenset[str]:
    """Every field of a record or of a turn that some form reads."""
    return frozenset(_fields())


def _fields() -> Iterator[str]:
    for form in forms().values():
        yield from form.fields
        yield from form.turn_fields


def form_named(name: str) -> Form:
    """The form that `--format` names.

    Raises:
        LuminaError: E005 for one that there is not.
    """
    known = forms()
    if name in known:
        return known[name]

    meant = did_you_mean(name, known)
    raise LuminaError(
        "E005",
        f"--format {name}: there is no such form of record",
        f"{meant}there are {', '.join(known)}",
    )
