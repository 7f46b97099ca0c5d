"""`python -m lumina`, and the installed command `lumina`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import NoReturn

from lumina.cli.main import main


def end(code: int) -> NoReturn:
    """End this process, with the interpreter left standing where it is a rank.

    A thread of the communication library may release a tensor after the last
    exchange, for which it needs the interpreter. One that asks for it while that is
    taken down is ended in the middle of C++ code, which can abort a process that has
    done all its work.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        # Every module is about to go: a search for cycles among them, which Python
        # makes then, takes longer than all else at the end.
        gc.freeze()
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            stream.flush()
    os._exit(code)


def run() -> NoReturn:
    """Run the command of this process's words, and end."""
    end(main())


if __name__ == "__main__":
    run()
