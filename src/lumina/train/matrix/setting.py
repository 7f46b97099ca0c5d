"""The small training that cells are made of, and the files that it needs."""

from __future__ import annotations

import csv
import json
import random
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.config.sections import SECTIONS
from lumina.train.matrix.small_vocabularies import write_vocabularies

STEPS = 60
"""Of a run. The last `LAST` of them tell what was learned."""

LAST = 10

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_layers": 4,
    "num_heads": 2,
    "num_kv_heads": 1,
    "seq_length": 64,
    "tokenizer_vocab_size": 300,
}
"""Enough for every feature: four blocks, grouped keys, several documents a row."""

RUN: dict[str, Any] = {
    **MODEL,
    "train_data": ("{data}",),
    "global_batch_size": 4,
    "batch_size": 4,
    "steps": STEPS,
    "warmup_steps": 0,
    "learning_rate": 3e-3,
    "lr_scheduler": "constant",
    "precision": "fp32",
    "gradient_checkpointing": "none",
    "compile": False,
    "loss_chunk_bytes": 2**30,
    "eval_batches": 2,
    "num_workers": 1,
    "prefetch_threads": 0,
    "report_samples": 0,
    "log_every_n_batches": 10,
    "watch_vocabulary": False,
    "seed": 1,
}
"""A cell's run without any feature."""

PLAIN: dict[str, Any] = {"attention": "reference"}
"""What the reference has besides: attention spelled out, as its definition says."""

SHAPE_SECTIONS = tuple(
    name for name, one in SECTIONS.items()
    if one.describes_model and name != "adapters"
)  # fmt: skip
"""Sections whose options say what the model is: a base model has them as well."""

_NAMES, _PLACES = ("cat", "dog", "owl", "fox", "hen"), ("barn", "hill", "lake", "wood")

_SOLVED = (
    "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
)


TRIED_PARTS = Path(__file__).with_name("tried_parts.py")
"""A plug-in with parts of a model that cells register."""


def write_files(folder: Path) -> dict[str, str]:
    """Write what cells read; returns place -> path.

    Args:
        folder: where the files go; it is made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {
        "folder": folder,
        "data": folder / "story.txt",
        "more": folder / "code.txt",
        "archive": folder / "story.zip",
        "tarred": folder / "story.tar.xz",
        "jsonl": folder / "story.jsonl",
        "csv": folder / "story.csv",
        "book": folder / "book.txt",
        "puzzles": folder / "puzzles.txt",
        "chat": folder / "chat.jsonl",
        "parts": TRIED_PARTS,
    }
    stories = [
        f"The {_NAMES[n % 5]} went to the {_PLACES[n * 3 % 4]} on day {n} and slept.\n"
        for n in range(400)
    ]
    places["data"].write_text("<|endoftext|>".join(stories))
    with zipfile.ZipFile(places["archive"], "w") as archive:
        archive.write(places["data"], "story.txt")
    with tarfile.open(places["tarred"], "w:xz") as tar:
        tar.add(places["data"], "story.txt")
    # Of a text, line ends before a separator are part of it; a record keeps its own.
    texts = [one.rstrip("\n") for one in stories[:-1]] + stories[-1:]
    as_json = "".join(json.dumps({"text": one}) + "\n" for one in texts)
    places["jsonl"].write_text(as_json)
    with places["csv"].open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([one] for one in texts)])
    places["book"].write_text("<|endoftext|>".join(_chapters()))
    code = (f"y = x * {n} + {n % 7}\nprint(y)\n" for n in range(200))
    places["more"].write_text("<|endoftext|>".join(code))
    chats = (
        [
            {"role": "user", "content": f"Where did the {_NAMES[n % 5]} go to?"},
            {
                "role": "assistant",
                "content": f"To the {_PLACES[n * 3 % 4]} on day {n}.",
            },
        ]
        for n in range(200)
    )
    records = (json.dumps({"messages": turns}) for turns in chats)
    places["chat"].write_text("\n".join(records))
    puzzles = (_SOLVED[:n] + "." * 5 + _SOLVED[n + 5 :] for n in range(60))
    lines = (f"{puzzle},{_SOLVED}" for puzzle in puzzles)
    places["puzzles"].write_text("\n".join(lines))
    places |= write_vocabularies(folder / "vocabularies", stories)
    return {name: str(path) for name, path in places.items()}


def _chapters() -> list[str]:
    """Documents longer than 8,192 tokens; each has names that only it uses."""
    draw = random.Random(0)
    chapters = []
    for _ in range(8):
        names = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(4)]
        text = ""
        while len(text) < 40_000:
            text += f"Then {draw.choice(names)} met {draw.choice(names)} at the "
            text += f"{draw.choice(_PLACES)}.\n"
        chapters.append(text)
    return chapters


def placed(value: Any, places: Mapping[str, str]) -> Any:
    """A value with the places in its texts filled in."""
    if isinstance(value, str):
        for name, path in places.items():
            value = value.replace("{" + name + "}", path)
        return value
    if isinstance(value, (tuple, list)):
        return tuple(placed(one, places) for one in value)
    return value
