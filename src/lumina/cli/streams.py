"""Usable standard streams for a program that was started without some of them."""

from __future__ import annotations

import codecs
import os
import sys

_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def provide_standard_streams() -> None:
    """Put the null device where a standard stream is closed.

    Python leaves such a stream as None: flushing it fails, and `print` to a
    missing stderr writes to stdout. The descriptor is taken as well, and processes
    started later inherit it. Otherwise the next file to be opened would get the
    number, and receive what native code writes to that stream.
    """
    for name, number in _NUMBERS.items():
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == number:
                os.set_inheritable(null, True)
            else:
                os.dup2(null, number)
                os.close(null)
        mode = "r" if name == "stdin" else "w"
        stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, stream)


def show_any_character() -> None:
    """Make standard output replace what its encoding lacks instead of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def read_any_bytes() -> None:
    """Make standard input UTF-8 whatever the locale, and keep bytes that are not.

    Those arrive as single surrogates, which `checked_text` refuses by name. What is
    typed at a terminal is in the encoding of the locale, unless that is ASCII.
    """
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is None:
        return
    if not sys.stdin.isatty():
        reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    elif codecs.lookup(sys.stdin.encoding).name == "ascii":
        reconfigure(encoding="utf-8", errors="surrogateescape")
    else:
        reconfigure(errors="surrogateescape")


def output_is_unicode() -> bool:
    """Whether standard output can hold any character as it is."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return codecs.lookup(encoding).name.startswith("utf")
