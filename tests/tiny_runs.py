"""Runs of a few steps in this process, and everything they leave to look at."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import Trainer, TrainResult, loop

ANIMALS, PLACES = ("cat", "dog", "owl", "fox", "hen"), ("barn", "hill", "lake", "wood")

Around = Callable[[Program, StepBatches], AbstractContextManager[Any]]
"""Called before every step; the step runs inside what it returns."""

EXPERTS = {
    "use_moe": True,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 32,
}


def story(documents: int = 200, first: int = 0) -> str:
    """Short documents with a pattern, divided as a .txt file divides them."""
    return "<|endoftext|>".join(
        f"The {ANIMALS[n % 5]} went to the {PLACES[n * 3 % 4]} on day {n} and slept.\n"
        for n in range(first, first + documents)
    )


def write_conversations(path: Path, count: int = 40) -> Path:
    """A .jsonl file of questions and answers."""
    turns = [
        [
            {"role": "user", "content": f"Where did the {ANIMALS[n % 5]} go today?"},
            {"role": "assistant", "content": f"To the {PLACES[n % 4]} number {n}."},
        ]
        for n in range(count)
    ]
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in turns))
    return path


@dataclass
class Run:
    """What one training left behind.

    Attributes:
        result: of `Trainer.train`.
        rows: metrics.jsonl.
        events: events.jsonl.
        printed: what a person saw.
    """

    result: TrainResult
    printed: str

    @property
    def folder(self) -> Path:
        return self.result.run_dir

    @property
    def rows(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "metrics.jsonl")

    @property
    def events(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "events.jsonl")

    @property
    def checkpoints(self) -> list[str]:
        return sorted(p.name for p in (self.folder / "checkpoints").glob("step-*"))

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows if name in row]

    @property
    def first_loss(self) -> float:
        """With the initial weights, before anything was learned."""
        return self.rows[0]["loss"]

    @property
    def cursor(self) -> dict[str, int]:
        """How many rows of the data were used."""
        with self._reader() as reader:
            return reader.meta.cursor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Of the newest checkpoint, by logical name."""
        with self._reader() as reader:
            return {name: reader.tensor(name).clone() for name in reader.names()}

    def tensor(self, ending: str) -> Tensor:
        """The only tensor whose name ends so."""
        found = {n: t for n, t in self.tensors.items() if n.endswith(ending)}
        assert len(found) == 1, (ending, list(found))
        return found.popitem()[1]

    def slot(self, kind: str) -> dict[str, Tensor]:
        """Moments or averages of the newest checkpoint."""
        with self._reader() as reader:
            names = reader.optimizer_names(kind) if kind in reader.slots() else []
            return {n: reader.optimizer_tensor(kind, n).clone() for n in names}

    def _reader(self) -> Any:
        path = latest_good(self.folder)
        assert path is not None
        return open_checkpoint(path)


class Runs:
    """Makes tiny runs below a folder.

    Attributes:
        folder: a new one for every test; runs and data go here.
        monkeypatch: for an effect that looks inside.
        ignored: an option that is taken and then does nothing, to try out a test.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, ignored: str | None = None
    ) -> None:
        self.ignored = ignored
        self.folder = folder
        self.monkeypatch = monkeypatch
        self._number = itertools.count()
        self.data = folder / "story.txt"
        self.data.write_text(story())

    def config(self, **leaves: Any) -> Config:
        """Two narrow blocks, three steps."""
        start: dict[str, Any] = {
            "train_data": (str(self.data),),
            "run_dir": str(self.folder / f"run-{next(self._number)}"),
            "tokenizer_vocab_size": 300,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_layers": 2,
            "num_heads": 2,
            "num_kv_heads": 1,
            "seq_length": 32,
            "init_std": 0.2,
            "global_batch_size": 4,
            "batch_size": 4,
            "steps": 3,
            "warmup_steps": 0,
            "learning_rate": 3e-3,
            "lr_scheduler": "constant",
            "precision": "fp32",
            "device": "cpu",
            "eval_batches": 1,
            "num_workers": 1,
            "report_samples": 0,
            "seed": 1,
        }
        leaves.pop(self.ignored or "", None)
        return Config(**(start | leaves))

    def train(self, around: Around | None = None, **leaves: Any) -> Run:
        """Train with these options; None leaves one to be decided."""
        stream = io.StringIO()
        trainer = Trainer(
            self.config(**leaves), console=Console(stream=stream, live=False)
        )
        with pytest.MonkeyPatch.context() as patch:
            if around is not None:
                patch.setattr(loop, "train_step", _inside(around, loop.train_step))
            return Run(trainer.train(), stream.getvalue())

    def both(self, leaf: str, one: Any, two: Any, **leaves: Any) -> tuple[Run, Run]:
        """The same run with two values of an option."""
        first = self.train(**(leaves | {leaf: one}))
        return first, self.train(**(leaves | {leaf: two}))

    def refused(self, code: str, **leaves: Any) -> str:
        """Assert that a run is refused and leaves nothing; returns the message."""
        before = self._files()
        with pytest.raises(LuminaError) as caught:
            self.train(**leaves)
        assert caught.value.code == code, caught.value
        assert caught.value.hint
        assert self._files() == before
        return caught.value.message

    def _files(self) -> list[Path]:
        """What stands in the folder; Python's own cache of a plug-in does not count."""
        return sorted(f for f in self.folder.iterdir() if f.name != "__pycache__")


def _inside(around: Around, step: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(program: Program, batches: StepBatches, *rest: Any, **more: Any) -> Any:
        with around(program, batches):
            return step(program, batches, *rest, **more)

    return wrapped


@contextlib.contextmanager
def nothing() -> Iterator[None]:
    """For an `Around` that only looks."""
    yield


def seen(look: Callable[[Program, StepBatches], Any], into: list[Any]) -> Around:
    """An `Around` that keeps what `look` returns for each step."""

    def around(program: Program, batches: StepBatches) -> AbstractContextManager[Any]:
        into.append(look(program, batches))
        return nothing()

    return around


def same(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
