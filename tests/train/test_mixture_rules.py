"""The rules of mixtures: what they propose from which figures, with what evidence."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from lumina.observe.console import Console
from lumina.plan.plan import Plan
from lumina.train import Trainer
from lumina.train.rules import Proposal, Rule
from lumina.train.rules.adaptive_sources import AdaptiveSources
from lumina.train.rules.domain_shift import DomainShift
from lumina.train.rules.phase_convergence import PhaseConvergence
from networks import tiny_spec
from tiny_runs import Runs
from training import column, events

SETTINGS = {
    "window": 3, "least": 0.3, "most": 0.8, "perplexity": 15.0, "accuracy": 0.7,
}  # fmt: skip


def adaptive() -> Rule:
    plan = Plan(spec=tiny_spec(), sources=("base", "chat"), adaptive=SETTINGS)
    return AdaptiveSources.made_for(plan)


def row(step: int, share: float, loss: float | None) -> dict[str, Any]:
    return {"step": step, "source.base.weight": share, "source.base.loss": loss}


def after_window(
    share: float, loss: float | None, accuracy: float | None
) -> Proposal | None:
    """What the rule proposes after a window that ends with an evaluation."""
    rule, found = adaptive(), []
    for step in range(1, 5):
        rule.see(row(step, share, 9.0))
        found.append(rule.propose(step, lambda name: None))
        if step == 3:
            metrics = {"source.base.eval_loss": loss}
            metrics |= {"source.chat.eval_accuracy": accuracy}
            rule.see_evaluation(
                step, {k: v for k, v in metrics.items() if v is not None}
            )
            found.append(rule.propose(step, lambda name: None))
    assert found[:4] == [None] * 4  # not before the window is over
    return found[4]


@pytest.mark.covers(
    "DAT-11: base_perplexity_threshold", "DAT-11: task_accuracy_threshold"
)
@pytest.mark.parametrize(
    ("share", "perplexity", "accuracy", "wanted"),
    [
        (0.5, 30.0, 0.9, 0.55),  # the base is predicted badly
        (0.5, 10.0, 0.5, 0.45),  # the answers are wrong too often
        (0.5, 10.0, 0.9, None),  # both are well
        (0.5, 16.0, 0.1, 0.45),  # both ask: accuracy is further off
        (0.5, 60.0, 0.6, 0.55),  # both ask: perplexity is further off
        (0.78, 30.0, 0.9, 0.8),  # up to the bound
        (0.8, 30.0, 0.9, None),
        (0.31, 10.0, 0.5, 0.3),  # down to the bound
        (0.9, 30.0, 0.9, None),  # begun outside: not moved against what is asked
        (0.5, None, None, 0.55),  # no evaluation: the training loss of 9 is too high
    ],
)
def test_shares_follow_perplexity_and_accuracy(
    share: float,
    perplexity: float | None,
    accuracy: float | None,
    wanted: float | None,
) -> None:
    loss = None if perplexity is None else math.log(perplexity)
    found = after_window(share, loss, accuracy)
    if wanted is None:
        assert found is None
        return
    assert found is not None and found.control == "source_weights"
    assert found.value == pytest.approx({"base": wanted, "chat": 1 - wanted})
    assert found.evidence["base_share"] == share
    if perplexity is not None:
        assert found.evidence["base_perplexity"] == pytest.approx(perplexity)


def test_a_rule_goes_on_in_the_middle_of_its_window() -> None:
    whole, resumed = adaptive(), adaptive()
    for step in range(1, 9):
        for rule in (whole, resumed):
            rule.see(row(step, 0.5, 2.0 + step / 4))
        assert whole.propose(step, lambda name: None) == resumed.propose(
            step, lambda name: None
        )
        state, resumed = resumed.state(), adaptive()
        resumed.load(state)


def converging(losses: list[float], threshold: float = 0.01) -> int | None:
    """The step at which a phase is found to have converged."""
    plan = Plan(
        spec=tiny_spec(),
        phases=("a", "b"),
        phase="a",
        phase_begin=10,
        warmup_steps=2,
        convergence={"window": 5, "threshold": threshold},
    )
    assert PhaseConvergence.wanted(plan)
    assert PhaseConvergence.wanted(plan.replace(phase="b")) is None
    rule = PhaseConvergence.made_for(plan)
    for step, loss in enumerate(losses, start=11):
        rule.see({"step": step, "loss": loss})
        found = rule.propose(step, lambda name: None)
        if found is not None:
            assert (found.control, found.value) == ("phase", "b")
            assert found.evidence["before"] >= 0
            return step
    return None


@pytest.mark.covers("DAT-10: transition detected by convergence")
def test_a_phase_converges_when_its_loss_is_level_beyond_the_noise() -> None:
    level, falling = [3.0] * 30, [5.0 * 0.97**n for n in range(30)]
    assert converging(level) == 10 + 2 + 10  # two windows after the warm-up
    assert converging(falling) is None
    # As level as the first, and too noisy to say so.
    noisy = [3.0 + (0.5 if n % 2 else -0.5) for n in range(30)]
    assert converging(noisy) is None
    # It falls, then it is level.
    assert converging(falling[:12] + [2.0] * 18) == 10 + 12 + 10


def shifts(losses: list[float]) -> list[tuple[int, str]]:
    """What is told of a source with these losses, resumed at every step."""
    plan = Plan(spec=tiny_spec(), sources=("base", "chat"))
    assert DomainShift.wanted(plan) and not DomainShift.wanted(Plan(spec=tiny_spec()))
    rule, told = DomainShift.made_for(plan), []
    for step, loss in enumerate(losses, start=1):
        row = {"step": step, "source.base.loss": loss, "source.chat.loss": None}
        rule.see(row)
        told += [(note.step, note.evidence["source"]) for note in rule.notes()]
        state, rule = json.loads(json.dumps(rule.state())), DomainShift.made_for(plan)
        rule.load(state)
    return told


@pytest.mark.covers("DAT-19: domain-shift detection in base data")
def test_a_source_whose_text_changes_is_told_of_once() -> None:
    noise = [0.1 if n % 2 else -0.1 for n in range(100)]
    level = [3.0 + x for x in noise]
    risen = [3.6 + x for x in noise]
    assert shifts([*level, *risen]) == [(150, "base")]
    assert shifts([*level, *level]) == []
    assert shifts([*risen, *level]) == []  # it fell
    slightly = [3.1 + x for x in noise]  # beyond the noise, within 5%
    assert shifts([*level, *slightly]) == []
    wild = [3.0 + 20 * x for x in noise]
    assert shifts([*wild, *[x + 0.5 for x in wild]]) == []  # within the noise
    again = [4.2 + x for x in noise]
    assert shifts([*level, *risen, *again]) == [(150, "base"), (250, "base")]


def test_shares_can_be_set_by_hand_and_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    code = tmp_path / "code.txt"
    code.write_text("<|endoftext|>".join(f"y = x * {n} + 1\n" for n in range(60)))
    asked: list[int] = []

    def on_step(trainer: Trainer, found: dict[str, Any]) -> None:
        assert trainer.controls is not None
        if found["step"] == 2:
            asked.append(trainer.adjust_source_weights({"base": 1, "code": 3}))
            asked.append(trainer.adjust_source_weights({"other": 1}))
        if found["step"] == 5:
            trainer.controls.undo(asked[0])

    config = runs.config(
        sources=(f"base={runs.data}", f"code={code}"),
        train_data=(),
        source_weights=("0.5",),
        steps=9,
    )
    console = Console(stream=io.StringIO(), live=False)
    result = Trainer(config, console=console, on_step=on_step).train()
    shares = column(result.run_dir, "source.base.weight")
    assert shares == sorted(shares[:4], reverse=True) + shares[4:]
    assert set(shares[:5]) == {0.5, 0.25} and shares[-1] == 0.5
    outcomes = [e["data"]["outcome"] for e in events(result.run_dir, "control")]
    assert outcomes[0] == "applied" and "refused: E005" in outcomes[1]
