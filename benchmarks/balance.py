"""Does a balance loss on the step before's counts balance as well as same-step ones?

Trains the `debug` shape (4 experts, top-2) and an 8-expert one on a text file, with
three variants of the Switch balance loss: `lagged` (the default: the global expert
counts of the step before), `same-step` (this batch's own counts, as most trainers do),
and `none`. Prints the mean max violation over the second half of the run, dead
experts, and the held-out loss, over several seeds.

    python benchmarks/balance.py --data corpus.txt --steps 400 --out balance.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import lumina
from lumina.model.moe import MoeFeedForward, Routing


def same_step_sums(original: Any) -> Any:
    """The module's sums, with the load taken from this very batch."""

    def sums(self: MoeFeedForward, routing: Routing, valid: Tensor | None) -> Any:
        experts = routing.probs_te.shape[1]
        chosen = torch.nn.functional.one_hot(routing.ids_tk, experts).sum((0, 1))
        with torch.no_grad():
            self.load.copy_(chosen / chosen.sum())
        return original(self, routing, valid)

    return sums


def run(variant: str, experts: int, seed: int, args: Any) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    config = lumina.ConfigPresets.debug().replace(
        train_data=[args.data],
        steps=args.steps,
        seed=seed,
        num_experts=experts,
        precision="fp32",
        eval_batches=4,
        eval_every_n_batches=0,
        compile=False,
        load_balancing_weight=0.0 if variant == "none" else 0.01,
        run_dir=str(args.dir / f"{variant}-{experts}-{seed}"),
        auto_resume=False,
    )
    trainer = lumina.Trainer(config, on_step=lambda _, row: rows.append(row))
    if variant == "same-step":
        with patch.object(
            MoeFeedForward, "_sums", same_step_sums(MoeFeedForward._sums)
        ):
            result = trainer.train()
    else:
        result = trainer.train()
    half = rows[len(rows) // 2 :]
    return {
        "variant": variant,
        "experts": experts,
        "seed": seed,
        "max_violation": statistics.mean(max(r["moe.max_violation"]) for r in half),
        "dead_experts": statistics.mean(sum(r["moe.dead_experts"]) for r in half),
        "eval_loss": result.best_eval_loss,
        "violation_by_step": [round(max(r["moe.max_violation"]), 3) for r in rows][
            ::10
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("balance.json"))
    args = parser.parse_args()
    results = []
    for experts in (4, 8):
        for seed in range(args.seeds):
            for variant in ("lagged", "same-step", "none"):
                results.append(run(variant, experts, seed, args))
                facts = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
                         "device": torch.cuda.get_device_name() if
                         torch.cuda.is_available() else "cpu",
                         "steps": args.steps, "results": results}  # fmt: skip
                args.out.write_text(json.dumps(facts, indent=1) + "\n")
    for row in results:
        print("BALANCE {experts} {seed} {variant:<10} violation {max_violation:.3f} "
              "dead {dead_experts:.2f} eval {eval_loss:.4f}".format(**row))  # fmt: skip


if __name__ == "__main__":
    main()
