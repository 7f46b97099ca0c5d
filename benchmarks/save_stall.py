"""What an asynchronous checkpoint adds to the time of steps, beside steps without one.

One process trains the same model throughout. Blocks of steps without saving and blocks
that begin with a save take turns, so that whatever else the machine does weighs on both
alike. In a block that saves, the save holds up the training while the State is copied
(`blocked`), and the steps after it share processor, memory and disk with the writing.

    python benchmarks/save_stall.py --out save_stall.json [--folder DIR] [--pairs 4]
    python benchmarks/save_stall.py --smoke --out save_stall.json      # a CPU, seconds

`added` is what a save costs in all: the time of its block above that of the block
before it, the save included. `share_of_a_step` is `blocked` over the median step
without saving; the goal for 1.5 B parameters on one H200 is 0.01. Work A: 1.498 B
dense, S=4096, micro-batch 4, bf16. A checkpoint of it has 18 GB; two of them have to
fit the disk.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORK_A = {
    "preset": "dense_1b",
    "vocab_size": 128256,
    "tie_embeddings": False,
    "seq_length": 4096,
    "batch_size": 4,
    "global_batch_size": 4,
    "compile": True,
    "device": "cuda",
}
SMOKE = {
    "preset": "dense_10m",
    "vocab_size": 2048,
    "tokenizer_vocab_size": 2048,
    "num_layers": 2,
    "seq_length": 128,
    "batch_size": 2,
    "global_batch_size": 2,
    "precision": "fp32",
    "device": "cpu",
}
WARM_UP = 5


class Training:
    """A Program and random batches for it.

    Attributes:
        program: what trains.
        done: steps so far.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        import torch

        from lumina.assemble.assemble import assemble
        from lumina.assemble.ranks import Ranks
        from lumina.config import Config
        from lumina.plan.environment import probe
        from lumina.plan.make import make_plan

        config = Config(**options, steps=10_000)
        self.plan = make_plan(
            config,
            probe(config),
            tokenizer_vocab_size=None,
            rows_per_epoch=None,
        )
        self.config = config.to_dict()
        self.program = assemble(self.plan, ranks=Ranks.from_environment())
        self.program.model.train()
        self.done = 0
        self._cuda = self.plan.device == "cuda"
        generator = torch.Generator().manual_seed(0)
        shape = (self.plan.micro_batch_size, self.plan.spec.seq_length + 1)
        self._ids = torch.randint(
            0, self.plan.spec.vocab_size, shape, generator=generator
        )

    def step(self) -> None:
        """One step, to its end on the device."""
        import torch

        from lumina.batch import Batch
        from lumina.data.stream import StepBatches
        from lumina.train.step import train_step

        inputs, labels = self._ids[:, :-1].contiguous(), self._ids[:, 1:].contiguous()
        micro = [Batch.from_rows(inputs, labels) for _ in range(self.plan.grad_accum)]
        tokens = inputs.numel() * len(micro)
        train_step(
            self.program, StepBatches(micro, tokens, tokens, {}, 0.0, []), self.done
        )
        self.done += 1
        if self._cuda:
            torch.cuda.synchronize()

    def save(self, store: Any) -> dict[str, float]:
        """A checkpoint as the loop makes it; seconds of its two parts that block."""
        from lumina.assemble.assemble import Progress, capture, memory_for_copies

        copies = memory_for_copies(self.program)
        began = time.perf_counter()
        store.idle()
        state = capture(
            self.program, Progress(step=self.done), config=self.config, copies=copies
        )
        copied = time.perf_counter()
        store.save(state, already_snapshot=True)
        return {
            "capture": copied - began,
            "hand_over": time.perf_counter() - copied,
        }


def timed_steps(training: Training, count: int) -> list[float]:
    """Seconds of each of some steps."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        training.step()
        found.append(time.perf_counter() - began)
    return found


def pair_of_blocks(training: Training, store: Any, steps: int) -> dict[str, Any]:
    """A block without saving, and one that begins with a save, of as many steps."""
    plain = timed_steps(training, steps)
    parts = training.save(store)
    saving = timed_steps(training, steps)
    began = time.perf_counter()
    store.wait()
    return {
        "plain": plain,
        "saving": saving,
        "blocked": sum(parts.values()),
        **parts,
        # 0: the writing had ended before the block did.
        "writing_after_block": time.perf_counter() - began,
        "added": sum(parts.values()) + sum(saving) - sum(plain),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies, by linear interpolation."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def summary(pairs: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What the pairs say together; seconds unless named otherwise.

    A step that follows a save has the save's blocking in it: it is what a row of the
    clock would show.
    """
    plain = [s for pair in pairs for s in pair["plain"]]
    after = [s for pair in pairs for s in pair["saving"]]
    with_save = [
        s + (pair["blocked"] if index == 0 else 0.0)
        for pair in pairs
        for index, s in enumerate(pair["saving"])
    ]
    step = statistics.median(plain)
    blocked = [pair["blocked"] for pair in pairs]
    added = [pair["added"] for pair in pairs]
    return {
        "step_p50": step,
        "step_p99": percentile(plain, 0.99),
        "step_with_saving_p50": statistics.median(with_save),
        "step_with_saving_p99": percentile(with_save, 0.99),
        "stall_p50": statistics.median(with_save) - step,
        "stall_p99": percentile(with_save, 0.99) - percentile(plain, 0.99),
        "step_while_writing_p50": statistics.median(after),
        "blocked_median": statistics.median(blocked),
        "blocked_most": max(blocked),
        "capture_median": statistics.median(pair["capture"] for pair in pairs),
        "added_median": statistics.median(added),
        "share_of_a_step": statistics.median(blocked) / step,
        "share_of_100_steps": statistics.median(added) / (100 * step),
        "steps_of_a_block": steps,
        "goal_share_of_a_step": 0.01,
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("save_stall.json"))
    parser.add_argument("--folder", help="where checkpoints go; default: temporary")
    parser.add_argument("--pairs", type=int, default=4, help="saves")
    parser.add_argument("--steps", type=int, default=40, help="steps of a block")
    parser.add_argument(
        "--seconds", type=float, default=150, help="begin no pair later"
    )
    parser.add_argument("--smoke", action="store_true", help="a small model on the CPU")
    arguments = parser.parse_args()
    began = time.perf_counter()
    training = Training(SMOKE if arguments.smoke else WORK_A)
    timed_steps(training, WARM_UP)

    import torch

    from lumina.state.checkpoint import CheckpointStore

    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = CheckpointStore(folder, keep=1)
        for _ in range(arguments.pairs):
            if pairs and time.perf_counter() - began > arguments.seconds:
                break
            pairs.append(pair_of_blocks(training, store, arguments.steps))
            shown = {k: v for k, v in pairs[-1].items() if k not in ("plain", "saving")}
            print(json.dumps(shown), flush=True)
        store.close(wait=True)
    cuda = torch.cuda.is_available() and not arguments.smoke
    facts = {
        "benchmark": "save_stall",
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "parameters": training.plan.parameters,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": time.perf_counter() - began,
        **summary(pairs, arguments.steps),
        "pairs": pairs,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps({k: v for k, v in facts.items() if k != "pairs"}, indent=1))


if __name__ == "__main__":
    main()
