"""Sudoku with hierarchical reasoning on one GPU, trained in resumable pieces.

Trains the reference's 27.3 M parameters (`--variant trm`: the 6.8 M of the one-network
variant) and measures how many unseen puzzles come out right in all 81 cells.

    python benchmarks/sudoku.py --prepare FOLDER --data DATA      once, on any machine
    python benchmarks/sudoku.py --data DATA --minutes 9 --resume DIR --out results.json

The second command goes on from DIR where it holds a state, and begins anew where it
does not; call it again for more minutes. FOLDER holds the Sudoku files of
norvig/pytudes. Puzzles that rotations, reflections or other names of rows, columns and
digits turn into each other count as one, so no test puzzle is a training puzzle in
disguise. The test sets, none of them Sudoku-Extreme, on which figures are published:

    17      1,000 puzzles of 17 clues, the fewest there can be (from sudokus_17.txt and
            sudoku10k.txt)
    more    800 puzzles of 18 and more clues (from sudoku10k.txt, sudoku-easy50.txt)
    hard    479 puzzles: sudokus_hard.txt, sudoku-top95.txt, sudoku-hardest.txt whole;
            constraint propagation alone solves none of the first two

Recipe (the reference's): batch 768, AdamATan2 (0.9, 0.95), rate 1e-4 constant after a
linear warm-up, weight decay 1.0, stablemax cross entropy, 16 segments at most, every
training puzzle changed anew (digits, bands, rows, stacks, columns, transposition) each
time it is seen, sign descent on the puzzle's vector. Unlike it: all 49 k training
puzzles there are (`--train-puzzles 1000` for its 1,000), and an average of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.batch import Batch
from lumina.data.sudoku import (
    DRAWS,
    augment,
    invariants,
    read_sudokus,
    solve,
)
from lumina.data.sudoku_data import SudokuStore
from lumina.model.aux_keys import HALTING, PUZZLE_COLUMNS, PUZZLE_STATISTICS
from lumina.model.build import build_network
from lumina.model.hrm import Carry
from lumina.model.network import Network
from lumina.model.spec import HrmSpec, ModelSpec
from lumina.optim.averages.moving import WeightAverage
from lumina.optim.methods.adam_atan2 import AdamATan2
from lumina.optim.methods.sign_sgd import SignSGD
from lumina.optim.optimizer import Slot

VARIANTS = {
    "hrm": HrmSpec(),
    "trm": HrmSpec("trm", h_layers=0, l_layers=2, h_cycles=3, l_cycles=6),
}
TEST_SETS = ("17", "more", "hard")
TABLE = "backbone.puzzle_embedding.weight"
HELD_OUT = {"17": 1000, "more": 800}
STATISTICS = (
    "loss", "halt_loss", "continue_loss", "halted", "steps", "exact", "q_accuracy",
)  # fmt: skip


def prepare(source: Path, data: Path) -> None:
    """Solve, remove equivalent puzzles, hold out, write train.txt and test-*.txt."""
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        name: [] for name in ("train", *TEST_SETS)
    }
    seen: set[int] = set()
    for file in ("sudokus_hard", "sudoku-top95", "sudoku-hardest", "sudoku-easy50",
                 "sudoku10k", "sudokus_17"):  # fmt: skip
        boards, _ = read_sudokus(source / f"{file}.txt")
        for board, key in zip(boards, invariants(boards).tolist(), strict=True):
            if key in seen:
                continue
            seen.add(key)
            hard = file in ("sudokus_hard", "sudoku-top95", "sudoku-hardest")
            few = (board > 0).sum() == 17
            kind = "hard" if hard else "17" if few else "more"
            solutions = solve(board)
            assert len(solutions) == 1, f"{file}: a puzzle without a single solution"
            groups[kind].append((board, solutions[0]))
    random = np.random.default_rng(0)
    for kind, count in HELD_OUT.items():
        order = random.permutation(len(groups[kind]))
        groups["train"] += [groups[kind][i] for i in order[count:]]
        groups[kind] = [groups[kind][i] for i in order[:count]]
    data.mkdir(parents=True, exist_ok=True)
    for name, puzzles in groups.items():
        lines = ["".join(map(str, b)) + "," + "".join(map(str, s)) for b, s in puzzles]
        path = data / (f"{name}.txt" if name == "train" else f"test-{name}.txt")
        path.write_text("\n".join(lines) + "\n")
        print(f"{path}: {len(lines):,} puzzles")


def load_puzzles(path: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    """(inputs, labels) [N, 81] int64 tokens on the device."""
    boards, solutions = read_sudokus(path)
    assert solutions.min() > 0, f"{path}: a puzzle has no solution beside it"
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(x.astype(np.int64) + 1).to(device) for x in (boards, solutions)
    )


def make_network(
    variant: str,
    seed: int,
    device: torch.device,
    tiny: bool,
    dtype: torch.dtype,
    data: Any,
) -> Network:
    """The reference's size; `tiny` is for trying the script on a CPU.

    Args:
        data: says `vocab_size`, `seq_length` and `num_puzzles`.
    """
    width, heads = (64, 2) if tiny else (512, 8)
    hrm = replace(VARIANTS[variant], num_puzzles=data.num_puzzles)
    spec = ModelSpec(
        vocab_size=data.vocab_size,
        padded_vocab_size=data.vocab_size,
        hidden_size=width,
        num_layers=hrm.h_layers + hrm.l_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=3 * width,
        seq_length=data.seq_length,
        hrm=replace(hrm, halt_max_steps=4) if tiny else hrm,
    )
    network = build_network(spec, device=device, seed=seed)
    network.backbone.compute_dtype = dtype
    return network.train()


class Run:
    """Everything a piece of training needs, and its state on disk."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.network = make_network(
            args.variant, args.seed, self.device, args.tiny, dtype, self.open_data()
        )
        self.slots = [
            Slot(
                name=name,
                parameter=p,
                master=p.detach(),
                decay=p.ndim >= 2,
            )
            for name, p in self.network.named_parameters()
            if name != TABLE
        ]
        self.optimizer = AdamATan2(
            self.slots, {"beta1": 0.9, "beta2": 0.95}, device=self.device
        )
        self.average = WeightAverage(self.slots, args.ema, device=self.device)
        table = self.network.backbone.puzzle_embedding
        table.touched = []
        self.table = Slot(
            TABLE, table.weight, table.weight.data, decay=True, touched=table.touched
        )
        self.vectors = SignSGD([self.table], {}, device=self.device)
        self.rate = torch.zeros((), device=self.device)
        self.zero = torch.zeros((), device=self.device)
        self.one = torch.ones((), device=self.device)
        self.generator = torch.Generator(device=self.device)
        self.carry: Carry | None = None
        self.step = 0
        self.seconds = 0.0
        self.curve: list[dict[str, Any]] = []
        self.pieces: list[dict[str, Any]] = []
        if args.compile and self.device.type == "cuda":
            torch._dynamo.config.recompile_limit = 64
            for block in self.network.backbone.blocks:
                block.compile()

    def open_data(self) -> Any:
        """Read the puzzles; what their rows are like."""
        args, data = self.args, Path(self.args.data)
        self.train = load_puzzles(data / "train.txt", self.device)
        if args.train_puzzles:
            self.train = tuple(x[: args.train_puzzles] for x in self.train)  # type: ignore[assignment]
        limit = args.test_puzzles or None
        self.tests = {}
        for name in TEST_SETS:
            found = load_puzzles(data / f"test-{name}.txt", self.device)
            self.tests[name] = found[0][:limit], found[1][:limit]
        return SudokuStore

    def batch(self) -> Batch:
        """The batch of this step: a function of (seed, step), made on the device."""
        self.generator.manual_seed(self.args.seed * 1_000_003 + self.step)
        rows, options = self.args.batch, {
            "generator": self.generator, "device": self.device
        }  # fmt: skip
        chosen = torch.randint(len(self.train[0]), (rows,), **options)
        uniforms = torch.rand(rows, DRAWS + 2, **options)
        inputs, labels = augment(
            self.train[0][chosen], self.train[1][chosen], uniforms[:, 2:]
        )
        return replace(Batch.from_rows(inputs, labels), uniforms=uniforms[:, :2])

    def train_step(self) -> Tensor:
        """One segment and one update; returns `STATISTICS` on the device."""
        rows = self.args.batch
        losses, aux = self.network(self.batch(), self.carry)
        self.carry = losses.carry
        ((losses.loss_sum + 0.5 * aux[HALTING]) / rows).backward()
        self.rate.fill_(self.args.lr * min(1.0, (self.step + 1) / self.args.warmup))
        self.optimizer.step(
            lr=self.rate, weight_decay=self.args.weight_decay,
            divisor=self.one, skip=self.zero,
        )  # fmt: skip
        broken = self.vectors.gather()
        self.vectors.step(
            lr=self.rate * (self.args.puzzle_lr / self.args.lr),
            weight_decay=self.args.puzzle_weight_decay,
            divisor=self.one, skip=broken,
        )  # fmt: skip
        for slot in (*self.slots, self.table):
            slot.zero_grad()
        self.average.update(self.zero)
        self.step += 1
        values = {"loss": losses.loss_sum.detach()}
        counted = aux[PUZZLE_STATISTICS].unbind()
        values |= dict(zip(PUZZLE_COLUMNS, counted, strict=True))
        return torch.stack([values.get(k, self.zero) for k in STATISTICS])

    @torch.no_grad()
    def exact(self, name: str) -> float:
        """Share of a test set that is right in every cell, after all segments."""
        inputs, labels = self.tests[name]
        size = min(self.args.batch, 1024)
        right = torch.zeros((), device=self.device)
        self.network.eval()
        for first in range(0, len(inputs), size):
            index = torch.arange(first, first + size, device=self.device)
            taken = index.clamp(max=len(inputs) - 1)
            # Rows past the end repeat the last puzzle and have no label.
            known = torch.where((index < len(inputs))[:, None], labels[taken], -100)
            losses, _ = self.network(Batch.from_rows(inputs[taken], known))
            right += losses.terms["exact"]
        self.network.train()
        return float(right) / len(inputs)

    def test(self, mark: str) -> dict[str, Any]:
        """The test sets' part of a point."""
        return {f"test_exact{mark}": {name: self.exact(name) for name in TEST_SETS}}

    def evaluate(self, sums: Tensor, count: int) -> dict[str, Any]:
        """A point of the curve; the only place that waits for the GPU."""
        s = dict(zip(STATISTICS, sums.tolist(), strict=True))
        rows, done = max(count * self.args.batch, 1), max(s["halted"], 1.0)
        point: dict[str, Any] = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "loss": s["loss"] / rows,
            "halt_loss": s["halt_loss"] / rows,
            "mean_segments": s["steps"] / done,
            "train_exact": s["exact"] / done,
            "q_accuracy": s["q_accuracy"] / done,
            **self.test(""),
        }
        with self.average.applied():
            point |= self.test("_averaged")
        self.curve.append(point)
        print(json.dumps(point), flush=True)
        return point

    def save(self, folder: Path) -> None:
        """Everything that a later piece needs, replaced as one folder entry."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for slot, average in zip(self.slots, self.average.averages, strict=True):
            for kind, tensor in {"master": slot.master, **slot.state}.items():
                tensors[f"{kind}/{slot.name}"] = tensor
            tensors[f"ema/{slot.name}"] = average
        tensors["vectors"] = self.table.master
        if self.carry is not None:
            tensors |= {f"carry/{k}": v for k, v in self.carry.tensors().items()}
        tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "updates": int(self.average.updates.item()),
            "curve": self.curve,
            "pieces": self.pieces,
            "settings": settings(self.args),
        }
        temporary = folder / "state.safetensors.tmp"
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
        os.replace(temporary, folder / "state.safetensors")

    def load(self, folder: Path) -> None:
        """Go on where `save` left off, if it did."""
        path = folder / "state.safetensors"
        if not path.exists():
            return
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
        now = settings(self.args)
        if facts["settings"] != {name: now.get(name) for name in facts["settings"]}:
            raise SystemExit(f"{folder} holds another run: {facts['settings']}")
        tensors = load_file(path, device=str(self.device))
        for slot, average in zip(self.slots, self.average.averages, strict=True):
            for kind, tensor in {"master": slot.master, **slot.state}.items():
                tensor.copy_(tensors[f"{kind}/{slot.name}"])
            average.copy_(tensors[f"ema/{slot.name}"])
        self.table.master.copy_(tensors["vectors"])
        held = {k[6:]: v for k, v in tensors.items() if k.startswith("carry/")}
        self.carry = Carry(**held) if held else None
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.average.updates.fill_(facts["updates"])
        self.curve, self.pieces = facts["curve"], facts["pieces"]
        self.optimizer.steps.fill_(self.step)
        print(f"going on from step {self.step:,}", flush=True)

    def wait(self) -> None:
        """Let the GPU finish, so that the clock is true."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What must not change between the pieces of a run."""
    names = ("variant", "seed", "batch", "lr", "warmup", "weight_decay", "ema",
             "train_puzzles", "tiny", "augmentations", "puzzle_lr",
             "puzzle_weight_decay")  # fmt: skip
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def train(run: Run, args: argparse.Namespace) -> None:
    """Train until the minutes or the steps are over; evaluate on the way."""
    began = mark = time.perf_counter()
    deadline = began + 60 * args.minutes
    sums, count, first = torch.zeros(len(STATISTICS), device=run.device), 0, run.step
    fastest = 0.0
    while time.perf_counter() < deadline and run.step < (args.steps or 2**62):
        chunk = time.perf_counter()
        for _ in range(args.check_every):
            sums += run.train_step()
            count += 1
        # Work is queued far ahead of the GPU: look at the clock only now and then.
        run.wait()
        fastest = max(fastest, args.check_every / (time.perf_counter() - chunk))
        if time.perf_counter() - mark >= 60 * args.eval_minutes:
            run.seconds += time.perf_counter() - mark
            run.evaluate(sums, count)
            run.save(Path(args.resume))
            sums, count, mark = torch.zeros_like(sums), 0, time.perf_counter()
    run.seconds += time.perf_counter() - mark
    if count:
        run.evaluate(sums, count)
    run.pieces.append(
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": run.step - first,
            "wall_seconds": round(time.perf_counter() - began, 1),
            "steps_per_second": round(fastest, 2),
        }
    )
    run.save(Path(args.resume))


def report(
    run: Run, args: argparse.Namespace, name: str, counted: dict[str, Any]
) -> dict[str, Any]:
    """The results as JSON values.

    Args:
        name: of the benchmark.
        counted: how many puzzles there were.
    """
    cuda = run.device.type == "cuda"
    return {
        "benchmark": name,
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "settings": settings(args) | {"compile": args.compile},
        **counted,
        "step": run.step,
        "training_seconds": round(run.seconds, 1),
        "pieces": run.pieces,
        "final": run.curve[-1] if run.curve else None,
        "curve": run.curve,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """What training in pieces takes, whatever the puzzles are."""
    parser.add_argument("--prepare", help="folder of source files: make the data")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this piece")
    parser.add_argument("--steps", type=int, help="stop at this step in any case")
    parser.add_argument("--resume", default="sudoku-run", help="folder of the state")
    parser.add_argument("--out", help="results as JSON")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="hrm")
    parser.add_argument("--batch", type=int, default=768)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-minutes", type=float, default=1.5)
    parser.add_argument("--check-every", type=int, default=20, help="steps")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--tiny", action="store_true", help="to try it on a CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--data", required=True, help="folder of train.txt, test-*.txt")
    parser.add_argument("--train-puzzles", type=int, default=0, help="0: all")
    parser.add_argument("--weight-decay", type=float, default=1.0)
    # The recipe's rate and decay of the vector are those of the other weights.
    parser.add_argument("--puzzle-lr", type=float, default=1e-4)
    parser.add_argument("--puzzle-weight-decay", type=float, default=1.0)
    parser.add_argument("--test-puzzles", type=int, default=0, help="of a set; 0: all")
    args = parser.parse_args()
    if args.prepare:
        prepare(Path(args.prepare), Path(args.data))
        return
    torch.set_float32_matmul_precision("high")
    run = Run(args)
    run.load(Path(args.resume))
    train(run, args)
    if args.out:
        counted = {
            "train_puzzles": len(run.train[0]),
            "test_puzzles": {name: len(x) for name, (x, _) in run.tests.items()},
        }
        told = report(run, args, "sudoku", counted)
        Path(args.out).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
