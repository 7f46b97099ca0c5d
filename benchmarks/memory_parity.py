"""Whether what saves memory costs loss: LoRA on a base that learned from books.

A dense base of 124 M parameters is trained once. From each of the same seeds, LoRA on
all of its matrices then learns another text for 200 steps: as it is, and with one thing
after the other that saves memory. A seed gives all of them the same first adapters and
the same order of rows. What is compared is the held-out loss at the end: the mean over
seeds of the difference from the plain run, its 95% interval and the verdict of
`paired_losses.py` for its margin, and the standard deviation of the plain run's losses
over seeds, which is what "within the seed noise" means here.

    python benchmarks/memory_parity.py --data books.tar.xz --text shakespeare.txt \\
        --out memory_parity.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

from paired_losses import MARGIN, Run, Trainings, compared

BASE = (
    "--preset debug --no-use-moe --hidden-size 768 --intermediate-size 2048 "
    "--num-layers 12 --num-heads 12 --num-kv-heads 4 --no-tie-embeddings --seq-length "
    "1024 --batch-size 16 --global-batch-size 16 --tokenizer-vocab-size 16384 "
    "--warmup-steps 50 --eval-batches 40 --report-samples 0 "
    "--save-every-n-batches 0"
)
TUNED = (
    "--no-use-moe --use-peft --peft-method lora --lora-r 32 --lora-alpha 32 "
    "--lora-dropout 0 --lora-target-modules full --seq-length 1024 --batch-size 8 "
    "--global-batch-size 8 "
    "--warmup-steps 10 --eval-batches 40 --report-samples 0 "
    "--save-every-n-batches 0 --no-compile"
)
FULL = "--gradient-checkpointing full"
SAVING = {
    "plain": "",
    "qlora": "--load-in-4bit",
    "activations in 4 bits": f"{FULL} --activation-bits 4",
    "activations in 8 bits": f"{FULL} --activation-bits 8",
    "activations in host memory": f"{FULL} --activations-in host",
    "states in host memory": "--optimizer-states-in host",
    "tiles, groups of heads": f"{FULL} --feedforward-tile 1024 "
    "--attention-head-groups 4",
    "all of them, qlora": f"{FULL} --load-in-4bit --activations-in host "
    "--optimizer-states-in host --feedforward-tile 1024 --attention-head-groups 4",
}
RATE = 1e-3


class Tuned(Trainings):
    """Runs from the base, and the base itself."""

    base: Path | None = None

    def options(self, run: Run) -> list[str]:
        """Those of the base, or of LoRA and what saves memory."""
        if self.base is None:
            return BASE.split()
        found = [*TUNED.split(), "--init-from", str(self.base)]
        return [*found, *SAVING[run.variant].split()]


def main() -> None:
    """Train, compare, print a line for each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="of the base")
    parser.add_argument("--text", type=Path, required=True, help="of LoRA")
    parser.add_argument("--out", type=Path, default=Path("memory_parity.json"))
    parser.add_argument("--work", type=Path, default=Path("memory_parity"))
    parser.add_argument("--base-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--at-once", type=int, default=6)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    first = Tuned(asked.work, asked.data, asked.base_steps, 1)
    whole = Run("base", 1e-3, 0)
    of_base = first.loss(whole)
    trainings = Tuned(asked.work, asked.text, asked.steps, asked.at_once)
    trainings.base = asked.work / f"{whole.variant}-{whole.rate:.6g}-{whole.seed}"
    trainings.loss(Run("plain", RATE, 0))  # alone: it makes the store of tokens
    seeds = range(asked.seeds)
    runs = [Run(name, RATE, seed) for seed in seeds for name in SAVING]
    by_run = dict(zip(runs, trainings.losses(runs), strict=True))
    losses = {n: [by_run[Run(n, RATE, seed)] for seed in seeds] for n in SAVING}
    noise = statistics.stdev(losses["plain"])
    found = {}
    for name, all_of_it in losses.items():
        found[name] = {"losses": all_of_it, "mean": statistics.mean(all_of_it)}
        if name != "plain":
            found[name] |= compared(losses["plain"], all_of_it)
            found[name]["within_noise"] = abs(found[name]["difference"]) <= noise
        print(name, {k: v for k, v in found[name].items() if k != "losses"}, flush=True)
    import torch

    facts = {
        "benchmark": "memory_parity",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "base_loss": of_base,
        "base_steps": asked.base_steps,
        "steps": asked.steps,
        "seed_noise": noise,
        "margin": MARGIN,
        "variants": found,
    }
    asked.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"base {of_base:.4f}, seed noise {noise:.4f}")


if __name__ == "__main__":
    main()
