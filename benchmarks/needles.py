"""Needles at the lengths of the context tiers, in a small model trained to find them.

Two blocks whose heads rotate half of their channels, with wavelengths that a short row
shows whole (`--rope-theta 50`), so that no distance is new to them; the other half
compares contents at any distance. It learns from texts that tell numbers and ask for
them at the end, in stages: short rows in which nearly every token is part of a fact or
of an answer, so that it learns to look back at all, and then rows four times as long,
again and again, so that it still finds a fact among all that it could attend to. There
the numbers that answer have about half of the weight of the loss, however few they are
(`--role-weights`), and some of the shorter texts stay. Then `lumina context test` hides
facts in rows of each tier's length, and gives the perplexity by position of one long
text.

    python benchmarks/needles.py --out needles.json                 minutes of a GPU
    python benchmarks/needles.py --recipe cpu --tiers 1 --out FILE  a core of a CPU

A stage and a length that are there already are not done again (`--work FOLDER`), so
that the work may be interrupted and divided; a stage that was not tried makes those
behind it stale, so give another folder for another recipe. What is asked of a tier is
its length, not a model that is good at anything else.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
SHAPE = (
    "--preset debug --no-tie-embeddings --hidden-size {width} --intermediate-size "
    "{inner} --num-layers 2 --num-heads {heads} --num-kv-heads {heads} --block-style "
    "phi --rotary-share 0.5 --rope-theta 50 --init-std 0.1 --tokenizer-vocab-size 320"
)
ALWAYS = (
    "--no-use-moe --beta2 0.98 --warmup-steps 20 --eval-batches 4 --report-samples 0 "
    "--metrics basic --save-every-n-batches 0 --no-compile --seed 0 --loss-on "
    "user,assistant"
)
ANSWER = 6
"""Tokens of an answer: a space, four digits and a full stop."""


@dataclass(frozen=True)
class Stage:
    """A training.

    Attributes:
        length: tokens of a row.
        words: about how many a text has; a word is 2 to 3 tokens, and a text must not
            be longer than its row, which would part its questions from its facts.
        facts: of a text.
        asked: times that each is asked for.
        rows: of a step.
        steps: of it.
        rate: the highest learning rate.
        texts: that are made.
    """

    length: int
    words: int
    facts: int
    asked: int
    rows: int
    steps: int
    rate: float
    texts: int

    @property
    def weight(self) -> float:
        """Of a token that answers nothing; all of them weigh what the answers do."""
        answers = ANSWER * self.facts * self.asked
        return float(f"{min(1.0, answers / self.length):.1g}")


@dataclass(frozen=True)
class Recipe:
    """Stages, and the shape of the model: a head has 32 channels."""

    width: int
    stages: tuple[Stage, ...]

    @property
    def shape(self) -> str:
        """As options of `lumina train`."""
        return SHAPE.format(
            width=self.width, inner=2 * self.width, heads=self.width // 32
        )


RECIPES = {
    "gpu": Recipe(
        128,
        (
            Stage(256, 105, 2, 4, 64, 1500, 5e-3, 6000),
            Stage(512, 165, 4, 2, 64, 300, 3e-3, 4000),
            Stage(4096, 1340, 6, 2, 16, 250, 2e-3, 500),
            Stage(16384, 5400, 6, 2, 4, 200, 1e-3, 120),
            Stage(65536, 21500, 6, 2, 1, 200, 1e-3, 36),
            Stage(147456, 48400, 6, 2, 1, 80, 5e-4, 16),
        ),
    ),
    "cpu": Recipe(
        64,
        (
            Stage(256, 105, 2, 4, 8, 1200, 5e-3, 2000),
            Stage(512, 165, 4, 2, 4, 250, 3e-3, 600),
            Stage(2048, 670, 6, 2, 1, 200, 2e-3, 150),
            Stage(8192, 2700, 6, 2, 1, 120, 1e-3, 40),
        ),
    ),
}


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


def texts(work: Path, stage: Stage, seed: int) -> Path:
    """A file of the texts of a stage, made once."""
    file = work / f"texts-{stage.length}-{stage.texts}-{seed}.jsonl"
    if not file.exists():
        made = file.with_suffix(".part.jsonl")
        template = Path(f"{made}.jinja")
        made.unlink(missing_ok=True)
        template.unlink(missing_ok=True)
        options = {
            "count": stage.texts,
            "length": stage.words,
            "facts": stage.facts,
            "asked": stage.asked,
            "seed": seed,
        }
        lumina(work, "context", "texts", str(made), "--turns", *named(options))
        template.rename(f"{file}.jinja")
        made.rename(file)
    return file


def named(options: dict[str, Any]) -> list[str]:
    """Options of a command, with their values."""
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def trained(
    work: Path, recipe: Recipe, stages: int, more: int
) -> tuple[Path, list[dict[str, Any]]]:
    """The run of the last stage, and what each ended with."""
    ended, before = [], None
    for number, stage in enumerate(recipe.stages[:stages]):
        run, result = work / f"stage-{number}", work / f"stage-{number}.json"
        if not result.exists():
            if run.exists():  # of a stage that was interrupted
                shutil.rmtree(run)
            began = time.monotonic()
            start = ["--init-from", str(before)] if before else recipe.shape.split()
            data = [texts(work, stage, number)]
            for earlier in recipe.stages[:number]:  # so that short rows stay known
                few = replace(earlier, texts=earlier.texts // 16)
                data.append(texts(work, few, 100 + number))
            options = {
                "seq-length": stage.length,
                "batch-size": stage.rows,
                "global-batch-size": stage.rows,
                "steps": stage.steps * more,
                "eval-every-n-batches": stage.steps * more,
                "learning-rate": stage.rate,
                "role-weights": f"assistant=1,user={stage.weight:g}",
                "run-dir": run,
            }
            if before is None:  # later stages go on with its template
                options["chat-template"] = f"{data[0]}.jinja"
            files = ["--train-data", *map(str, data)]
            lumina(work, "train", *start, *ALWAYS.split(), *named(options), *files)
            rows = [
                json.loads(row)
                for row in (run / "metrics.jsonl").read_text().splitlines()
            ]
            facts = asdict(stage) | {
                "steps": stage.steps * more,
                "weight": stage.weight,
                "loss": [row["loss"] for row in rows if "loss" in row][-1],
                "held_out_loss": [
                    row["eval_loss"] for row in rows if "eval_loss" in row
                ][-1],
                "seconds": time.monotonic() - began,
            }
            result.write_text(json.dumps(facts) + "\n")
        ended.append(json.loads(result.read_text()))
        print(f"stage {number}: {ended[-1]}", flush=True)
        before = run
    if before is None:
        raise SystemExit("--stages: give at least 1")
    return before, ended


def long_text(work: Path, length: int) -> Path:
    """Two texts with one fact that are longer than a row, made once."""
    file = work / f"long-{length}.jsonl"
    if not file.exists():
        made = file.with_suffix(".part.jsonl")
        made.unlink(missing_ok=True)
        options = {
            "count": 2,
            "length": max(60, length // 2),
            "facts": 1,
            "seed": length,
        }
        lumina(work, "context", "texts", str(made), *named(options))
        made.rename(file)
    return file


TOGETHER = 2**18
"""Rows up to so many tokens are tested in one process, longer ones in one each."""


def read(
    work: Path, run: Path, lengths: list[int], needles: int, seed: int
) -> list[dict[str, Any]]:
    """What the model finds in rows of some lengths, and the loss by position."""

    def result(length: int) -> Path:
        return work / f"{run.name}-{length}-{needles}-{seed}.json"

    todo = [length for length in lengths if not result(length).exists()]
    if todo:
        began = time.monotonic()
        common = ["context", "test", str(run), "--json", "--rows", "1"]
        common += ["--lengths", *map(str, todo)]
        options = named({"needles": needles, "seed": seed})
        facts = json.loads(lumina(work, *common, *options))["readings"]
        data = long_text(work, max(todo))
        options = named({"needles": 1, "data": data})
        texts_read = json.loads(lumina(work, *common, *options))["readings"]
        seconds = (time.monotonic() - began) / len(todo)
        for length, found, text in zip(todo, facts, texts_read, strict=True):
            found |= {"parts": text["parts"], "seconds": seconds}
            result(length).write_text(json.dumps(found) + "\n")
    return [json.loads(result(length).read_text()) for length in lengths]


def main() -> None:
    """Train, test at each length, print, and write JSON."""
    sys.path.insert(0, str(SOURCE))
    from lumina.plan.context_tiers import CONTEXT_TIERS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("needles.json"))
    parser.add_argument("--work", type=Path, default=Path("needles"))
    numbers = [tier.number for tier in CONTEXT_TIERS]
    parser.add_argument("--tiers", nargs="*", type=int, default=numbers)
    parser.add_argument(
        "--lengths", nargs="*", type=int, default=[256, 512, 1024, 2048]
    )
    parser.add_argument("--recipe", choices=RECIPES, default="gpu")
    parser.add_argument("--stages", type=int, default=99, help="of it, the first")
    parser.add_argument("--more", type=int, default=1)
    parser.add_argument("--needles", type=int, default=4, help="at each of five depths")
    parser.add_argument("--seed", type=int, default=0, help="of the facts")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[asked.recipe]
    run, stages = trained(asked.work, recipe, asked.stages, asked.more)
    import torch

    on_gpu = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "benchmark": "needles",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "shape": recipe.shape,
        "stages": stages,
        "readings": [],
    }
    tiers = {t.tokens: t.number for t in CONTEXT_TIERS if t.number in asked.tiers}
    lengths = sorted({*asked.lengths, *tiers})
    short = [length for length in lengths if length <= TOGETHER]
    for group in (short, *([n] for n in lengths if n > TOGETHER)):
        for found in read(asked.work, run, group, asked.needles, asked.seed):
            length = found["length"]
            facts["readings"].append({"tier": tiers.get(length)} | found)
            by_depth = [one["found"] for one in found["needles"]]
            last = found["parts"][-1]["perplexity"] if found["parts"] else float("nan")
            print(
                f"{length:>9,} tokens  recall {found['recall']:.0%} {by_depth}  "
                f"perplexity of the last half {last:.3f}  {found['seconds']:.0f} s",
                flush=True,
            )
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
