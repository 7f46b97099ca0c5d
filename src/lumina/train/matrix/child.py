"""What the process of a cell does: it trains, and writes what that showed.

A folder holds `asked.json`: the options of the run, and the functions whose calls are
counted. `found.json` and `gradients.safetensors` are written beside it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from lumina.child_processes import die_with_parent
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES, active_features
from lumina.model.registry import load_plugins
from lumina.observe.console import Console
from lumina.state.tensor_file import write_tensors
from lumina.train.matrix.cell import idle_features
from lumina.train.matrix.observing import Observer
from lumina.train.trainer import Trainer


def run(folder: str, environment: dict[str, str], log: str) -> None:
    """What a process of a cell does: train, write what it found, and end.

    Args:
        folder: of the run.
        environment: what is set for it besides.
        log: the file that its output goes to.
    """
    os.setsid()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent hears it and ends it
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    place = Path(folder)
    asked = json.loads((place / "asked.json").read_text())
    torch.set_num_threads(asked["threads"])
    found = _tried(asked, place)
    rank = int(environment.get("RANK", "0"))
    if states := found.get("states"):
        (place / f"states.{rank}").write_text(states)
    if rank == 0:
        (place / "found.json").write_text(json.dumps(found))


def _tried(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return _trained(asked, folder)
    except LuminaError as error:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        return {"error": told}
    except Exception as error:
        traceback.print_exc()
        told = {"code": "", "message": f"{type(error).__name__}: {error}", "hint": ""}
        return {"error": told}


def _trained(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    options = {name: _settled(value) for name, value in asked["options"].items()}
    config = Config(**options, run_dir=str(folder / "run"))
    if config.parts.plugins:
        load_plugins(config.parts.plugins)
    observer = Observer(asked["addresses"])
    observer.install()
    trainer = Trainer(config, console=Console(stream=io.StringIO(), live=False))
    began = time.monotonic()
    result = trainer.train()
    plan = trainer.plan
    assert plan is not None
    rows = _rows(result.run_dir / "metrics.jsonl")
    if trainer.ranks.rank == 0:
        write_tensors(folder / "gradients.safetensors", observer.gradients)
    compiled = (
        torch._dynamo.utils.counters["frames"].get("ok", 0) if plan.compile else 0
    )
    peak = observer.memory
    if plan.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return {
        "losses": [row["loss"] for row in rows],
        "evaluated": [row["eval_loss"] for row in rows if row.get("eval_loss")],
        "step_seconds": [row["step_seconds"] for row in rows],
        "skipped": sum(row["skipped"] for row in rows),
        "memory": peak,
        "held": observer.held,
        "sent": observer.sent,
        "states": observer.states,
        "features": active_features(FEATURES, plan),
        "idle": idle_features(plan),
        "calls": dict(observer.calls),
        # Of a forward, because a reference may take more of them in a step.
        "passes": {k: n / plan.grad_accum for k, n in observer.passes.items()},
        "columns": sorted({name for row in rows for name in row}),
        "tensors": observer.tensors,
        "figures": {
            "compiled_frames": compiled,
            "deterministic_algorithms": int(observer.deterministic),
            "ranks": trainer.ranks.world_size if trainer.ranks.world_size > 1 else 0,
            **{f"optimizer.{k}": n for k, n in observer.optimizers.items()},
        },
        "seconds": time.monotonic() - began,
        "run": str(result.run_dir),
    }


def _settled(value: Any) -> Any:
    """Lists of JSON as the tuples that the configuration holds."""
    return tuple(value) if isinstance(value, list) else value


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
