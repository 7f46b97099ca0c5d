"""Experts that come and go by what was found, and runs of several kinds of text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.train import Trainer
from lumina.train.orchestrator.ladders import LADDERS
from lumina.train.rules.orchestrator import Orchestrator
from option_effects.adaptive import alarm, decisions
from option_effects.stages import two_parts
from programs import tiny_plan
from tiny_runs import EXPERTS, Run, Runs, same


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def only(anomaly: str, action: str) -> dict[str, Any]:
    """Options with which the ladder of an anomaly has one action."""
    others = tuple(name for name in LADDERS[anomaly] if name != action)
    return {"adaptive": "on", "adaptive_without": others, "experience": "off"}


def by_hand(runs: Runs, at: int, method: str, **leaves: Any) -> Run:
    """A run in which a person asks for the change, after the same step."""

    def on_step(trainer: Trainer, row: Mapping[str, Any]) -> None:
        if row["step"] == at:
            getattr(trainer, method)()

    return Run(Trainer(runs.config(**leaves), on_step=on_step).train(), "")


def experts(run: Run) -> list[int]:
    return [len(load[0]) for load in run.column("moe.load")]


@pytest.mark.covers(
    "ORC-11: add expert", "ORC-20: add experts", "ORC-20: remove experts by utilisation"
)
@pytest.mark.parametrize(
    ("anomaly", "action", "after"),
    [
        ("plateau", "add_expert", 5),
        ("expert_imbalance", "add_expert", 5),
        ("dead_experts", "prune_expert", 3),
    ],
)
def test_experts_come_and_go_with_their_moments(
    runs: Runs, anomaly: str, action: str, after: int
) -> None:
    """As a person would have done it: weights and moments are those, to the bit."""
    base = {"steps": 6, "eval_fraction": 0.0, **EXPERTS}
    with alarm(anomaly, 3):
        run = runs.train(**base, **only(anomaly, action))
    [decision] = decisions(run)
    assert (decision["action"], decision["level"]) == (action, 2)
    assert (decision["step"], decision["old"]) == (3, 4)
    assert experts(run) == [4] * 4 + [after] * 2
    asked = by_hand(runs, 3, action, **base)
    assert all(same(run.tensors[x], asked.tensors[x]) for x in asked.tensors)
    for kind in ("exp_avg", "exp_avg_sq"):
        mine, theirs = run.slot(kind), asked.slot(kind)
        assert all(same(mine[name], theirs[name]) for name in theirs)
        assert any(len(one) == after for one in mine.values())


def test_the_expert_that_goes_is_the_least_used_one(runs: Runs) -> None:
    """In every layer the router keeps the rows of the others."""
    seen: dict[int, list[Tensor]] = {}

    def on_step(trainer: Trainer, row: Mapping[str, Any]) -> None:
        assert trainer.program is not None
        named = trainer.program.network.named_parameters()
        seen[len(row["moe.load"][0])] = [
            x.detach().clone() for n, x in named if n.endswith("router.weight")
        ]

    base = {"steps": 5, "eval_fraction": 0.0, "learning_rate": 1e-5, **EXPERTS}
    with alarm("dead_experts", 3):
        config = runs.config(**base, **only("dead_experts", "prune_expert"))
        run = Run(Trainer(config, on_step=on_step).train(), "")
    loads = torch.tensor(run.rows[3]["moe.load"])  # of the step before it went
    for before, after, load in zip(seen[4], seen[3], loads, strict=True):
        assert before.shape[0] == 4 and after.shape[0] == 3
        kept = [n for n in range(4) if n != int(load.argmin())]
        torch.testing.assert_close(after, before[kept], rtol=0, atol=1e-4)
        others = [n for n in range(4) if n != int(load.argmax())]
        assert not torch.allclose(after, before[others], rtol=0, atol=1e-2)


@pytest.mark.covers("ORC-40")
def test_a_base_that_is_forgotten_slows_the_training_on_the_task(runs: Runs) -> None:
    """A run of two sources watches both; one that is predicted worse is an anomaly."""
    parts = two_parts(runs) | {"steps": 4, "eval_every_n_batches": 2}
    run = runs.train(**parts, training_mode="interleaved", adaptive="shadow")
    for name in ("base", "finetuning"):
        assert len(run.column(f"source.{name}.loss")) == 4
        assert len(run.column(f"source.{name}.eval_loss")) == 2

    rule = Orchestrator.made_for(
        tiny_plan(
            steps=200,
            learning_rate=1e-3,
            orchestrator={"mode": "on", "cooldown_steps": 5},
        )
    )
    proposals = []
    for step in range(1, 61):
        rule.see({"step": step, "tokens": 100 * step, "loss": 2 + 4 * step**-0.5})
        if step % 10 == 0:
            height = 2.0 if step <= 30 else 2.5
            held = {"eval_loss": 3 - 0.01 * step, "source.base.eval_loss": height}
            rule.see_evaluation(
                step, held | {"source.finetuning.eval_loss": 3 - 0.02 * step}
            )
        proposal = rule.propose(step, lambda name: 1e-3)
        if proposal is not None:
            proposals.append((step, proposal))
    step, first = proposals[0]
    assert 40 < step <= 60 and first.control == "learning_rate"
    assert first.value == 5e-4 and "base" in first.reason


@pytest.mark.covers("ORC-01: observe, learn, predict, adapt, remember loop")
def test_one_run_observes_predicts_adapts_learns_and_remembers(runs: Runs) -> None:
    """What the store keeps at the end is what came of the decision of this run."""
    from lumina.state.experience.store import ExperienceStore

    file = runs.folder / "memory.sqlite"
    seen = []

    def on_step(trainer: Trainer, row: Mapping[str, Any]) -> None:
        seen.append(trainer.get_adaptive_status())

    # Behind the first phase, in which no loss is predicted.
    with alarm("divergence", 45):
        config = runs.config(
            steps=60, adaptive="on", adaptive_cooldown_steps=5, experience=str(file),
            eval_fraction=0.0, health_check_interval=20,
        )  # fmt: skip
        run = Run(Trainer(config, on_step=on_step).train(), "")
    observed = [e["step"] for e in run.events if e["kind"] == "health_check"]
    assert observed == [20, 40, 60]
    decision = decisions(run)[0]
    assert (decision["step"], decision["action"]) == (45, "lower_rate")
    assert run.rows[46]["learning_rate"] == run.rows[44]["learning_rate"] / 2
    [outcome] = [e["data"] for e in run.events if e["kind"] == "decision_outcome"]
    assert outcome["expected"] is not None and outcome["measured"] is not None
    [kept] = ExperienceStore(file).all().outcomes
    assert (kept.anomaly, kept.action) == ("divergence", "lower_rate")
    assert (kept.verdict, kept.expected) == (outcome["verdict"], outcome["expected"])
    assert seen[5]["predictions"]["loss"]["reason"]
    assert seen[-1]["recent_decisions"][0]["outcome"] == outcome["verdict"]
