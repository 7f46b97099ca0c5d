"""Needles at the lengths of the context tiers, in a small model trained to find them.

Two blocks of width 64 whose heads rotate half of their channels, with wavelengths that
a short row shows whole (`--rope-theta 50`), so that no distance is new to them; the
other half compares contents at any distance. It learns from texts that tell one number
and ask for it at the end, in stages: short texts first, where a number is a fifth of
all tokens, then longer ones. Then `lumina context test` hides facts in rows of each
tier's length, and gives the perplexity by position of one long text.

    python benchmarks/needles.py --out needles.json                     minutes of a GPU
    python benchmarks/needles.py --tiers 1 2 3 --stages 5 --out FILE    a core of a CPU

A stage and a length that are there already are not done again (`--work FOLDER`), so
that the work may be interrupted and divided. `--more N` makes each stage N times as
long. What is asked of a tier is its length, not a model that is good at anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
SHAPE = (
    "--preset debug --no-tie-embeddings --hidden-size 64 --intermediate-size 128 "
    "--num-layers 2 --num-heads 2 --num-kv-heads 2 --block-style phi --rotary-share "
    "0.5 --rope-theta 50 --init-std 0.1 --tokenizer-vocab-size 320"
)
ALWAYS = (
    "--no-use-moe --beta2 0.98 --warmup-steps 20 --eval-batches 4 --report-samples 0 "
    "--metrics basic --save-every-n-batches 0 --no-compile --seed 0"
)


@dataclass(frozen=True)
class Stage:
    """A training.

    Attributes:
        words: about how many a text has; a word is 2 to 3 tokens.
        length: tokens of a row.
        rows: of a step.
        steps: of it.
        rate: the highest learning rate.
        texts: that are made.
    """

    words: int
    length: int
    rows: int
    steps: int
    rate: float
    texts: int


STAGES = (
    Stage(36, 256, 8, 500, 5e-3, 20000),
    Stage(18, 256, 8, 450, 5e-3, 20000),
    Stage(40, 256, 8, 400, 4e-3, 20000),
    Stage(150, 512, 6, 300, 3e-3, 6000),
    Stage(1000, 3072, 1, 150, 2e-3, 400),
)


def lumina(work: Path, *words: str) -> str:
    """What a command prints.

    Raises:
        SystemExit: where it fails, with the end of what it said.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
        "LUMINA_CACHE": str(work / "cache"),
    }
    command = [sys.executable, "-m", "lumina", *words]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-900:]
        raise SystemExit(f"{' '.join(words[:2])}: {done.returncode}: {said}")
    return done.stdout


def texts(work: Path, words: int, count: int, seed: int) -> Path:
    """A file of so many texts with one fact each, made once."""
    file = work / f"texts-{words}-{count}-{seed}.jsonl"
    if not file.exists():
        made = file.with_suffix(".part.jsonl")
        made.unlink(missing_ok=True)
        options = ("--count", count, "--length", words, "--facts", 1, "--seed", seed)
        lumina(work, "context", "texts", str(made), *map(str, options))
        made.rename(file)
    return file


def trained(work: Path, stages: int, more: int) -> tuple[Path, list[dict[str, Any]]]:
    """The run of the last stage, and what each ended with."""
    ended, before = [], None
    for number, stage in enumerate(STAGES[:stages]):
        run, result = work / f"stage-{number}", work / f"stage-{number}.json"
        if not result.exists():
            if run.exists():  # of a stage that was interrupted
                shutil.rmtree(run)
            began = time.monotonic()
            start = ["--init-from", str(before)] if before else SHAPE.split()
            options = {
                "seq-length": stage.length,
                "batch-size": stage.rows,
                "global-batch-size": stage.rows,
                "steps": stage.steps * more,
                "eval-every-n-batches": stage.steps * more,
                "learning-rate": stage.rate,
                "train-data": texts(work, stage.words, stage.texts, number),
                "run-dir": run,
            }
            named = [w for k, v in options.items() for w in (f"--{k}", str(v))]
            lumina(work, "train", *start, *ALWAYS.split(), *named)
            rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
            facts = asdict(stage) | {
                "steps": stage.steps * more,
                "held_out_loss": losses[-1],
                "seconds": time.monotonic() - began,
            }
            result.write_text(json.dumps(facts) + "\n")
        ended.append(json.loads(result.read_text()))
        print(f"stage {number}: {ended[-1]}", flush=True)
        before = run
    if before is None:
        raise SystemExit("--stages: give at least 1")
    return before, ended


def read(work: Path, run: Path, length: int, needles: int, seed: int) -> dict[str, Any]:
    """What the model finds in rows of a length, and the loss by position."""
    result = work / f"{run.name}-{length}-{needles}-{seed}.json"
    if not result.exists():
        long = texts(work, max(60, length // 2), 2, 100 + length)
        began = time.monotonic()
        said = lumina(
            work, "context", "test", str(run), "--lengths", str(length),
            "--needles", str(needles), "--rows", "1", "--seed", str(seed), "--json",
        )  # fmt: skip
        found = json.loads(said)["readings"][0]
        said = lumina(
            work, "context", "test", str(run), "--lengths", str(length), "--needles",
            "1", "--rows", "1", "--data", str(long), "--json",
        )  # fmt: skip
        found["parts"] = json.loads(said)["readings"][0]["parts"]
        found["seconds"] = time.monotonic() - began
        result.write_text(json.dumps(found) + "\n")
    reading: dict[str, Any] = json.loads(result.read_text())
    return reading


def main() -> None:
    """Train, test at each length, print, and write JSON."""
    sys.path.insert(0, str(SOURCE))
    from lumina.plan.context_tiers import CONTEXT_TIERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("needles.json"))
    parser.add_argument("--work", type=Path, default=Path("needles"))
    numbers = [tier.number for tier in CONTEXT_TIERS]
    parser.add_argument("--tiers", nargs="+", type=int, default=numbers)
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[256, 512, 1024, 2048]
    )
    parser.add_argument("--stages", type=int, default=len(STAGES))
    parser.add_argument("--more", type=int, default=1)
    parser.add_argument("--needles", type=int, default=4, help="at each of five depths")
    parser.add_argument("--seed", type=int, default=0, help="of the facts")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    run, stages = trained(asked.work, asked.stages, asked.more)
    import torch

    on_gpu = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "benchmark": "needles",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "shape": SHAPE,
        "stages": stages,
        "readings": [],
    }
    tiers = {t.tokens: t.number for t in CONTEXT_TIERS if t.number in asked.tiers}
    for length in sorted({*asked.lengths, *tiers}):
        found = read(asked.work, run, length, asked.needles, asked.seed)
        facts["readings"].append({"tier": tiers.get(length)} | found)
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")
        by_depth = [one["found"] for one in found["needles"]]
        last = found["parts"][-1]["perplexity"] if found["parts"] else float("nan")
        print(
            f"{length:>9,} tokens  recall {found['recall']:.0%} {by_depth}  perplexity "
            f"of the last half {last:.3f}  {found['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
