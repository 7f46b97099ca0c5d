"""Where a run is recorded beside its own directory: a log file, a second place."""

from __future__ import annotations

from pathlib import Path

from lumina.config import Config
from lumina.observe.run_log import RunLog
from lumina.state.backup import Backup


def log_of(config: Config, every: int) -> RunLog | None:
    """The log file, where one is named.

    Args:
        config: of the run.
        every: steps from one line of a row to the next.
    """
    asked = config.logging
    if asked.log_file is None:
        return None
    return RunLog(
        asked.log_file,
        level=asked.log_level,
        form=asked.log_format,
        rotate_bytes=round(asked.log_rotate_mib * 2**20),
        keep=asked.log_keep,
        every=every,
    )


def backup_of(config: Config, run: Path) -> Backup | None:
    """The second place for the checkpoints of `run`, where one is named."""
    asked = config.run
    if asked.backup_dir is None:
        return None
    return Backup(run, Path(asked.backup_dir), asked.backup_every_n_hours)
