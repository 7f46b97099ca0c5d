"""Records of the experience store, as runs leave them."""

from __future__ import annotations

from typing import Any

from lumina.state.experience.records import OutcomeRecord, RunRecord

KIND = "dense:1M:adamw"
DATA = "00112233445566aa"


def a_record(number: int = 0, **changes: Any) -> RunRecord:
    """A finished run; its id and name follow its number, later ones ended later."""
    values: dict[str, Any] = {
        "id": f"{number:016x}",
        "name": f"run-{number}",
        "time": 1e9 + number,
        "status": "finished",
        "kind": KIND,
        "data": DATA,
        "parameters": 1_300_000,
        "steps": 200,
        "planned_steps": 200,
        "tokens": 200 * 4096,
        "final_loss": 3.1,
        "eval_loss": 3.2,
        "best_eval_loss": 3.15,
        "options": {
            "learning_rate": 1e-3, "warmup_steps": 20, "lr_scheduler": "cosine",
            "global_batch_size": 8, "seq_length": 128, "vocab_size": 2048,
        },
        "machine": {"device": "cpu", "micro_batch_size": 8, "memory_bytes": None},
        "failures": {"step_skipped": 1},
        "curve": [[4096.0, 7.0], [819200.0, 3.1]],
        "evaluations": [[819200.0, 3.2]],
    }  # fmt: skip
    return RunRecord(**values | changes)


def an_outcome(run: int = 0, number: int = 1, **changes: Any) -> OutcomeRecord:
    """What came of a decision of that run."""
    values: dict[str, Any] = {
        "run": f"{run:016x}",
        "number": number,
        "step": 10 * number,
        "anomaly": "loss_spike",
        "context": f"{KIND}:stable",
        "action": "rollback",
        "mode": "on",
        "verdict": "better",
        "confidence": 0.8,
        "measured": 3.0,
        "expected": 3.5,
    }
    return OutcomeRecord(**values | changes)


def outcomes(run: int, better: int, worse: int, **changes: Any) -> list[OutcomeRecord]:
    """So many good and bad outcomes of one run."""
    verdicts = ["better"] * better + ["worse"] * worse
    return [
        an_outcome(run, number, verdict=verdict, **changes)
        for number, verdict in enumerate(verdicts, start=1)
    ]
