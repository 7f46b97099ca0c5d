"""What the preservation of weights keeps of base text and costs, by its strength.

A small model is trained in two phases of one run: base text, then questions. Each
strength has a run of its own with the same seed, hence the same first weights and the
same rows; 0 is a run without preservation. Losses are held-out ones, before and after
the second phase, from its event `held_out_changes`.

    python benchmarks/preservation.py --base tinyshakespeare.txt \
        --questions gsm8k_train.jsonl --out FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lumina.config import Config
from lumina.observe.console import Console
from lumina.train import Trainer

SHAPE: dict[str, Any] = {
    "preset": "debug", "use_moe": False, "seq_length": 128, "seed": 7,
    "global_batch_size": 16, "precision": "fp32", "save_every_n_batches": 0,
}  # fmt: skip


def phases(base_steps: int, steps: int, strength: float) -> tuple[str, ...]:
    """The two phases of a run, as `--phases` takes them."""
    keep = f" preserve_base_knowledge=true preservation_strength={strength:g}"
    return (
        f"base: training_mode=base_only steps={base_steps} learning_rate=3e-3",
        f"questions: training_mode=finetuning_only steps={steps} learning_rate=1e-3"
        + (keep if strength else ""),
    )


def conversation(line: str) -> str:
    """A record of a question and its answer as a conversation of two turns."""
    record = json.loads(line)
    turns = [("user", record["question"]), ("assistant", record["answer"])]
    messages = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": messages}) + "\n"


def measure(folder: Path, base: str, questions: str, **of: Any) -> dict[str, Any]:
    """Held-out losses of both sources around the second phase of one run."""
    config = Config(
        run_dir=str(folder),
        base_training_paths=(base,),
        finetuning_paths=(questions,),
        phases=phases(**of),
        **SHAPE,
    )
    Trainer(config, console=Console(rank=1)).train()
    lines = (folder / "events.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines)
            if event["kind"] == "held_out_changes"]  # fmt: skip
    return {"strength": of["strength"], "message": told[-1]["message"],
            "changes": told[-1]["data"]["changes"]}  # fmt: skip


def main() -> None:
    """Print a line for each strength, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--questions", required=True, help="JSON lines")
    parser.add_argument("--count", type=int, default=2502, help="the first")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 2, 5, 10])
    parser.add_argument("--base-steps", type=int, default=150)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        questions = Path(place) / "questions.jsonl"
        with open(asked.questions) as lines:
            questions.write_text("".join(map(conversation, islice(lines, asked.count))))
        for number, strength in enumerate(asked.strengths):
            found = measure(
                Path(place) / f"run-{number}", asked.base, str(questions),
                base_steps=asked.base_steps, steps=asked.steps, strength=strength,
            )  # fmt: skip
            print(f"{strength:5g}  {found['message']}", flush=True)
            runs.append(found)
            if asked.out:  # after each run: the next may not come to its end
                made = datetime.now(UTC).isoformat(timespec="seconds")
                result = {"date": made, "torch": torch.__version__, "runs": runs}
                asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
