"""Every failure as a code, what happened and what to do: the one place of it."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from lumina.errors import LuminaError, OtherRankError, lost_another
from lumina.memory_shortage import shortage_code, shortage_text

MORE = ("E2", "E3")
"""Codes of failures in the middle of work: the message alone is seldom all."""


def report(error: BaseException, *, debug: bool, verbose: bool) -> int:
    """Print a failure to stderr and return the exit code.

    Args:
        debug: also print the traceback.
        verbose: also print what caused it, in one line each.
    """
    sys.stdout.flush()
    if debug:
        traceback.print_exception(error)  # with its notes
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted")
        _say_notes(error)
        return 130
    if isinstance(error, OtherRankError):
        _say(f"ended with another process of this run: {error.message}")
        if error.hint:
            _say(f"  what to do: {error.hint}")
        _say_notes(error)
        return 2 if (error.code or "").startswith("E0") else 1
    coded = as_lumina_error(error)
    if coded is None and lost_another(error):
        _say("ended, because another process of this run did: its message says why")
        _say_notes(error)
        return 1
    if coded is None:
        text = " ".join(str(error).split()) or "no message"
        _say(f"unexpected {type(error).__name__}: {text}")
        if not debug:
            _say("  what to do: run again with --debug for the traceback")
        _say_notes(error)
        return 1
    _say(str(coded))
    if coded.code.startswith(MORE):
        _say(f"  more: `lumina explain {coded.code}`")
    _say_notes(error)
    if verbose:
        _say_causes(error if coded is error else coded)
    return exit_code(coded)


def exit_code(error: LuminaError) -> int:
    """2 when the command or its settings were wrong (E0xx), 1 when the work failed."""
    return 2 if error.code.startswith("E0") else 1


def as_lumina_error(error: BaseException) -> LuminaError | None:
    """The coded form of an exception, or None for an unforeseen one."""
    if isinstance(error, LuminaError):
        return error
    coded = _memory(error) or _file(error)
    if coded is not None:
        coded.__cause__ = error
    return coded


def _memory(error: BaseException) -> LuminaError | None:
    code = shortage_code(error)
    if code == "E201":
        return LuminaError(
            code,
            shortage_text(error),
            "lower --batch-size (raise --grad-accum to keep the step), use "
            "--gradient-checkpointing full, or a smaller preset",
        )
    if code == "E202":
        text = str(error)
        return LuminaError(
            code,
            shortage_text(error) if text else "the host ran out of memory",
            "lower --batch-size or --seq-length, or choose a smaller preset",
        )
    return None


def _file(error: BaseException) -> LuminaError | None:
    if not isinstance(error, OSError):
        return None
    name = error.filename if error.filename is not None else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LuminaError(
            "E204", f"no space left: {name}", "free some space, or name another folder"
        )
    if isinstance(error, IsADirectoryError):
        return LuminaError(
            "E104", f"{name} is a folder, and a file is expected", "name a file"
        )
    if isinstance(error, PermissionError):
        return LuminaError(
            "E106", f"{error.strerror}: {name}", "check its permissions and kind"
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return LuminaError("E104", f"{error.strerror}: {name}", "check the path")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return LuminaError("E104", f"{error.strerror}: {name}", "name another path")
    if error.errno == errno.EROFS:
        return LuminaError("E106", f"{error.strerror}: {name}", "name another folder")
    return None


def _say_causes(error: BaseException) -> None:
    for cause in _chain(error, lambda one: one.__cause__ or one.__context__):
        text = " ".join(str(cause).split())
        _say(f"  because: {type(cause).__name__}: {text}")


def _chain(
    error: BaseException, before: Callable[[BaseException], BaseException | None]
) -> list[BaseException]:
    """What stands behind an error, each once: one may be its own cause."""
    found, seen = [], {id(error)}
    one = before(error)
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        found.append(one)
        one = before(one)
    return found


def _say_notes(error: BaseException) -> None:
    """What else went wrong, while the work was closed after the error."""
    for one in (error, *_chain(error, lambda one: one.__cause__)):
        for note in getattr(one, "__notes__", ()):
            _say(f"  besides: {note}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
