"""The process of a contestant, seen from the one that compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from lumina.child_processes import reason_of_end
from lumina.errors import LuminaError


class Asked(Protocol):
    """Something that answers commands; see `lumina.train.bench.serve`."""

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to one command."""

    def close(self) -> None:
        """End it."""


class ContestantProcess:
    """A contestant in a process of its own, which stays until `close`.

    Args:
        folder: of the comparison; the process's log goes there.
        name: of the contestant.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._log = open(self.log, "w")  # noqa: SIM115
        words = [str(os.getpid()), str(folder), name]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lumina.train.bench.serve", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # Ctrl-C reaches the process that compares, which ends this one.
            start_new_session=True,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        )

    def answer(self) -> dict[str, Any]:
        """Its next answer.

        Raises:
            LuminaError: what stood in its way, or E308 where it ended without a word.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self._log.flush()
            printed = self.log.read_text(errors="replace")
            raise LuminaError(
                "E308",
                f"the process of {self.name} ended with code {code}: "
                f"{reason_of_end(printed)}",
                f"measure a smaller shape, or leave {self.name} out",
            )
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            told = found["error"]
            message = f"{self.name}: {told['message']}"
            hint = told["hint"] or "measure a smaller batch"
            raise LuminaError(told["code"], message, hint)
        return found

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to one command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended: its log says why
            return self.answer()
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._log.close()
