"""The exceptions a user meets, the table of their codes, and paths in advice."""

from __future__ import annotations

import os
import shlex

CODES: dict[str, str] = {
    "E001": "unknown preset",
    "E002": "settings that do not go together",
    "E003": "the hardware cannot do what was asked",
    "E004": "unknown option",
    "E005": "a value that makes no sense",
    "E101": "wrong data format",
    "E102": "missing or wrong fields",
    "E103": "wrong text encoding",
    "E104": "path not found",
    "E105": "nothing in it",
    "E106": "permission denied",
    "E107": "a remote source cannot be reached",
    "E108": "a chat template that cannot be used",
    "E201": "out of GPU memory",
    "E202": "out of host memory",
    "E203": "out of memory for the optimizer",
    "E204": "out of disk space",
    "E301": "training diverged",
    "E302": "gradient overflow",
    "E303": "damaged checkpoint",
    "E304": "nothing to resume",
    "E305": "silent corruption",
    "E306": "device failed its test",
    "E307": "results that should be equal differ",
    "E308": "a process of a measurement ended",
    "E309": "a step that cannot be captured",
}


class LuminaError(Exception):
    """An error with a code, what happened, and what to do about it.

    Args:
        code: a key of `CODES`.
        message: what happened, with the offending name, path or value.
        hint: what the user can do now.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"unknown error code {code}")
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.code} ({CODES[self.code]}): {self.message}"
        return f"{text}\n  what to do: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[type[LuminaError], tuple[str, str, str]]:
        # Rebuilt from its parts, so that it crosses process boundaries whole.
        return type(self), (self.code, self.message, self.hint)


class OtherRankError(RuntimeError):
    """This process ended because another one of its run failed, and says why that was.

    Args:
        rank: of the other process.
        code: a key of `CODES`, or None for an unforeseen error.
        message: what happened there.
        hint: what the user can do now.
    """

    def __init__(
        self, rank: int, code: str | None, message: str, hint: str = ""
    ) -> None:
        self.rank = rank
        self.code = code if code in CODES else None
        self.hint = hint
        named = "" if self.code is None else f"{self.code} ({CODES[self.code]}): "
        self.message = f"rank {rank} failed: {named}{message}"
        super().__init__(self.message)


def lost_another(error: BaseException) -> bool:
    """Whether a process failed only because another one of its run did."""
    text = str(error)
    gone = ("closed by peer", "reset by peer", "Broken pipe")
    return isinstance(error, OtherRankError) or (
        isinstance(error, RuntimeError)
        and "gloo" in text
        and any(words in text for words in gone)
    )


def shell_path(path: str | os.PathLike[str]) -> str:
    """A path as a word of a command that can be copied: quoted, and no option."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
