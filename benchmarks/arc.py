"""ARC-AGI-1 with hierarchical reasoning on one GPU, trained in resumable pieces.

    python benchmarks/arc.py --prepare FOLDER --data DATA       once, on any machine
    python benchmarks/arc.py --data DATA --seconds 540 --resume DIR --out results.json

The second command goes on from DIR where it holds a state; call it again for more. It
compiles, trains and saves; `--seconds` counts from its start, the last evaluation and
the saving come after. FOLDER holds `arc-agi_{training,evaluation,concept}` challenges
and solutions; DATA gets a copy of them (5 MB). Trained on: all pairs of the training
and ConceptARC tasks and the demonstrations of the evaluation tasks. Asked: the test
inputs of the evaluation tasks, `--votes` forms of each, two attempts.

Recipe (the reference's): batch 768, AdamATan2 (0.9, 0.95), rate 1e-4 after a linear
warm-up, weight decay 0.1, sign descent with 1e-2 and decay 0.1 on the vectors of the
puzzles. Unlike it: an average of the weights, fewer forms of a task unless
`--augmentations 1000` (2 GB of vectors). The reference trains some 400,000 steps on
eight GPUs; one hour is its beginning.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.data.arc import prepare_arc
from sudoku import Run, add_options, report, train

SETS = ("training", "concept", "evaluation")


def prepare(source: Path, data: Path) -> None:
    """Copy the files that are used."""
    data.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        for part in ("challenges", "solutions"):
            shutil.copy(source / f"arc-agi_{name}_{part}.json", data)


class ArcRun(Run):
    """The Sudoku benchmark's run on other puzzles; rows are made a step ahead."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._maker = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Batch]] | None = None
        super().__init__(args)

    def open_data(self) -> Any:
        """Read the tasks."""
        paths = [
            str(Path(self.args.data) / f"arc-agi_{n}_challenges.json") for n in SETS
        ]
        self.store, tests, self.stats = prepare_arc(
            paths[:2],
            paths[2:],
            augmentations=self.args.augmentations,
            votes=self.args.votes,
        )
        assert tests is not None
        self.asked = tests
        return self.store

    def batch(self) -> Batch:
        """The batch of this step: a function of (seed, step)."""
        if self._next is None or self._next[0] != self.step:
            self._next = self.step, self._maker.submit(self._make, self.step)
        made = self._next[1].result()
        self._next = self.step + 1, self._maker.submit(self._make, self.step + 1)
        return made.to(self.device)

    def _make(self, step: int) -> Batch:
        random = np.random.default_rng([self.args.seed, step])
        chosen = random.integers(0, len(self.store), self.args.batch)
        uniforms = torch.from_numpy(random.random((self.args.batch, 6))).float()
        inputs, labels, ids = self.store.rows(chosen, uniforms[:, 2:])
        batch = Batch.from_rows(inputs, labels)
        batch = replace(batch, task_ids=ids, uniforms=uniforms[:, :2].contiguous())
        return batch.pin_memory() if self.device.type == "cuda" else batch

    @torch.no_grad()
    def test(self, mark: str) -> dict[str, Any]:
        """Attempts at the tests (the first ones, with `--test-rows`)."""
        rows = min(self.args.test_rows or len(self.asked), len(self.asked))
        size = min(self.args.batch, rows)
        answers: list[Tensor] = []
        beliefs: list[Tensor] = []
        right = 0.0
        self.network.eval()
        for first in range(0, rows, size):
            places = np.arange(first, first + size)
            places[places >= rows] = -1
            inputs, labels, ids = self.asked.asked(places)
            batch = replace(Batch.from_rows(inputs, labels), task_ids=ids)
            losses, _ = self.network(batch.to(self.device))
            right += float(losses.terms["exact"])
            answers.append(losses.terms["answers"].to(torch.uint8).cpu())
            beliefs.append(losses.terms["q_halt"].float().cpu())
        self.network.train()
        predicted, belief = (torch.cat(x)[:rows].numpy() for x in (answers, beliefs))
        shares = self.asked.score(predicted, belief)
        return {f"exact_rows{mark}": right / rows} | {
            f"{name}{mark}": share for name, share in shares.items()
        }


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--data", required=True, help="folder of the JSON files")
    parser.add_argument("--seconds", type=float, help="of this piece, start included")
    parser.add_argument("--augmentations", type=int, default=200, help="of each task")
    parser.add_argument("--votes", type=int, default=8, help="forms of a test")
    parser.add_argument("--test-rows", type=int, default=0, help="0: all")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--puzzle-lr", type=float, default=1e-2)
    parser.add_argument("--puzzle-weight-decay", type=float, default=0.1)
    args = parser.parse_args()
    if args.prepare:
        prepare(Path(args.prepare), Path(args.data))
        return
    torch.set_float32_matmul_precision("high")
    run = ArcRun(args)
    run.load(Path(args.resume))
    if args.seconds is not None:
        args.minutes = (args.seconds - (time.perf_counter() - began)) / 60
    train(run, args)
    if args.out:
        counted = {
            "tasks": run.stats["documents"],
            "training_pairs": len(run.store),
            "puzzle_vectors": run.store.num_puzzles,
            "tests": len(run.asked.task),
            "votes": args.votes,
        }
        told = report(run, args, "arc", counted)
        Path(args.out).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
