"""What ends a run early, besides a signal: a file, the end of an epoch."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.config import Config

LOOK_SECONDS = 0.5
"""A file on a shared disk is not looked for more often than this."""


class Stops:
    """The ways to end a run that its settings name.

    Args:
        stop_file: ends the run once it exists; None: no file does.
        epoch: passes over the data after which the run ends; None: as many as it has.
    """

    def __init__(
        self, stop_file: str | None = None, epoch: float | None = None
    ) -> None:
        self._file = stop_file
        self._epoch = epoch
        self._looked = -math.inf
        self.found = False

    @classmethod
    def of(cls, config: Config, epochs: float | None) -> Stops:
        """Those of the settings.

        Args:
            config: the settings.
            epochs: passes over the data so far; None where they are not known.
        """
        loading = config.loading
        if not loading.stop_after_epoch:
            return cls(loading.stop_file)
        assert epochs is not None  # as `start_checks` has found
        return cls(loading.stop_file, math.floor(epochs) + 1)

    @property
    def asked(self) -> bool:
        """Whether the file has appeared; a process that has seen it remembers it."""
        now = time.monotonic()
        if self._file is None or self.found or now - self._looked < LOOK_SECONDS:
            return self.found
        self._looked = now
        self.found = os.path.exists(self._file)
        return self.found

    def ends_after(self, epochs: float | None) -> bool:
        """Whether the run ends with a step after which this many passes are done."""
        return self._epoch is not None and epochs is not None and epochs >= self._epoch

    @property
    def file_is_there(self) -> bool:
        """Whether the file exists now."""
        return self._file is not None and os.path.exists(self._file)

    @property
    def reason(self) -> str:
        """Why the run ended where the file was found."""
        return f"{self._file} was found (stop_file)"
