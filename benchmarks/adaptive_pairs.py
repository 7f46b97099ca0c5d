"""Pairs at 124 million weights: the competent arm and the orchestrator, run by run.

    python benchmarks/adaptive_pairs.py --text books.txt --out pairs.jsonl --minutes 9

Whether what was calibrated on small models carries to a larger one. Each pair has the
same text, seed and trouble; 15 wins of 20 would be needed (sign test, 5%). A run is a
piece: those that are in the file already are not made again, and no further one begins
after --minutes. The text needs 4 bytes for each token of a run.

`--device cpu --tiny` shows on any machine that it works.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.measure.adaptive.adapter import Task
from lumina.measure.adaptive.log import read_log
from lumina.measure.adaptive.pool import Results
from lumina.measure.adaptive.running import attempted
from lumina.measure.adaptive.scenario import Recipe, Shape
from lumina.measure.adaptive.statistics import sign_test
from lumina.measure.adaptive.texts import END, tokenizer
from lumina.train.adaptive_bench.adapters.lumina import Lumina

SEED, PAIRS = 124, 20
RATE = 6e-4
"""Peak of the competent arm: what models of this size are usually trained with."""

VOCABULARY = 50_304
"""Rows of the head, as GPT-2's; the text uses 257 of them, one for each byte."""

COMPETENT = Recipe(
    shape=Shape(768, 12, 12),
    seed=0,
    learning_rate=RATE,
    steps=400,
    rows=32,
    length=1024,
    warmup=0.1,
    clip=1.0,
    weight_decay=0.1,
    checkpoints=50,
    restarts=3,
    evaluations=20,
)
TINY = replace(COMPETENT, shape=Shape(64, 2, 4), steps=40, rows=4, length=64)

WRONG: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {},
    {"rate": 0.1}, {"rate": 0.3}, {"rate": 3.0}, {"rate": 10.0}, {"rate": 30.0},
    {"warmup": 0.0, "rate": 3.0}, {"eps": 1e-4}, {"beta2": 0.9999},
    {"init_std": 0.2}, {"init_std": 0.002}, {"rate": 5.0, "beta2": 0.999},
    {"fault": {"kind": "gradient_factor", "factor": 1000.0, "steps": 3}},
    {"fault": {"kind": "gradient_factor", "factor": 1e6, "steps": 1}},
    {"fault": {"kind": "flipped_bit"}},
    {"fault": {"kind": "lost_moments"}},
    {"fault": {"kind": "gradient_factor", "factor": -1.0, "steps": 8}},
)  # fmt: skip
"""What is wrong with each of the pairs; the first four are clean."""


class Large(Lumina):
    """Lumina with a head of the usual size, on a GPU."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device, self.tiny = device, tiny

    def _options(self, task: Task) -> dict[str, Any]:
        options = super()._options(task) | {
            "device": self.device,
            "tie_embeddings": True,
            "eval_batches": 4,
        }
        if not self.tiny:
            options |= {"vocab_size": VOCABULARY, "precision": "auto", "compile": None}
        return options


def write_texts(folder: Path, text: str, recipe: Recipe, seed: int) -> None:
    """A piece of the text for training, and one that no run trains on."""
    size, held = recipe.steps * recipe.tokens, 4 * recipe.tokens
    length = int(1.3 * size)
    first = random.Random(seed).randrange(max(1, len(text) - held - length))
    piece, rest = text[first : first + length], text[-held * 2 :]
    folder.mkdir(parents=True)
    for name, words in (("train.txt", piece), ("held-out.txt", rest)):
        parts = [words[n : n + 4000] for n in range(0, len(words), 4000)]
        write_file(folder / name, END.join(parts).encode())
    write_file(folder / "tokenizer.json", json.dumps(tokenizer()).encode())


def run(number: int, arm: str, text: str, device: str, tiny: bool) -> dict[str, Any]:
    """One run of a pair."""
    wrong = dict(WRONG[number])
    recipe = replace(TINY if tiny else COMPETENT, seed=SEED + number)
    fault = wrong.pop("fault", None)
    rate = recipe.learning_rate * wrong.pop("rate", 1.0)
    recipe = replace(recipe, learning_rate=rate, **wrong)
    if arm == "orchestrator":
        recipe = replace(recipe, adaptive="on")
    faults = ({**fault, "step": recipe.steps // 2},) if fault else ()
    with tempfile.TemporaryDirectory(prefix="lumina-pairs-") as name:
        task = Task(Path(name) / "run", recipe, faults)
        write_texts(task.folder, text, recipe, recipe.seed)
        return attempted(Large(device, tiny), task, 600.0)


def summary(rows: list[dict[str, Any]]) -> str:
    """The pairs that are whole, and how often the orchestrator ended lower."""
    by_key = {row["key"]: row for row in rows}
    lines, wins, losses = [], 0, 0
    for number in range(PAIRS):
        pair = [by_key.get(f"{number} {arm}") for arm in ("competent", "orchestrator")]
        if pair[0] is None or pair[1] is None:
            continue
        ends = [r["loss"] if r and r["status"] == "done" else None for r in pair]
        known = [float("inf") if end is None else end for end in ends]
        wins += known[1] < known[0]
        losses += known[1] > known[0]
        lines.append(f"{number:>3} {WRONG[number]!s:<75} {ends[0]} {ends[1]}")
    chance = sign_test(wins, losses)
    lines.append(f"orchestrator lower {wins}, higher {losses}, sign test {chance:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Make the pieces that are missing, and tell what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    text = Path(args.text).read_text(errors="ignore").encode("ascii", "ignore").decode()
    results, end = Results(Path(args.out)), time.monotonic() + 60 * args.minutes
    for number in range(PAIRS):
        for arm in ("competent", "orchestrator"):
            key = f"{number} {arm}"
            if key in results.keys or time.monotonic() > end:
                continue
            row = run(number, arm, text, args.device, args.tiny)
            results.add({"key": key, "wrong": WRONG[number], **row})
            print(key, row["status"], row["loss"], row["seconds"], flush=True)
    print(summary(read_log(results.path)))


if __name__ == "__main__":
    main()
