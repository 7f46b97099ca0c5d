"""The methods of a trainer that the documents name, on a run that goes on."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumina
from lumina.errors import LuminaError
from lumina.model.block import Block
from lumina.observe.console import Console
from lumina.train import Trainer
from lumina.train.health.watching import Watching
from lumina.train.orchestrator.status import NO_STATUS, watched_status
from option_effects.adaptive import alarm
from programs import tiny_plan
from tiny_runs import EXPERTS, Run, Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def train(runs: Runs, at: dict[int, Any], **leaves: Any) -> tuple[Run, Trainer]:
    """A run, with what is to be done after some of its rows."""

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] in at:
            at[row["step"]](trainer)

    stream = io.StringIO()
    console = Console(stream=stream, live=False)
    trainer = Trainer(runs.config(**leaves), console=console, on_step=on_step)
    return Run(trainer.train(), stream.getvalue()), trainer


def controls(run: Run) -> list[tuple[str, Any, str]]:
    found = [e["data"] for e in run.events if e["kind"] == "control"]
    return [(change["name"], change["value"], change["outcome"]) for change in found]


@pytest.mark.covers("ORC-24: _recreate_dataloader(dataset)")
def test_the_rows_stay_the_same_when_what_reads_them_is_made_anew(runs: Runs) -> None:
    refused = []

    def again(trainer: Trainer) -> None:
        trainer._recreate_dataloader()
        with pytest.raises(LuminaError) as caught:
            trainer._recreate_dataloader([{"text": "another set"}])
        refused.append(caught.value.code)

    plain = runs.train(steps=6)
    run, _ = train(runs, {2: again}, steps=6)
    assert controls(run) == [("dataloader", "again", "applied")] and refused == ["E002"]
    assert run.column("loss") == plain.column("loss")
    assert run.column("tokens") == plain.column("tokens")


@pytest.mark.covers(
    "ORC-27: _update_optimizer_param_groups(key, value)",
    "TRN-21: dropout changeable during training",
)
def test_groups_and_regularisation_change_alone(runs: Runs) -> None:
    """What is set is what the next steps use, and nothing else moves."""
    seen: dict[str, Any] = {}

    def change(trainer: Trainer) -> None:
        trainer._update_optimizer_param_groups("lr", 1e-3)
        trainer._update_optimizer_param_groups("weight_decay", 0.25)
        trainer.adjust_dropout(0.5)
        trainer.adjust_label_smoothing(0.25)
        with pytest.raises(LuminaError) as caught:
            trainer._update_optimizer_param_groups("betas", (0.5, 0.5))
        seen["code"] = caught.value.code

    def look(trainer: Trainer) -> None:
        program = trainer.program
        assert program is not None
        blocks = [m for m in program.network.modules() if isinstance(m, Block)]
        seen["dropout"] = [block.dropout for block in blocks]
        seen["smoothing"] = program.network.objective.label_smoothing
        seen["decay"] = program.live.weight_decay
        seen["clip"] = program.live.max_grad_norm.item()

    plain = runs.train(steps=5)
    run, _ = train(runs, {2: change, 4: look}, steps=5)
    assert seen == {
        "code": "E005", "dropout": [0.5, 0.5], "smoothing": 0.25, "decay": 0.25,
        "clip": 1.0,
    }  # fmt: skip
    assert run.column("learning_rate") == [3e-3, 3e-3, 3e-3, 1e-3, 1e-3]
    assert run.column("loss")[:3] == plain.column("loss")[:3]
    assert run.column("loss")[3] != plain.column("loss")[3]  # by the dropout
    assert run.column("tokens") == plain.column("tokens")


@pytest.mark.thorough
def test_dropout_and_smoothing_are_those_of_their_options_and_outlive_a_resume(
    runs: Runs,
) -> None:
    """A run changed before its third step goes on as one with the options since."""

    def change(trainer: Trainer) -> None:
        trainer.adjust_dropout(0.3)
        trainer.adjust_label_smoothing(0.1)

    whole, _ = train(runs, {1: change}, steps=6)
    part, _ = train(runs, {1: change}, steps=4)
    options = {"resume": str(part.folder), "steps": 6}
    trainer = Trainer(lumina.Config(**options), console=Console(stream=io.StringIO()))
    rest = Run(trainer.train(), "")
    assert rest.column("loss") == whole.column("loss")


@pytest.mark.covers(
    "ORC-25: _extract_moe_routing_stats()",
    "ORC-25: _calculate_throughput()",
    "ORC-21: _initialize_new_expert(new, existing)",
)
def test_what_is_read_is_the_newest_row_and_a_new_expert_is_the_mean(
    runs: Runs,
) -> None:
    seen: dict[str, Any] = {}

    def look(trainer: Trainer) -> None:
        row = trainer.get_current_metrics()
        seen["routing"] = trainer._extract_moe_routing_stats()
        seen["speed"] = (trainer._calculate_throughput(), row["tokens_per_second"])
        experts = [nn.Linear(8, 8) for _ in range(3)]
        new, other = nn.Linear(8, 8), nn.Linear(8, 8)
        trainer._initialize_new_expert(new, experts, noise=0.0)
        mean = torch.stack([expert.weight for expert in experts]).mean(0)
        torch.testing.assert_close(new.weight, mean)
        trainer._initialize_new_expert(other, experts, noise=0.1)
        apart = (other.weight - mean).std() / mean.std()
        assert 0.01 < apart < 1

    run, trainer = train(runs, {3: look}, **EXPERTS)
    row = run.rows[-1]
    assert seen["routing"] == {k: row[k] for k in row if k.startswith("moe.")}
    assert "moe.load" in seen["routing"]
    assert seen["speed"][0] == seen["speed"][1] > 0
    assert trainer._extract_moe_routing_stats() == {}, "no run goes on"
    assert trainer._calculate_throughput() == 0.0


@pytest.mark.covers("ORC-29", "ORC-01: orchestrator.run_adaptive_training()")
def test_the_status_names_the_decisions_and_outlives_the_run(runs: Runs) -> None:
    seen: list[dict[str, Any]] = []

    def look(trainer: Trainer, row: dict[str, Any]) -> None:
        seen.append(trainer.get_adaptive_status())

    console = Console(stream=io.StringIO(), live=False)
    orchestrator = lumina.Orchestrator(runs.config(), console=console, on_step=look)
    assert orchestrator.get_adaptive_status() == NO_STATUS
    with alarm("divergence", 1):
        result = orchestrator.run_adaptive_training()
    assert result.steps == 3
    last = orchestrator.get_adaptive_status()
    (decision,) = last["recent_decisions"]
    assert last["adaptive_decisions_made"] == 1
    assert seen[1]["monitoring_active"] and seen[1]["meta_learning_runs"] == 0
    assert decision["type"] == "lower_rate" and decision["confidence"] == 0.95
    assert decision["reasoning"] == "half the learning rate: it is a test"
    assert (decision["step"], decision["old"], decision["new"]) == (1, 3e-3, 1.5e-3)
    assert last["phase"] == "INITIALIZATION" and last["health_score"] == 90
    assert "too few steps" in last["predictions"]["loss"]["reason"]
    assert last["predictions"]["failure"]["overall_risk_score"] == 0


@pytest.mark.covers("ORC-29")
def test_the_status_predicts_and_says_where_it_cannot() -> None:
    """A loss that levels off, one that rises, and one without enough steps."""
    plan = tiny_plan(steps=400, warmup_steps=10, learning_rate=1e-3)

    def told(steps: int, loss: Any, norm: Any = lambda step: 1.0) -> dict[str, Any]:
        draw, watching = random.Random(3), Watching.of(plan)
        for step in range(1, steps + 1):
            noisy = loss(step) * (1 + draw.gauss(0, 0.01))
            watching.see(
                {"step": step, "loss": noisy, "grad_norm": norm(step),
                 "learning_rate": 1e-3, "tokens": step}
            )  # fmt: skip
        return watched_status(watching)

    def level(step: int) -> float:
        return 2.0 + 4 * step**-0.5

    assert watched_status(Watching.of(plan))["predictions"] is None
    early = told(8, level)["predictions"]["loss"]
    assert early["reason"] and early["interval"] is None
    late = told(300, level)["predictions"]["loss"]
    low, high = late["interval"]
    assert not late["reason"] and low < level(400) < high < low + 0.6
    assert low < late["expected_final_loss"] < high
    rising = told(200, lambda step: 2.0 + 0.01 * step)
    assert rising["predictions"]["loss"]["reason"]
    assert rising["predictions"]["failure"]["divergence_risk"] >= 0.6
    near = told(200, level, lambda step: 60.0 + 0.15 * step)["predictions"]["failure"]
    assert near["gradient_explosion_risk"] == 0.7
