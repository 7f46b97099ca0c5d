"""The memory of runs: what a run leaves in it, and what a run takes over from it.

A store that cannot be read or written costs a warning, never the run.
"""

from __future__ import annotations

import contextlib

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.state.experience.of_run import record_of
from lumina.state.experience.place import store_at
from lumina.state.run_directory import RunDirectory
from lumina.train.recorder import Recorder


def remember(config: Config, directory: RunDirectory, recorder: Recorder) -> None:
    """Put a run that has ended into the store, however it ended.

    Args:
        config: its settings, which name the store.
        directory: its files, with its status.
        recorder: tells of a store that cannot be written.
    """
    try:
        store = store_at(config.experience.experience)
        if store is not None:
            store.add(record_of(directory))
    except LuminaError as error:
        # On a disk that is full, word of it may not fit either.
        with contextlib.suppress(LuminaError):
            recorder.event(
                "experience_ignored",
                "warning",
                error.code,
                f"this run is not remembered: {error.message}",
            )
