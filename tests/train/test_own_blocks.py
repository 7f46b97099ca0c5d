"""A block of one's own in place of the transformer's, and all that is around it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from option_effects.adaptive import alarm, decisions
from tiny_runs import Runs

TESTS = Path(__file__).parents[1]
PARALLEL = {"plugins": (str(TESTS / "own_parts.py"),), "block_type": ("parallel",)}
TOY = {
    "plugins": (str(TESTS / "seams" / "toy_block.py"),),
    "block_type": ("standard", "toy"),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.covers("MOD-35: trainer", "MOD-35: metrics")
def test_it_learns_is_saved_and_goes_on_to_the_bit(runs: Runs) -> None:
    """All of the model is of such blocks; every figure of a run is there."""
    asked = {"steps": 6, "save_every_n_batches": 3, "eval_every_n_batches": 3}
    asked |= {"eval_fraction": 0.2, "metrics": "full"}
    whole = runs.train(**asked, **PARALLEL)
    assert whole.column("loss")[-1] < whole.first_loss
    gates = [t for n, t in whole.tensors.items() if n.endswith(".gate")]
    assert len(gates) == 2 and all(gate.shape == (2,) for gate in gates)
    assert all((gate - 0.5).abs().min() > 0 for gate in gates)
    for key in ("grad_norm", "tokens_per_second", "token_accuracy", "model_memory"):
        assert all(row[key] > 0 or key == "token_accuracy" for row in whole.rows)
    assert whole.rows[2]["eval_loss"] > whole.rows[5]["eval_loss"] > 0
    first = runs.train(**asked | {"steps": 3}, **PARALLEL, lr_scheduler="constant")
    more = {"run_dir": None, "resume": str(first.folder)}
    again = runs.train(**asked | more, **PARALLEL)
    assert again.column("loss") == whole.column("loss")
    assert all(torch.equal(again.tensors[n], t) for n, t in whole.tensors.items())


@pytest.mark.covers("MOD-35: metrics")
def test_what_it_reports_and_counts_stands_in_every_row(runs: Runs) -> None:
    run = runs.train(steps=4, **TOY)
    assert all(0 < row["toy.open"] < 1 for row in run.rows)
    assert "toy.open" in run.printed


@pytest.mark.covers("MOD-35: orchestrator")
def test_the_orchestrator_watches_and_changes_a_run_of_such_blocks(runs: Runs) -> None:
    """It finds what happens, takes an action, and the run goes on by it."""
    base = {"steps": 8, "adaptive_cooldown_steps": 3} | PARALLEL
    plain = runs.train(**base)
    with alarm("divergence", 2):
        run = runs.train(**base, adaptive="on")
    (made,) = [d for d in decisions(run) if d["action"] != "nothing"]
    assert made["action"] == "lower_rate" and made["new"] < made["old"]
    at = made["step"] + 1
    assert run.column("loss")[:at] == plain.column("loss")[:at]
    assert run.column("learning_rate")[-1] < plain.column("learning_rate")[-1]
    assert run.column("loss")[at:] != plain.column("loss")[at:]
    assert run.rows[-1]["total_decisions"] >= 1
