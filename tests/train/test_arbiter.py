"""The arbiter: one change at a time, the most urgent and the surest first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.train.rules import Proposal, Rule, RunningRules, with_rules
from lumina.train.rules.arbiter import Arbiter
from lumina.train.rules.rule import RULES, register_rule
from programs import tiny_plan


class Named(Rule):
    """A rule that proposes nothing itself."""

    def __init__(
        self, name: str, precedence: int = 0, cooldown: int = 0, changes: str = ""
    ) -> None:
        values = {"name": name, "precedence": precedence, "cooldown": cooldown}
        names = ("learning_rate", "weight_decay", "add_expert")
        self.__dict__.update(values, changes=tuple(changes.split()) or names)


def change(control: str = "learning_rate", value: Any = 1e-4, **told: Any) -> Proposal:
    return Proposal(control, value, "a test", **told)


def granted(arbiter: Arbiter, step: int) -> list[str]:
    return [ruling.rule for ruling in arbiter.due(step) if not ruling.refusal]


def test_precedence_goes_before_confidence_and_confidence_before_names() -> None:
    sure, urgent = change(confidence=1.0), change(confidence=0.7)
    arbiter = Arbiter()
    arbiter.hear(1, [(Named("a"), sure), (Named("b", precedence=1), urgent)])
    assert granted(arbiter, 2) == ["b"]
    arbiter.hear(2, [(Named("a"), urgent), (Named("b"), sure)])
    assert granted(arbiter, 3) == ["b"]
    arbiter.hear(3, [(Named("b"), sure), (Named("a"), sure)])
    assert granted(arbiter, 4) == ["a"]


def test_a_change_waits_alone_and_takes_effect_two_steps_after_its_row() -> None:
    arbiter = Arbiter()
    arbiter.hear(5, [(Named("a"), change())])
    assert granted(arbiter, 5) == []
    arbiter.hear(6, [(Named("b"), change("weight_decay", 0.1))])  # while it waits
    assert granted(arbiter, 6) == ["a"]
    assert granted(arbiter, 7) == []


def test_a_rule_and_what_it_changed_cool_down() -> None:
    slow, other = Named("slow", cooldown=3), Named("other")
    arbiter = Arbiter()
    arbiter.hear(1, [(slow, change())])
    assert granted(arbiter, 2) == ["slow"]
    for step in (2, 3, 4):
        arbiter.hear(step, [(slow, change("weight_decay", 0.1)), (other, change())])
        assert granted(arbiter, step + 1) == []
    arbiter.hear(4, [(other, change("weight_decay", 0.1))])
    assert granted(arbiter, 5) == ["other"], "another control is free"
    arbiter.hear(5, [(slow, change())])
    assert granted(arbiter, 6) == ["slow"]


@pytest.mark.parametrize(
    ("confidence", "told", "good"),
    [
        (0.6, {}, True),
        (0.59, {}, False),
        (0.8, {"reversal": "rollback"}, True),
        (0.79, {"reversal": "rollback"}, False),
        (0.9, {"reversal": "never"}, True),
        (0.89, {"reversal": "never"}, False),
        (0.8, {"control": "add_expert"}, True),  # only a checkpoint takes it back
        (0.79, {"control": "add_expert"}, False),
    ],
)
def test_what_is_hard_to_take_back_must_be_surer(
    confidence: float, told: dict[str, Any], good: bool
) -> None:
    if "control" in told:
        told = told | {"value": {"how": "mean", "noise": 0.0}}
    arbiter = Arbiter()
    arbiter.hear(1, [(Named("a"), change(confidence=confidence, **told))])
    assert granted(arbiter, 2) == ["a"] * good


def test_what_can_never_be_granted_is_refused_once_and_stops_nothing_else() -> None:
    arbiter = Arbiter(pinned=["learning_rate"])
    wrong = change("weight_decay", -1.0)
    foreign = change("max_grad_norm", 1.0)
    for step in (1, 2):
        arbiter.hear(
            step,
            [
                (Named("pinned", precedence=2), change()),
                (Named("wrong", precedence=1), wrong),
                (Named("foreign", precedence=1), foreign),
                (Named("good"), change("weight_decay", 0.1)),
            ],
        )
        rulings = arbiter.due(step + 1)
        if step == 1:
            assert [(r.rule, r.refusal[:4]) for r in rulings] == [
                ("pinned", "E002"), ("foreign", "E005"), ("wrong", "E005"),
                ("good", ""),
            ]  # fmt: skip
        else:
            assert [r.rule for r in rulings] == ["good"]


def test_everything_outlives_a_checkpoint() -> None:
    slow, pinned = Named("slow", cooldown=3), Named("pinned")
    arbiter = Arbiter(pinned=["weight_decay"])
    arbiter.hear(1, [(slow, change()), (pinned, change("weight_decay", 0.1))])
    again = Arbiter(pinned=["weight_decay"])
    again.load(json.loads(json.dumps(arbiter.state())))
    assert again.due(2) == arbiter.due(2) != []
    again.load(json.loads(json.dumps(arbiter.state())))
    again.hear(2, [(slow, change()), (pinned, change("weight_decay", 0.1))])
    assert again.due(3) == []


class Curious(Rule):
    """Keeps what it is shown."""

    name = "curious"
    changes = ("learning_rate",)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @classmethod
    def wanted(cls, plan: Any) -> str | None:
        return "always"

    def see(self, row: Any) -> None:
        self.seen.append(dict(row))

    def see_evaluation(self, step: int, metrics: Any) -> None:
        self.seen.append((step, dict(metrics)))

    def propose(self, step: int, now: Any) -> None:
        self.seen.append(now("learning_rate"))


def test_rules_see_what_all_ranks_have_in_common() -> None:
    rule = Curious()
    rules = RunningRules([rule])
    row = {"step": 3, "loss": 1.0, "step_seconds": 0.1, "memory_peak_bytes": 7}
    rules.see(row | {"time": 0.0, "mfu": None, "tokens_per_second": 9.0}, lambda _: 5)
    rules.see_evaluation(3, {"eval_loss": 2.0}, lambda _: 6)
    assert rule.seen == [{"step": 3, "loss": 1.0}, 5, (3, {"eval_loss": 2.0}), 6]


def test_the_plan_says_which_rules_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = with_rules(tiny_plan())
    assert plan.rules == () and plan.reasons["rules"] == "no rule is wanted"
    monkeypatch.setitem(RULES, "curious", Curious)
    pinned = tiny_plan().replace(pinned=("learning_rate", "weight_decay"))
    plan = with_rules(pinned, held=["curious"])
    assert plan.rules == ("curious",)
    assert plan.reasons["rules"] == "curious: always"
    assert [w for w in plan.warnings if "pin" in w] == [
        "pin weight_decay has no effect: no rule of this run changes it"
    ]


def test_a_file_of_an_earlier_run_adds_no_rule_to_this_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import lumina\nfrom lumina.train.rules import Rule\n"
        "@lumina.register_rule\nclass Mine(Rule):\n"
        "    name, changes = 'mine', ('learning_rate',)\n"
        "    @classmethod\n    def wanted(cls, plan): return 'always'\n"
    )
    load_plugins([str(file)])
    try:
        assert with_rules(tiny_plan(), plugins=[str(file)]).rules == ("mine",)
        assert with_rules(tiny_plan()).rules == ()
        with pytest.raises(LuminaError, match="the rule mine"):
            with_rules(tiny_plan(), held=["mine"])
    finally:
        RULES.pop("mine")


def test_what_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(LuminaError, match="learning_rat") as caught:
        with_rules(tiny_plan().replace(pinned=("learning_rat",)))
    assert caught.value.code == "E004" and "'learning_rate'" in caught.value.hint
    with pytest.raises(LuminaError, match="the rule gone") as caught:
        with_rules(tiny_plan(), held=["gone"], begun_with=["mine.py"])
    assert caught.value.code == "E002" and "--plugins mine.py" in caught.value.hint
    taken = type("Other", (Rule,), {"name": "expert_capacity"})
    with pytest.raises(LuminaError, match="expert_capacity") as caught:
        register_rule(taken)
    assert caught.value.code == "E005"
