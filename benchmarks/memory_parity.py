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

Seed after seed is finished for all variants, and from the second one on the result is
written anew after each, over the seeds that are done. With the same `--work FOLDER` a
run that is there is not repeated, so that the work may be divided: `--within SECONDS`
begins no seed that would end later, by the time that the one before it took. On a CPU,
where nothing lies elsewhere than in host memory, what is kept there is left out.
`--tiny` shows within minutes on a CPU that all of it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from paired_losses import MARGIN, Run, Trainings, compared

BASE = (
    "--preset debug --no-use-moe --hidden-size 768 --intermediate-size 2048 "
    "--num-layers 12 --num-heads 12 --num-kv-heads 4 --no-tie-embeddings --seq-length "
    "1024 --batch-size 16 --global-batch-size 16 --tokenizer-vocab-size 16384 "
    "--warmup-steps 50 --eval-batches 40 --report-samples 0 --metrics basic "
    "--save-every-n-batches 0 --no-save-optimizer-states"
)
TUNED = (
    "--no-use-moe --use-peft --peft-method lora --lora-r 32 --lora-alpha 32 "
    "--lora-dropout 0 --lora-target-modules full --seq-length 1024 --batch-size 8 "
    "--global-batch-size 8 "
    "--warmup-steps 10 --eval-batches 40 --report-samples 0 --metrics basic "
    "--save-every-n-batches 0 --no-compile"
)
# Later values of an option win.
TINY = (
    "--hidden-size 64 --intermediate-size 128 --num-layers 2 --num-kv-heads 4 "
    "--num-heads 4 --seq-length 128 --batch-size 4 --global-batch-size 4 "
    "--tokenizer-vocab-size 512 --warmup-steps 5 --eval-batches 4 --no-compile"
)
TINY_TUNED = (
    "--seq-length 128 --batch-size 4 --global-batch-size 4 --eval-batches 4 "
    "--warmup-steps 2"
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
    tiny: bool = False

    def options(self, run: Run) -> list[str]:
        """Those of the base, or of LoRA and what saves memory."""
        if self.base is None:
            return [*BASE.split(), *(TINY.split() if self.tiny else [])]
        found = [*TUNED.split(), *(TINY_TUNED.split() if self.tiny else [])]
        saving = SAVING[run.variant]
        if self.tiny:  # tiles shorter than its forwards
            saving = saving.replace("-tile 1024", "-tile 256")
        return [*found, "--init-from", str(self.base), *saving.split()]


def measured(losses: dict[str, list[float]]) -> tuple[float, dict[str, Any]]:
    """The noise of seeds, and each variant's difference from the plain run.

    Args:
        losses: of each variant, by seed; two seeds at least.
    """
    noise = statistics.stdev(losses["plain"])
    found: dict[str, Any] = {}
    for name, all_of_it in losses.items():
        found[name] = {"losses": all_of_it, "mean": statistics.mean(all_of_it)}
        if name != "plain":
            found[name] |= compared(losses["plain"], all_of_it)
            found[name]["within_noise"] = abs(found[name]["difference"]) <= noise
    return noise, found


def main() -> None:
    """Train, compare, print a line for each, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="of the base")
    parser.add_argument("--text", type=Path, required=True, help="of LoRA")
    parser.add_argument("--out", type=Path, default=Path("memory_parity.json"))
    parser.add_argument("--work", type=Path, default=Path("memory_parity"))
    parser.add_argument("--base-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--within", type=float, default=math.inf, metavar="SECONDS")
    parser.add_argument("--variants", nargs="+", choices=SAVING, default=list(SAVING))
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    import torch

    on_gpu = torch.cuda.is_available()
    names = ["plain", *(name for name in asked.variants if name != "plain")]
    if not on_gpu:
        names = [name for name in names if " host" not in SAVING[name]]
    asked.work.mkdir(parents=True, exist_ok=True)
    first = Tuned(asked.work, asked.data, asked.base_steps, 1)
    first.tiny = asked.tiny
    whole = Run("base", 1e-3, 0)
    of_base = first.loss(whole)
    trainings = Tuned(asked.work, asked.text, asked.steps, asked.at_once)
    trainings.tiny = asked.tiny
    trainings.base = asked.work / f"{whole.variant}-{whole.rate:.6g}-{whole.seed}"
    losses: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(asked.seeds):
        since = time.monotonic()
        if seed == 0:  # alone: it makes the store of tokens
            trainings.loss(Run("plain", RATE, seed))
        runs = [Run(name, RATE, seed) for name in names]
        for run, loss in zip(runs, trainings.losses(runs), strict=True):
            losses[run.variant].append(loss)
        if seed:
            noise, found = measured(losses)
            facts = {
                "benchmark": "memory_parity",
                "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                "torch": torch.__version__,
                "python": platform.python_version(),
                "date": time.strftime("%Y-%m-%d"),
                "tiny": asked.tiny,
                "base_loss": of_base,
                "base_steps": asked.base_steps,
                "steps": asked.steps,
                "seeds": seed + 1,
                "seed_noise": noise,
                "margin": MARGIN,
                "variants": found,
            }
            asked.out.write_text(json.dumps(facts, indent=1) + "\n")
        now = time.monotonic()
        print(f"seed {seed}: {now - since:.0f} s", flush=True)
        if now - began + (now - since) > asked.within:
            break
    if len(losses["plain"]) < 2:
        print("one seed is done: run it again with the same --work")
        return
    noise, found = measured(losses)
    for name, one in found.items():
        print(name, {k: v for k, v in one.items() if k != "losses"}, flush=True)
    print(f"base {of_base:.4f}, {len(losses['plain'])} seeds, seed noise {noise:.4f}")


if __name__ == "__main__":
    main()
