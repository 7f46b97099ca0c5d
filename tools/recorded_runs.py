"""Records what this version of Lumina writes, for later versions to be tried on.

For every entry of `RECORDINGS` it trains a tiny model for a few steps and keeps the
folder that a sudden end after the last step would leave: the training data, the run
directory with a checkpoint of a step in the middle, and metrics.jsonl with the rows of
all steps. Beside some of them are the cache of tokenised data and an exported folder.

    OMP_NUM_THREADS=1 python tools/recorded_runs.py ARCHIVE.tar.xz [RECORDING ...]

`tests/state/test_recorded_runs.py` goes on with each of these runs and asks for the
losses that were recorded. A recording is made once, with the version that it is named
after, and is never made again to make a test pass.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import lumina
from lumina import Config, Trainer
from lumina.observe.console import Console

STEPS, KEPT = 5, 3
STEP = f"step-{KEPT:08}"
"""Steps of every run, the step of the checkpoint that is kept, and its folder."""

ANIMALS, PLACES = ("cat", "dog", "owl", "fox", "hen"), ("barn", "hill", "lake", "wood")
SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)
PROMPT = [70, 71, 40, 41, 42]
"""The ids whose logits are recorded for exported folders."""


def story(documents: int) -> str:
    """Short documents with a pattern."""
    return "<|endoftext|>".join(
        f"The {ANIMALS[n % 5]} went to the {PLACES[n * 3 % 4]} on day {n} and slept.\n"
        for n in range(documents)
    )


def text(folder: Path) -> dict[str, Any]:
    """One file of short documents."""
    (folder / "story.txt").write_text(story(60))
    return {"train_data": ("data/story.txt",)}


def mixed_text(folder: Path) -> dict[str, Any]:
    """A folder with .txt and .jsonl: other alphabets, long lines, several spaces."""
    (folder / "story.txt").write_text(story(40))
    parts = [
        "  two  spaces\n\n\n",
        "naïve café Ελλάδα 東京\n",
        "x = [1,\t2]\r\n",
        "a" * 90,
    ]
    (folder / "odd.txt").write_text(
        "<|endoftext|>".join(f"{n} {parts[n % 4]}" for n in range(40)), newline=""
    )
    _write_lines(
        folder / "odd.jsonl", [{"text": f"{parts[n % 4]} at {n}"} for n in range(40)]
    )
    return {"train_data": ("data",)}


def chat(folder: Path) -> dict[str, Any]:
    """Conversations, some with a system text, several turns and odd spaces."""
    _write_lines(folder / "chat.jsonl", [{"messages": _turns(n)} for n in range(40)])
    return {"train_data": ("data/chat.jsonl",)}


def _turns(n: int) -> list[dict[str, str]]:
    if n % 2:
        return [
            _turn("user", f"Where did the {ANIMALS[n % 5]} go today?"),
            _turn("assistant", f"To the {PLACES[n % 4]} number {n}."),
        ]
    return [
        _turn("system", f"Speak of {PLACES[n % 4]}s."),
        _turn("user", f"  {n} + {n}?\n"),
        _turn("assistant", f"= {2 * n}\n\n"),
        _turn("user", "naïve café?"),
        _turn("assistant", f" oui, {n}  fois"),
    ]


def several(folder: Path) -> dict[str, Any]:
    """Two tasks of one file each."""
    (folder / "story.txt").write_text(story(60))
    counted = "<|endoftext|>".join(f"{n} {n + 1} {n + 2}\n" for n in range(40))
    (folder / "count.txt").write_text(counted)
    return {
        "tasks": ("story=data/story.txt", "count=data/count.txt"),
        "tie_embeddings": False,
    }


def sudoku(folder: Path) -> dict[str, Any]:
    """Puzzles with their solutions."""
    puzzles = [SOLVED[:n] + "." * 4 + SOLVED[n + 4 :] for n in range(14)]
    lines = "\n".join(f"{puzzle},{SOLVED}" for puzzle in puzzles)
    (folder / "puzzles.txt").write_text(lines)
    return {
        "train_data": ("data/puzzles.txt",),
        "tokenizer_vocab_size": None,
        "tie_embeddings": False,
        "seq_length": 81,
        "eval_fraction": 0.2,
    }


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@dataclass(frozen=True)
class Recording:
    """One run to record.

    Attributes:
        data: fills a folder `data` and returns the options that name its files.
        leaves: further options.
        cache: whether the cache of tokenised data is kept.
        export: whether a folder for transformers is written from the checkpoint.
        base: the recording whose exported folder this one starts from, as `base`.
        chosen: options that stand in place of `COMMON`, where the others are to be
            decided by the run.
        preset: what the options are laid over.
        edit: called after the first step.
    """

    data: Callable[[Path], dict[str, Any]]
    leaves: dict[str, Any]
    cache: bool = False
    export: bool = False
    base: str | None = None
    chosen: tuple[str, ...] | None = None
    preset: str | None = None
    edit: Callable[[Trainer], Any] | None = None


EXPERTS = {
    "use_moe": True,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 8,
}
REASONER = {
    "use_hrm": True,
    "num_kv_heads": 2,
    "h_layers": 1,
    "l_layers": 1,
    "expansion": 1.0,
    "halt_max_steps": 3,
}
MACHINE = (
    "run_dir", "steps", "save_every_n_batches", "eval_every_n_batches", "eval_batches",
    "precision", "device", "num_workers", "seed",
)  # fmt: skip
RECORDINGS = {
    "dense": Recording(mixed_text, {"num_layers": 2}, cache=True, export=True),
    "experts": Recording(text, EXPERTS, export=True),
    "chat": Recording(chat, {"seq_length": 64}, cache=True),
    "average-dropout-window": Recording(
        text,
        {
            "ema_decay": 0.9,
            "dropout": 0.1,
            "lr_scheduler": "wsd",
            "window_size": 6,
            "qk_norm": "rms",
            "rope_scaling": "yarn",
            "rope_factor": 2.0,
            "rope_original_length": 16,
        },
    ),
    "bfloat16": Recording(text, {"precision": "bf16", "batch_size": 2}),
    "latent-attention-atan2": Recording(
        text,
        {
            "mla_kv_rank": 4,
            "mla_rope_dim": 2,
            "mla_value_dim": 4,
            "num_kv_heads": None,
            "optimizer": "adam_atan2",
            "lr_scheduler": "cosine",
            "warmup_steps": 2,
            "gradient_checkpointing": "full",
        },
    ),
    "depth": Recording(
        text, {"use_mod": True, "mod_capacity_factor": 0.5, "mod_pattern": "all"}
    ),
    "hybrid": Recording(
        text,
        EXPERTS
        | {
            "use_mod": True,
            "mod_capacity_factor": 0.5,
            "mod_pattern": "all",
            "moe_shared_experts": 1,
            "moe_dispatch": "capacity",
            "capacity_factor": 1.0,
            "moe_bias_update_rate": 0.01,
            "moe_score": "sigmoid",
            "router_jitter_noise": 0.1,
            "expert_dropout": 0.1,
        },
    ),
    "recursion": Recording(
        text, {"use_mor": True, "mor_recursions": 2, "num_layers": 4}
    ),
    "puzzles": Recording(sudoku, REASONER),
    "halting-language": Recording(
        text, REASONER | {"hrm_mode": "language_model", "hrm_variant": "trm"}
    ),
    "tasks": Recording(several, {"task_weights": (0.6, 0.4), "task_balancing": "dwa"}),
    "fine-tuning": Recording(
        chat, {"tokenizer_vocab_size": None}, base="dense", chosen=MACHINE
    ),
    "epochs": Recording(
        text,
        {"steps": None, "epochs": 0.36, "use_moe": False},
        preset="debug",
    ),
    "grown-experts": Recording(
        text, EXPERTS | {"ema_decay": 0.9}, edit=lambda trainer: trainer.add_expert()
    ),
    "named-expert": Recording(
        chat,
        {"tokenizer_vocab_size": None, "expert_id": "answers"},
        base="experts",
        chosen=MACHINE,
    ),
}

COMMON: dict[str, Any] = {
    "run_dir": "run",
    "tokenizer_vocab_size": 270,
    "tie_embeddings": True,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "seq_length": 32,
    "init_std": 0.1,
    "global_batch_size": 4,
    "batch_size": 4,
    "steps": STEPS,
    "warmup_steps": 0,
    "learning_rate": 3e-3,
    "save_every_n_batches": KEPT,
    "eval_every_n_batches": KEPT,
    "eval_batches": 1,
    "precision": "fp32",
    "device": "cpu",
    "num_workers": 1,
    "seed": 1,
}


def record(name: str, folder: Path) -> None:
    """Train one recording in an empty folder, and leave there what is kept of it."""
    recording = RECORDINGS[name]
    folder.mkdir()
    os.chdir(folder)  # the settings name the data relative to this folder
    os.environ["LUMINA_CACHE"] = str(folder / "cache")
    (folder / "data").mkdir()
    common = {n: COMMON[n] for n in recording.chosen or COMMON}
    leaves = common | recording.data(folder / "data") | recording.leaves
    if recording.base is not None:
        shutil.copytree(folder.parent / recording.base / "export", "base")
        leaves["init_from"] = "base"

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 1 and recording.edit is not None:
            recording.edit(trainer)
        assert trainer.plan is not None
        if row["step"] == trainer.plan.steps:
            checkpoints = Path("run/checkpoints")
            deadline = time.monotonic() + 60
            # The checkpoint is written while training goes on.
            while not all(_names(checkpoints / n) for n in ("LATEST", "BEST")):
                assert time.monotonic() < deadline, name
                time.sleep(0.01)
            time.sleep(0.5)  # its manifest may be written once more
            shutil.copytree("run", "kept")

    def train(config: Config) -> None:
        Trainer(config, console=Console(stream=io.StringIO()), on_step=on_step).train()

    train(Config.resolve(recording.preset, flags=leaves))
    shutil.copy("run/metrics.jsonl", "kept/metrics.jsonl")  # with the last row, whole
    shutil.rmtree("run")
    os.rename("kept", "run")
    found = [p.name for p in Path("run/checkpoints").glob("step-*")]
    assert found == [STEP], (name, found)
    if recording.export:
        lumina.export_for_inference("run", "export")
        network, _ = lumina.load("export", device="cpu")
        with torch.no_grad():
            logits = network.logits(torch.tensor([PROMPT]))[0, -1]
        answer = {"ids": PROMPT, "logits": logits.tolist()}
        Path("logits.json").write_text(json.dumps(answer))
    if not recording.cache:
        shutil.rmtree("cache")


def _names(pointer: Path) -> bool:
    """Whether LATEST or BEST is there and names the checkpoint that is kept."""
    return pointer.exists() and pointer.read_text().strip() == STEP


def main(target: Path, names: list[str]) -> None:
    """Record everything, or what is named, into a .tar.xz file."""
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    bases = [RECORDINGS[n].base for n in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in dict.fromkeys([*filter(None, bases), *names]):
            record(name, folder / name)
            print(name, flush=True)
        os.chdir(target.parent)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for name in names:
                archive.add(folder / name, arcname=name, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner of the files."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(RECORDINGS))
