"""What fine-tuning forgets of base text, and what each way of keeping it costs.

A small model is trained on base text. From its weights the same fine-tuning is run
without anything that keeps base knowledge, with a share of base rows, with L2-SP, and
with distillation, for several seeds. Held-out loss of both sources is measured before
and after.

    python benchmarks/forgetting.py --base books/ --finetuning questions.jsonl

The learning rate, steps and shares are the same in all ways that are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.observe.console import Console
from lumina.state.metrics import read_metrics
from lumina.train import Trainer

MIXED = {"training_mode": "interleaved", "base_finetuning_ratio": 0.25}
WEIGHTS = {"preserve_base_knowledge": True}
OUTPUTS = WEIGHTS | {"preservation_method": "outputs"}

WAYS: dict[str, dict[str, Any]] = {
    "fine-tuning data alone": {"training_mode": "finetuning_only"},
    "alone, L2-SP": {"training_mode": "finetuning_only"} | WEIGHTS,
    "a quarter base rows": MIXED,
    "a quarter base rows, L2-SP": MIXED | WEIGHTS,
    "a quarter base rows, distillation": MIXED | OUTPUTS,
    "a quarter base rows, distillation 4": MIXED
    | OUTPUTS
    | {"preservation_strength": 4.0},
}


def train(folder: Path, **options: Any) -> list[dict[str, Any]]:
    """One run; its rows of metrics."""
    config = Config(run_dir=str(folder), save_every_n_batches=0, **options)
    return read_metrics(Trainer(config, console=Console(rank=1)).train().run_dir)


def main() -> None:
    """Print a line for each way, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--finetuning", required=True)
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="debug")
    parser.add_argument("--output")
    asked = parser.parse_args()
    shape: dict[str, Any] = {
        "preset": asked.preset, "use_moe": False, "global_batch_size": 16,
        "seq_length": 256, "eval_batches": 16, "precision": "fp32",
        "lr_scheduler": "constant",
    }  # fmt: skip
    sources = {
        "base_training_paths": (asked.base,),
        "finetuning_paths": (asked.finetuning,),
    }
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "base"
        start = shape | sources | {"learning_rate": 1e-3}
        train(first, **start, training_mode="base_only", steps=asked.base_steps,
              epochs=None)  # fmt: skip
        for way, options in WAYS.items():
            for seed in range(asked.seeds):
                folder = Path(place) / f"{len(figures[way])}-{way.replace(' ', '-')}"
                rows = train(folder, **start | options, init_from=str(first),
                             steps=asked.steps, epochs=None, seed=seed)  # fmt: skip
                last = rows[-1]
                figures[way].append({
                    f"{name}.{what}": last[f"source.{name}.{what}"]
                    for name in ("base", "finetuning")
                    for what in ("eval_loss", "eval_change")
                })  # fmt: skip
            shown = []
            for key in ("base.eval_change", "finetuning.eval_loss"):
                values = [one[key] for one in figures[way]]
                spread = max(values) - min(values)
                shown.append(
                    f"{key} {statistics.mean(values):+.4f} (range {spread:.4f})"
                )
            print(f"{way:38} {'  '.join(shown)}", flush=True)
    if asked.output:
        Path(asked.output).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
