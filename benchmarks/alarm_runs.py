"""Small real runs that `alarms.py` shows to the detectors: clean ones, and faulted.

Each trains a model of two blocks on the sources of Python's standard library, or on
generated records, with a seed that is given here. The rows of a run are kept in a file
of its own, so that what is there already is not trained again.
"""

from __future__ import annotations

import io
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOE = {"use_moe": True, "num_experts": 8, "moe_top_k": 2}
MOD = {"use_mod": True, "mod_capacity_factor": 0.5}
KINDS: dict[str, dict[str, Any]] = {"dense": {}, "experts": MOE, "depths": MOD}
LENGTHS = (60, 150, 300, 600)
RATE = 3e-3


@dataclass(frozen=True)
class Run:
    """A run to make.

    Attributes:
        name: also of its file.
        options: of `lumina.Config`, beside those that all share.
        wanted: names of detectors, any of which is right; empty for a clean run.
        begin: the step in which the fault begins.
        at: called with the trainer and each row; makes the fault.
    """

    name: str
    options: dict[str, Any]
    wanted: tuple[str, ...] = ()
    begin: int = 0
    at: Callable[[Any, dict[str, Any]], None] | None = field(default=None)


def clean_runs(count: int, first_seed: int = 0) -> Iterator[Run]:
    """Runs without a fault, over kinds, lengths, batches, rates, schedules and data."""
    for seed in range(first_seed, first_seed + count):
        draw = random.Random(seed)
        kind = list(KINDS)[seed % len(KINDS)]
        steps = LENGTHS[(seed // len(KINDS)) % len(LENGTHS)]
        options = KINDS[kind] | {
            "steps": steps,
            "seed": seed,
            "batch_size": draw.choice((2, 4, 8, 16)),
            "learning_rate": RATE * draw.choice((0.5, 1.0, 2.0)),
            "lr_scheduler": draw.choice(("cosine", "wsd")),
            "corpus": draw.choice(("sources", "sources", "records")),
        }
        yield Run(f"clean-{seed:03}-{kind}-{steps}", options)


def _rate_jumps(trainer: Any, row: dict[str, Any]) -> None:
    if row["step"] == 150:
        trainer.adjust_learning_rate(60 * RATE, "a fault")


def _weights_are_damaged(trainer: Any, row: dict[str, Any]) -> None:
    import torch

    if row["step"] == 150:
        for slot in trainer._loop.program.optimizer.slots:
            with torch.no_grad():
                slot.parameter.mul_(3.0)


UP = ("divergence", "severe_loss_spike", "loss_spike", "exploding_gradients")
UNSTABLE = (*UP, "high_rate", "oscillation", "plateau", "nonfinite")


def faulted_runs(count: int, first_seed: int = 0) -> Iterator[Run]:
    """Runs with a fault that is really made, `count` of each."""
    for seed in range(first_seed, first_seed + count):
        draw = random.Random(seed)
        steps = draw.choice((150, 300))
        base: dict[str, Any] = {"seed": seed, "batch_size": 8, "corpus": "sources"}
        short = base | {"steps": steps}
        long = base | {"steps": 300}
        wild = {"learning_rate": 100 * RATE, "max_grad_norm": 0.0, "warmup_steps": 0}
        yield Run(f"rate-x100-{seed}", short | wild, UNSTABLE)
        slow = {"learning_rate": RATE / 100}
        yield Run(f"rate-over-100-{seed}", short | slow, ("slow_learning", "plateau"))
        yield Run(f"rate-jumps-{seed}", long, UNSTABLE, 150, _rate_jumps)
        yield Run(f"damage-{seed}", long, UNSTABLE, 150, _weights_are_damaged)
        few = {"corpus": "few", "steps": 600, "eval_every_n_batches": 40}
        yield Run(f"overfitting-{seed}", base | few, ("overfitting",))


def write_corpora(folder: Path) -> dict[str, Path]:
    """The texts, by name."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [p.read_text(errors="replace") for p in sorted(library.glob("*.py"))[:60]]
    draw = random.Random(0)
    records = [
        json.dumps({"id": n, "sum": a + b, "of": [a, b], "ok": draw.random() < 0.9})
        for n in range(12000)
        for a, b in [(draw.randrange(1000), draw.randrange(1000))]
    ]
    texts = {
        "sources": "<|endoftext|>".join(sources),
        "records": "\n".join(records),
        "few": sources[0][:12000] + "<|endoftext|>" + sources[1][:12000],
    }
    found = {}
    for name, text in texts.items():
        found[name] = folder / name / "text.txt"
        found[name].parent.mkdir(parents=True, exist_ok=True)
        if not found[name].exists():
            found[name].write_text(text)
    return found


def rows_of(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, trained where its file is not there yet."""
    file = folder / f"{run.name}.jsonl"
    if not file.exists():
        rows = train(run, folder)
        part = file.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        part.rename(file)
    return [json.loads(line) for line in file.read_text().splitlines()]


def train(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Train a run, and keep its rows."""
    import lumina
    from lumina.observe.console import Console

    options = dict(run.options)
    corpus = write_corpora(folder)[options.pop("corpus")]
    values: dict[str, Any] = {
        "run_dir": str(folder / "run" / run.name),
        "train_data": (str(corpus),),
        "tokenizer_vocab_size": 400,
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 2,
        "num_kv_heads": 2,
        "intermediate_size": 96,
        "seq_length": 64,
        "warmup_steps": max(options["steps"] // 20, 3),
        "learning_rate": RATE,
        "max_grad_norm": 1.0,
        "eval_batches": 8,
        "eval_every_n_batches": max(options["steps"] // 6, 10),
        "save_every_n_batches": 0,
        "report_samples": 0,
        "device": "cpu",
        "num_workers": 0,
        "epochs": None,
    }
    rows: list[dict[str, Any]] = []

    def keep(trainer: Any, row: dict[str, Any]) -> None:
        if rows and rows[-1]["step"] == row["step"]:
            rows[-1] = row
            return
        rows.append(row)
        if run.at is not None:
            run.at(trainer, row)

    lumina.Trainer(
        lumina.Config(**(values | options)),
        console=Console(stream=io.StringIO(), live=False),
        on_step=keep,
    ).train()
    return rows
