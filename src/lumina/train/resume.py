"""Going on with a run: which checkpoint, and which settings may differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.config.modifications import MODIFIERS, modifications
from lumina.config.presets import DEFAULT_PRESET
from lumina.config.sections import SECTIONS
from lumina.config.sections.nodes import NodesSection
from lumina.config.sections.supervisor import SupervisorSection
from lumina.config.source_entries import source_paths
from lumina.config.task_paths import task_names
from lumina.data.kinds import known_kinds
from lumina.errors import LuminaError, shell_path
from lumina.features import absent_features
from lumina.model.registry import STANDARD, missing
from lumina.optim.declared import is_known
from lumina.optim.groups import parse_groups
from lumina.parallel.table import AUTO, STAGES, known_ways
from lumina.plan.decisions import asked_for
from lumina.plan.kinds.table import LIVE_OPTIONS
from lumina.plan.schedule_table import SCHEDULES
from lumina.state.finite import require_finite
from lumina.state.json_lines import read_json_lines
from lumina.state.reader import CheckpointReader, open_checkpoint, open_latest
from lumina.state.run_directory import RunDirectory
from lumina.train.edits import Edit, edits_at
from lumina.train.record_checks import (
    require_records,
    require_settings,
    require_settings_of_latest,
    require_whole_settings,
)

LIVE_SHAPE = LIVE_OPTIONS | {"dropout", "lora_dropout", "lora_plus_ratio", "peft_base"}
"""Options of the model that change no tensor, so a resume may change them."""

FIXED = (
    {
        leaf
        for section in SECTIONS.values()
        if section.describes_model
        for leaf in section.model_fields
    }
    - LIVE_SHAPE
) | {"seed", "init_from", "freeze", "expert_id", "default_goal",
     "optimizer", "optimizer_groups",
     "format", "field", "chat_template", "loss_on", "role_weights", "turn_weights",
     "long_conversations", "eval_fraction", "eval_split", "tokenizer",
     "tokenizer_vocab_size", "preserve_base_knowledge",
     "preservation_method",
     "task_sampling_strategy", "data_kind",
     "lr_transfer", "base_width", "base_depth", "load_in_4bit",
     "load_in_8bit", "quantization_method", "quantization_bits"}  # fmt: skip
"""Options that a resume must leave as they are: another model, or other data.
The data itself is compared by content, so its files may have moved."""

NOT_INHERITED = {
    "resume",
    "auto_resume",
    "branch_from",
    "run_dir",
    "nproc",
    "cuda_ids",
    "strict",
    "forget_memory_limits",
    *NodesSection.model_fields,
    *SupervisorSection.model_fields,
    *MODIFIERS,
}
"""Options that say how to start, not what to train."""


@dataclass
class Resumption:
    """A run to go on with.

    Attributes:
        run: its directory.
        reader: the checkpoint to start from; None for a run without one yet.
        config: the run's settings with the changes asked for now.
        changes: option -> (old, new).
        finished: the run came to its end and nothing asks for more.
        edits: parts of its State that started over, or start over now.
    """

    run: Path
    reader: CheckpointReader | None
    config: Config
    changes: dict[str, tuple[Any, Any]]
    finished: bool
    edits: tuple[Edit, ...] = ()


def find_run(config: Config) -> Path | None:
    """The run that `--resume` or `--auto-resume` means; None to start a new one.

    Raises:
        LuminaError: E304 when `--resume` names nothing to go on with, E002 when it and
            `--run-dir` name two runs, E303 for a run whose settings are gone.
    """
    asked, folder = config.run.resume, config.run.run_dir
    if asked is None:
        if not config.run.auto_resume or not folder:
            return None
        require_settings(Path(folder))
        return Path(folder) if RunDirectory(folder).config.is_file() else None
    path = Path(folder or "runs") if asked == "latest" else Path(asked)
    if asked == "latest" and not RunDirectory(path).is_run:
        path = _newest_run(path)
    run, _ = run_of(path)
    require_settings(run)
    if asked != "latest" and folder and Path(folder).resolve() != run.resolve():
        raise LuminaError(
            "E002",
            f"--resume {asked} goes on in {run}, and --run-dir says {folder}",
            "leave --run-dir out; to begin another run from its weights, use "
            f"--init-from {shell_path(asked)} --run-dir {shell_path(folder)}",
        )
    return run


def run_of(path: Path) -> tuple[Path, Path | None]:
    """The run that a path names, and the checkpoint, where it names one.

    Raises:
        LuminaError: E304 where it is neither.
    """
    if not path.exists():
        hint = "`lumina runs` lists them"
        if str(path).lower() == "true":  # of transformers: the last one of the folder
            hint = "name the run, or let --auto-resume find the newest"
        raise LuminaError("E304", f"there is no run {path}", hint)
    run = path.resolve().parent.parent if _is_checkpoint(path) else path
    if not RunDirectory(run).is_run:
        raise LuminaError(
            "E304",
            f"{path} is neither a run nor a checkpoint",
            "name a run, which `lumina runs` lists",
        )
    return run, path if _is_checkpoint(path) else None


def find_resumption(
    config: Config, run: Path, events: list[dict[str, Any]]
) -> Resumption:
    """Where a run goes on, and with which settings.

    Args:
        config: what was asked for now.
        run: its directory, of `find_run`.
        events: gets a `checkpoint_refused` for each damaged checkpoint.

    Raises:
        LuminaError: E304 when `--resume` names a run without a checkpoint, E303 when
            all of them (or the one named) are damaged or the settings are cut, E101
            for rows or events that cannot be read, E002 for changes that make it
            another run.
    """

    def note(*event: Any, **data: Any) -> None:
        keys = ("kind", "severity", "code", "message", "step")
        events.append(dict(zip(keys, event, strict=False)) | data)

    try:
        merged, changes = _merge(config, run)
    except LuminaError:
        # Settings that were cut differ from those asked for: that is not the cause.
        require_settings_of_latest(run)
        raise
    require_records(run)
    asked = config.run.resume
    if asked is not None and _is_checkpoint(Path(asked)):
        named = open_checkpoint(asked)
        require_finite(named)
        reader: CheckpointReader | None = named
    else:
        reader = open_latest(run, note, require_finite)
    if reader is None:
        _refuse_lost(run)
    if asked is not None and reader is None:
        raise LuminaError(
            "E304",
            f"{run} has no checkpoint to go on from",
            "start it again with --auto-resume, which begins afresh when it must",
        )
    if reader is not None:
        require_whole_settings(run, reader.meta.config)
        _check_features(reader.meta.plan.get("features", ()), merged, run)
    finished = (
        reader is not None
        and not _asks_for_more(changes)
        and _ended_at(run) == reader.meta.step
    )
    edits: tuple[Edit, ...] = ()
    if reader is not None:
        edits = edits_at(run, reader.meta.step, config, note)
    return Resumption(run, reader, merged, changes, finished, edits)


def _refuse_lost(run: Path) -> None:
    """A run that had checkpoints does not begin afresh over what it left."""
    events = RunDirectory(run).events
    saved = [
        event["step"]
        for event in (read_json_lines(events) if events.exists() else [])
        if event.get("kind") == "checkpoint_saved"
    ]
    if saved:
        raise LuminaError(
            "E303",
            f"{run} had checkpoints, the last of step {saved[-1]}, and none is there",
            "restore one from a copy, or start again in another --run-dir",
        )


def _is_checkpoint(path: Path) -> bool:
    return (path / "manifest.json").is_file() or path.parent.name == "checkpoints"


def _ended_at(run: Path) -> int | None:
    """The step a finished run ended at; None for one that is not finished."""
    directory = RunDirectory(run)
    status = directory.status() if directory.finished else None
    return status["step"] if status else None


def _newest_run(folder: Path) -> Path:
    runs = [p for p in folder.glob("*") if RunDirectory(p).is_run]
    if not runs:
        raise LuminaError(
            "E304", f"there is no run below {folder}", "name one: --resume RUN"
        )
    return max(runs, key=lambda p: p.stat().st_mtime)


def _merge(config: Config, run: Path) -> tuple[Config, dict[str, tuple[Any, Any]]]:
    """The run's settings, and over them what was asked for now."""
    saved = saved_config(run)
    asked = {
        leaf: config.get(leaf)
        for leaf, source in config.provenance.items()
        if source.given and leaf not in NOT_INHERITED
    } | modifications(config)
    changes = {
        leaf: (saved.get(leaf), value)
        for leaf, value in asked.items()
        if saved.get(leaf) != value
    }
    changes |= _other_limit(saved, asked)
    wrong = {leaf: changes[leaf] for leaf in sorted(FIXED & changes.keys())}
    if "tasks" in changes and task_names(saved) != task_names(config):
        wrong["tasks"] = changes["tasks"]  # their files may have moved
    if "sources" in changes and list(source_paths(saved)) != list(source_paths(config)):
        wrong["sources"] = changes["sources"]
    if "phases" in changes:
        old, new = changes["phases"]
        if tuple(new[: len(old)]) != tuple(old):
            wrong["phases"] = changes["phases"]  # further ones may follow, though
    # The command fills in its default preset, which therefore says nothing.
    if config.preset not in (None, DEFAULT_PRESET, saved.preset):
        wrong["preset"] = (saved.preset, config.preset)
    if wrong:
        listed = "; ".join(
            f"{leaf} {old} -> {new}" for leaf, (old, new) in wrong.items()
        )
        raise LuminaError(
            "E002",
            f"{run} was begun with other settings: {listed}",
            "leave them out to go on with it; to start another run from its weights, "
            f"use --init-from {run}",
        )
    _check_plugins(saved, asked, run)
    merged = saved.override(
        {leaf: new for leaf, (_, new) in changes.items()}, Source("flag", "on resume")
    )
    return _started(merged, config, run), changes


def _started(merged: Config, config: Config, run: Path) -> Config:
    """The settings of the run, with how this process was started.

    That is not a property of the run: what is not asked for now is at its default, and
    is not said to be asked for.
    """
    given: dict[str, Any] = {}
    other: dict[str, Any] = {"resume": None, "auto_resume": False}
    for leaf in (
        "nproc",
        "cuda_ids",
        "strict",
        "forget_memory_limits",
        *NodesSection.model_fields,
        *SupervisorSection.model_fields,
    ):
        (given if config.is_chosen(leaf) else other)[leaf] = config.get(leaf)
    if Path(merged.get("run_dir") or "") != run:
        given["run_dir"] = str(run)
    merged = merged.override(given, Source("flag", "on resume"))
    return merged.override(other, Source("default"))


def saved_config(run: Path) -> Config:
    """The run's settings; of an older one with what it did without being asked."""
    return Config.load(RunDirectory(run).config)


def _other_limit(saved: Config, asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """A limit named now, alone, replaces the one of the other kind that the run had."""
    for new, old in (("steps", "epochs"), ("epochs", "steps")):
        value = asked.get(new)
        if value is None or asked.get(old) is not None or not asked_for(saved, old):
            continue
        before = saved.get(new) if asked_for(saved, new) else None
        if before != value:
            return {new: (before, value), old: (saved.get(old), None)}
    return {}


def _check_plugins(saved: Config, asked: dict[str, Any], run: Path) -> None:
    """The run's plug-ins are code: they must be named again, or be there already."""
    if "plugins" in asked or not saved.parts.plugins:
        return
    kind = saved.data.data_kind
    lists = (saved.parts.block_type, saved.parts.attention_type,
             saved.parts.feedforward_type)  # fmt: skip
    single = (saved.parts.backbone, saved.parts.objective)
    names = {n for names in lists for n in names} | {n for n in single if n}
    absent = missing(sorted(names - {STANDARD}))
    if kind and kind not in known_kinds():
        absent.append(kind)
    groups = parse_groups(saved.train.optimizer_groups)
    optimizers = {saved.train.optimizer, *(group.optimizer for group in groups)}
    absent += sorted(name for name in optimizers if not is_known(name))
    if SCHEDULES.found(saved.train.lr_scheduler) is None:
        absent.append(saved.train.lr_scheduler)
    way = saved.system.parallel
    if "parallel" not in asked and way not in (AUTO, STAGES, *known_ways()):
        absent.append(way)
    if absent:
        raise _not_loaded(absent, saved, run)


def _check_features(names: Iterable[str], config: Config, run: Path) -> None:
    """Features that a run trained with are there, also those that chose themselves."""
    if absent := absent_features(names):
        raise _not_loaded(absent, config, run)


def _not_loaded(absent: list[str], config: Config, run: Path) -> LuminaError:
    return LuminaError(
        "E002",
        f"{run} was begun with plug-ins, which hold {', '.join(absent)}, and code "
        "is run only when you name it",
        f"add --plugins {' '.join(config.parts.plugins) or 'FILE'}",
    )


def _asks_for_more(changes: dict[str, tuple[Any, Any]]) -> bool:
    """Whether a finished run is asked to train longer."""
    for leaf in ("steps", "epochs"):
        old, new = changes.get(leaf, (None, None))
        if new is not None and (old is None or new > old):
            return True
    before, now = changes.get("phases", ((), ()))
    return len(now) > len(before)
