"""Usable standard streams for a program that was started without some of them."""

from __future__ import annotations

import os
import sys

_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def provide_standard_streams() -> None:
    """Put the null device where a standard stream is closed.

    Python leaves such a stream as None: whoever flushes it fails, and `print` to a
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
