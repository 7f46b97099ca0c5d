"""Going on with a run: which checkpoint, and which settings may differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.config.sections import ModelSection, MoeSection
from lumina.errors import LuminaError
from lumina.state.reader import CheckpointReader, open_checkpoint
from lumina.state.run_directory import RunDirectory
from lumina.state.weights import find_checkpoint

LIVE_SHAPE = {"dropout", "capacity_factor", "load_balancing_weight",
              "router_z_loss_weight"}  # fmt: skip
"""Options of the model that change no tensor, so a resume may change them."""

FIXED = (
    (set(ModelSection.model_fields) | set(MoeSection.model_fields)) - LIVE_SHAPE
) | {"seed", "init_from", "freeze", "loss_on", "eval_fraction",
     "tokenizer", "tokenizer_vocab_size"}  # fmt: skip
"""Options that a resume must leave as they are: another model, or other data.
The data itself is compared by content, so its files may have moved."""

NOT_INHERITED = {"resume", "auto_resume", "run_dir", "nproc"}
"""Options that say how to start, not what to train."""


@dataclass
class Resumption:
    """A run to go on with.

    Attributes:
        run: its directory.
        reader: the checkpoint to start from; None for a run without one yet.
        config: the run's settings with the changes asked for now.
        changes: option -> (old, new).
        refused: checkpoints that were damaged, as keyword arguments for an event.
        finished: the run came to its end and nothing asks for more.
    """

    run: Path
    reader: CheckpointReader | None
    config: Config
    changes: dict[str, tuple[Any, Any]]
    refused: list[dict[str, Any]]
    finished: bool


def find_resumption(config: Config) -> Resumption | None:
    """What `--resume` or `--auto-resume` means; None to start afresh.

    Raises:
        LuminaError: E304 when `--resume` names nothing to go on with, E303 when all
            checkpoints are damaged, E002 for changes that make it another run.
    """
    refused: list[dict[str, Any]] = []
    run, checkpoint = _find(config, refused)
    if run is None:
        return None
    merged, changes = _merge(config, run)
    reader = open_checkpoint(checkpoint) if checkpoint is not None else None
    more = _asks_for_more(changes)
    finished = RunDirectory(run).finished and reader is not None and not more
    return Resumption(run, reader, merged, changes, refused, finished)


def _find(
    config: Config, refused: list[dict[str, Any]]
) -> tuple[Path | None, Path | None]:
    """(run directory, checkpoint or None); (None, None) to start afresh."""

    def note(*event: Any, **data: Any) -> None:
        keys = ("kind", "severity", "code", "message", "step")
        refused.append(dict(zip(keys, event, strict=False)) | data)

    asked = config.run.resume
    if asked is None:
        folder = config.run.run_dir
        if not config.run.auto_resume or folder is None:
            return None, None
        if not RunDirectory(folder).config.is_file():
            return None, None
        return Path(folder), _latest(Path(folder), note)
    path = Path(config.run.run_dir or "runs") if asked == "latest" else Path(asked)
    if asked == "latest" and not RunDirectory(path).is_run:
        path = _newest_run(path)
    if not path.exists():
        raise LuminaError("E304", f"there is no run {path}", "`lumina runs` lists them")
    if (path / "manifest.json").is_file():
        return path.resolve().parent.parent, path
    if not RunDirectory(path).is_run:
        raise LuminaError(
            "E304", f"{path} is neither a run nor a checkpoint", "`lumina runs`"
        )
    checkpoint = _latest(path, note)
    if checkpoint is None:
        raise LuminaError(
            "E304",
            f"{path} has no checkpoint to go on from",
            "start it again with --auto-resume, which begins afresh when it must",
        )
    return path, checkpoint


def _latest(run: Path, note: Any) -> Path | None:
    from lumina.state.reader import latest_good

    return latest_good(run, note)


def _newest_run(folder: Path) -> Path:
    runs = [p for p in folder.glob("*") if RunDirectory(p).is_run]
    if not runs:
        raise LuminaError(
            "E304", f"there is no run below {folder}", "name one: --resume RUN"
        )
    return max(runs, key=lambda p: p.stat().st_mtime)


def _merge(config: Config, run: Path) -> tuple[Config, dict[str, tuple[Any, Any]]]:
    """The run's settings, and over them what was asked for now."""
    saved = Config.load(RunDirectory(run).config)
    asked = {
        leaf: config.get(leaf)
        for leaf, source in config.provenance.items()
        if source.kind not in ("default", "preset") and leaf not in NOT_INHERITED
    }
    changes = {
        leaf: (saved.get(leaf), value)
        for leaf, value in asked.items()
        if saved.get(leaf) != value
    }
    wrong = sorted(FIXED & changes.keys())
    if wrong:
        told = "; ".join(f"{w} {changes[w][0]} -> {changes[w][1]}" for w in wrong)
        raise LuminaError(
            "E002",
            f"{run} was begun with other settings: {told}",
            "leave them out to go on with it; to start another run from its weights, "
            f"use --init-from {run}",
        )
    merged = saved.override(
        {leaf: new for leaf, (_, new) in changes.items()}, Source("flag", "on resume")
    )
    # How this process was started is not a property of the run.
    started = {leaf: config.get(leaf) for leaf in NOT_INHERITED - {"run_dir"}}
    merged = merged.override(
        started | {"run_dir": str(run)}, Source("flag", "on resume")
    )
    return merged, changes


def _asks_for_more(changes: dict[str, tuple[Any, Any]]) -> bool:
    """Whether a finished run is asked to train longer."""
    for leaf in ("steps", "epochs"):
        old, new = changes.get(leaf, (None, None))
        if new is not None and (old is None or new > old):
            return True
    return False
