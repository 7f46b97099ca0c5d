"""The directory one run writes to: found, taken, and filled before the first step."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.data.tokenizer import Tokenizer
from lumina.durable import write_error, write_file
from lumina.errors import LuminaError
from lumina.heartbeat import leave
from lumina.plan.plan import Plan
from lumina.state.earlier_plans import keep_plan
from lumina.state.events import EventLog
from lumina.state.exact_json import dumps
from lumina.state.run_directory import RunDirectory
from lumina.train.answering import write_answering


class RunFolder:
    """A run's directory, and the lock on it that the first rank holds.

    Attributes:
        directory: its files by name, once it is taken.
    """

    directory: RunDirectory

    def __init__(self, asked: Config, ranks: Ranks) -> None:
        self.asked = asked
        self.ranks = ranks
        self._held: RunDirectory | None = None
        self._made: list[Path] = []  # folders that were not there before, inmost first
        self._begun = False  # the run began here and now

    @property
    def held(self) -> bool:
        """Whether this process holds the directory, and so may write to it."""
        return self._held is not None

    def refuse_existing(self) -> None:
        """A new run does not write over another one."""
        folder = self.asked.run.run_dir
        if folder and not self.asked.run.auto_resume and RunDirectory(folder).is_run:
            raise LuminaError(
                "E002",
                f"there is a run in {folder} already",
                "add --auto-resume to go on with it, or name another --run-dir",
            )

    def check(self, run: Path | None) -> None:
        """Refuse what `take` would refuse, and write nothing.

        Args:
            run: the run to go on with; None for a new one.
        """
        named = self.asked.run.run_dir
        if run is not None:
            RunDirectory(run).check(resume=True)
            return
        self.refuse_existing()
        # One that is named by the time is new: only whether it may be made matters.
        folder = RunDirectory(named or Path("runs", ".new"))
        folder.check(resume=self.asked.run.auto_resume)

    def new(self) -> Path:
        """Where a new run goes: as asked, or a fresh name that all ranks agree on."""
        named = self.asked.run.run_dir
        if named is None and self.ranks.main:
            self._will_make(Path("runs"))
            path = RunDirectory.new(self.asked.preset or "run").path
            self._made.insert(0, path)
            named = str(path)
        return Path(self.ranks.share(named))

    def take(self, path: Path, *, resume: bool) -> None:
        """Make it ours: a second writer is refused."""
        self.directory = RunDirectory(path)
        if self.ranks.main:
            auto = self.asked.run.auto_resume
            self._begun = not self.directory.is_run
            self._will_make(path)
            self._held = self.directory.acquire(resume=resume or auto)
            leave("run", {"path": str(path.absolute())})

    def _will_make(self, path: Path) -> None:
        """Note which folders are missing on the way to `path`, itself among them."""
        for folder in (path, *path.parents):
            if folder.exists():
                break
            self._made.append(folder)

    def withdraw(self) -> None:
        """Remove a run that was refused before its first step, and only that.

        A directory that held a run before stays as it is, and one that was there, but
        empty, is left empty.
        """
        if self._held is None or not self._begun:
            return
        for entry in self.directory.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for folder in self._made:
            with contextlib.suppress(OSError):  # another run has come to live there
                folder.rmdir()

    def named_in(self, config: Config) -> Config:
        """The settings; of a run that was given no directory, with the one it got."""
        path = str(self.directory.path)
        if config.run.run_dir == path:
            return config
        named = Source("default", "named after the preset and the time")
        return config.override({"run_dir": path}, named)

    def write_decisions(
        self, config: Config, plan: Plan, tokenizer: Tokenizer | None, step: int
    ) -> None:
        """config.yaml, plan.json, the tokenizer, and that the run goes on at `step`."""
        decided = dumps(plan.to_dict(), indent=1) + "\n"
        try:
            # The settings first: with them, a killed run can be resumed.
            write_file(self.directory.config, config.to_yaml().encode())
            if plan.orchestrator:
                keep_plan(self.directory, step, decided)
            write_file(self.directory.plan, decided.encode())
            self._save(tokenizer)
            if tokenizer is not None:
                write_answering(self.directory.tokenizer, config)
        except OSError as error:
            raise write_error(error, self.directory.path) from error
        self.directory.mark("running", step)

    def _save(self, tokenizer: Tokenizer | None) -> None:
        """Whole or not at all: a resume reads the run's own tokenizer."""
        if tokenizer is None:  # puzzles have none
            return
        folder = self.directory.tokenizer
        if folder.is_dir():
            return
        unfinished = folder.with_name(f".{folder.name}.tmp")
        tokenizer.save(unfinished)
        os.replace(unfinished, folder)

    def leave_word(self, error: LuminaError, events: list[dict[str, Any]]) -> None:
        """Why an existing run did not go on, in its own events.jsonl."""
        if self._held is None:
            return
        log = EventLog(self.directory.events)
        for event in events:
            log.emit(**event)
        log.emit("run_failed", "error", error.code, error.message)
        log.close()

    def close(self) -> None:
        """Release the lock."""
        if self._held is not None:
            self._held.close()
