"""The policy for what cannot be used: stop at it, or leave it out and report it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lumina.errors import LuminaError

HINTS = {
    "E101": "correct or remove it, or leave bad records out with --data-errors skip",
    "E102": 'a record is {"text": ...} or {"messages": [{"role", "content"}, ...]}; '
    "correct it, or leave bad records out with --data-errors skip",
    "E103": "state the encoding with --encoding, such as latin-1, or convert the file "
    "to UTF-8 (iconv -f FROM -t UTF-8), or leave bad records out with --data-errors "
    "skip",
    "E105": "fill or remove it, or leave bad records out with --data-errors skip",
    "E106": "chmod +r it, or leave unreadable files out with --data-errors skip",
}
"""What to do about each kind of bad record, where nothing more is known."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A bad record that was left out: where it is, and why.

    Attributes:
        source: name of the file, or of the member of an archive.
        line: its line, or its number among the records; None: it is the whole file.
        code: the error code.
        reason: what is wrong.
    """

    source: str
    line: int | None
    code: str
    reason: str


@dataclass
class Policy:
    """What is done about bad records, and about what is left out on purpose.

    Attributes:
        fatal: a bad record is an error; otherwise it is left out.
        on_skip: is called with every bad record that is left out.
        on_left_out: is called with (kind, name) of each member of an archive that is
            not data, or that is never read.
        said: how often something was reported.
    """

    fatal: bool = True
    on_skip: Callable[[Skipped], None] | None = None
    on_left_out: Callable[[str, str], None] | None = None
    said: int = 0

    def bad(
        self,
        code: str,
        source: str,
        reason: str,
        *,
        line: int | None = None,
        unit: str = "line",
        hint: str | None = None,
    ) -> None:
        """Raise, or report the record and carry on.

        Raises:
            LuminaError: with the code, where bad records are fatal.
        """
        self.said += 1
        if self.fatal:
            where = source if line is None else f"{source}, {unit} {line}"
            raise LuminaError(code, f"{where}: {reason}", hint or HINTS[code])
        if self.on_skip is not None:
            self.on_skip(Skipped(source, line, code, reason))

    def leave_out(self, kind: str, name: str) -> None:
        """Report something that is not read, whatever the policy."""
        self.said += 1
        if self.on_left_out is not None:
            self.on_left_out(kind, name)
