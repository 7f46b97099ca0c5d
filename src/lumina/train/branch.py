"""Another run that goes on from a checkpoint of a run, which stays as it is.

Where the run is at a constant rate (in the stable phase of WSD), a branch that decays
gives what a run of that length would have given, and the run itself goes on (Hu et al.,
2024, arXiv:2404.06395; Haegele et al., 2024, arXiv:2405.18392).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lumina.assemble.ranks import Ranks
from lumina.config import Config, Source
from lumina.durable import sync_folder, write_error
from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for
from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.plan.schedule_table import SCHEDULES
from lumina.state.events import EventLog, read_events
from lumina.state.json_lines import JsonLinesFile
from lumina.state.metrics import read_metrics
from lumina.state.reader import latest_good, open_checkpoint
from lumina.state.retention import write_pointer
from lumina.state.run_directory import RunDirectory
from lumina.train.edits import read_edits, write_edits
from lumina.train.resume import find_resumption, run_of, saved_config

STABLE = "wsd"
"""The schedule of a branch of a run whose rate never falls."""


@dataclass(frozen=True)
class Branch:
    """Where a branch begins, and what is asked of it.

    Attributes:
        run: the directory of the run that it leaves.
        checkpoint: the checkpoint that it goes on from.
        step: completed steps there.
        config: what is asked for now, with the lengths of the decay.
    """

    run: Path
    checkpoint: Path
    step: int
    config: Config


def branch_of(config: Config) -> Branch | None:
    """What `branch_from` means; None where it is not set. Writes nothing.

    Raises:
        LuminaError: E304 for a run without a checkpoint, E303 for a damaged one, E002
            for settings that make it another model, or a decay that cannot begin there.
    """
    named = config.run.branch_from
    if named is None:
        return None
    run, checkpoint = run_of(Path(named))
    checkpoint = checkpoint or latest_good(run)
    if checkpoint is None:
        raise LuminaError(
            "E304", f"{run} has no checkpoint to branch from", "name another run"
        )
    with open_checkpoint(checkpoint) as reader:
        step, plan = reader.meta.step, Plan.from_dict(reader.meta.plan)
    config = _decaying(config, saved_config(run), plan, step)
    asked = config.override(
        {"resume": str(checkpoint), "branch_from": None, "run_dir": None},
        Source("flag", "branch"),
    )
    resumption = find_resumption(asked, run, [])  # refuses another model
    if resumption.reader is not None:
        resumption.reader.close()
    return Branch(run, checkpoint, step, asked)


def _decaying(config: Config, saved: Config, trunk: Plan, step: int) -> Config:
    """What is asked for, with the schedule and the lengths of a decay.

    A branch with a schedule that has no stable phase gets what it asks for.

    Args:
        config: what is asked for.
        saved: the settings of the run that is left.
        trunk: its plan when it saved the checkpoint.
        step: completed steps there.
    """
    train, decided = config.train, dict[str, object]()
    name = trunk.lr_scheduler
    if asked_for(config, "lr_scheduler"):
        name = train.lr_scheduler
    elif (found := SCHEDULES.found(name)) is not None and not found.falls:
        decided["lr_scheduler"] = name = STABLE
    schedule = SCHEDULES.found(name)
    if schedule is None or not schedule.stable:
        return config
    if trunk.phases:
        raise LuminaError(
            "E002",
            "the run trains in phases, each with a schedule of its own",
            "branch a run without phases, or name another --lr-scheduler",
        )
    rate = learning_rate_at(trunk, step)
    if rate != trunk.learning_rate:
        raise LuminaError(
            "E002",
            f"after step {step:,} the learning rate of the run is {rate:.3g}, and not "
            f"its peak {trunk.learning_rate:.3g}, from which a branch decays",
            "name a checkpoint between the warm-up and the decay, which `lumina "
            "checkpoints list` shows",
        )
    steps = train.steps if asked_for(config, "steps") else None
    decay = train.decay_steps if asked_for(config, "decay_steps") else None
    if decay is None and asked_for(config, "decay_ratio") and steps is not None:
        decay = max(1, round(train.decay_ratio * steps))
    if steps is None and decay is None:
        ratio = saved.train.decay_ratio
        if asked_for(config, "decay_ratio"):
            ratio = train.decay_ratio
        if ratio == 1:
            raise LuminaError(
                "E002", "a decay_ratio of 1 leaves no stable phase", "use --decay-steps"
            )
        steps = max(step + 1, round(step / (1 - ratio)))
    if steps is None:
        assert decay is not None
        steps = step + decay
    decided["steps"] = steps
    if not asked_for(config, "warmup_steps"):
        decided["warmup_steps"] = trunk.warmup_steps  # it is over
    decided["decay_steps"] = decay = steps - step if decay is None else decay
    if decay > steps - step:
        raise LuminaError(
            "E002",
            f"a decay over {decay:,} steps that ends at step {steps:,} begins before "
            f"the checkpoint, of step {step:,}",
            f"use --decay-steps {max(steps - step, 1)} or less, or more --steps",
        )
    return config.override(decided, Source("flag", "branch"))


@contextlib.contextmanager
def begun(config: Config, ranks: Ranks) -> Iterator[Config]:
    """The settings with which the branch that was asked for goes on.

    The first rank makes its directory: the checkpoint, with the rows of metrics and the
    events before it. One that fails before its run has begun leaves none, and no folder
    that was made on the way to it.

    Raises:
        LuminaError: E002 where there is a run already; as `branch_of`.
    """
    folder = config.run.run_dir
    if config.run.auto_resume and folder and RunDirectory(folder).is_run:
        yield config.override({"branch_from": None}, Source("flag", "branch"))
        return
    branch = branch_of(config)
    if branch is None:
        yield config
        return
    if ranks.world_size > 1:
        ranks.connect(_kind(config))
    there = folder is not None and Path(folder).exists()
    missing = _missing(Path(folder)) if folder else []
    made = str(make_folder(branch, folder)) if ranks.main else None
    directory = RunDirectory(ranks.share(made))
    try:
        yield branch.config.override(
            {"resume": str(directory.path)}, Source("flag", "branch")
        )
    except BaseException:
        if ranks.main and not directory.status_file.exists():
            shutil.rmtree(directory.path, ignore_errors=True)
            _remove(missing)
            if there:  # an empty folder, which the branch took
                with contextlib.suppress(OSError):
                    directory.path.mkdir()
        raise


def _missing(path: Path) -> list[Path]:
    """Folders that are not there on the way to `path`, itself first."""
    return [one for one in (path, *path.parents) if not one.exists()]


def _remove(folders: list[Path]) -> None:
    """Remove those that are empty: something else has come to live in the others."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _kind(config: Config) -> str:
    import torch

    cpu = config.system.device == "cpu" or not torch.cuda.is_available()
    return "cpu" if cpu else "cuda"


def make_folder(branch: Branch, folder: str | None) -> Path:
    """The directory of a run that has come as far as the checkpoint.

    A failure leaves nothing of it.

    Raises:
        LuminaError: E002 where there is a run already; E101 for records of the run that
            cannot be read; E104, E106 or E204 where it cannot be written.
    """
    missing = _missing(Path(folder)) if folder else []
    if folder is None:
        name = f"{branch.run.resolve().name}-{branch.step}"
        target = RunDirectory.new(name, branch.run.resolve().parent)
        missing = [target.path]
    else:
        target = RunDirectory(folder)
        target.check(resume=False)
    unfinished = target.path.with_name(f".{target.path.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _fill(RunDirectory(unfinished), branch)
        sync_folder(unfinished)
        os.replace(unfinished, target.path)  # over an empty folder, if there is one
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        _remove(missing)
        if isinstance(error, OSError):
            raise write_error(error, target.path) from error
        raise
    return target.path


def _fill(target: RunDirectory, branch: Branch) -> None:
    """Files of the run that is left, up to the checkpoint."""
    source = RunDirectory(branch.run)
    shutil.copy2(source.config, target.config)
    if source.tokenizer.is_dir():
        shutil.copytree(source.tokenizer, target.tokenizer)
    write_edits(target.path, read_edits(source.path))
    kept = target.checkpoints / branch.checkpoint.name
    shutil.copytree(branch.checkpoint, kept, copy_function=_linked)
    write_pointer(target.checkpoints, "LATEST", kept)
    rows = JsonLinesFile(target.metrics)
    for row in read_metrics(source.path) if source.metrics.exists() else ():
        if row["step"] <= branch.step:
            rows.append(row)
    rows.close()
    events = JsonLinesFile(target.events)
    for event in read_events(source.path) if source.events.exists() else ():
        if (event.get("step") or 0) <= branch.step:
            events.append(event)
    events.close()
    log = EventLog(target.events)
    log.emit(
        "branched",
        "info",
        None,
        f"branched after step {branch.step:,} of {branch.run.resolve().name}, which "
        "stays as it is",
        step=branch.step,
    )
    log.close()


def _linked(source: str, target: str) -> None:
    """One file under two names, which is written once; a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
