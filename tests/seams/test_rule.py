"""A rule in a file outside the package, which docs/extending.md shows too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.state.reader import latest_good, open_checkpoint
from training import (
    DENSE,
    assert_same_run,
    column,
    events,
    final_tensors,
    reached,
    rows,
    train_on_two_ranks,
    wait_until,
    words,
)

STEPS, COOLDOWN, RATE = 24, 4, 0.1  # a rate at which the loss does not always fall
FLAGS = [
    *DENSE,
    *words(
        f"--precision fp32 --steps {STEPS} --save-every-n-batches 2 --dropout 0.1 "
        f"--save-total-limit 20 --lr-scheduler constant --learning-rate {RATE}"
    ),
]


TOY = Path(__file__).with_name("toy_rule.py")
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def flags():
    return [*FLAGS, "--plugins", str(TOY)]


def test_the_page_shows_it():
    assert f"# halving.py\n{TOY.read_text().partition(chr(10) * 2)[2]}```" in (
        PAGE.read_text()
    )


@pytest.fixture(scope="module")
def whole(trainings, flags):
    return trainings.train("whole", *flags)


def changes(run):
    return [(e["step"], e["data"]["value"]) for e in events(run, "control")]


def by_hand(run):
    """What the rule's own words say, from the losses of a run."""
    best, waited, rate, expected, free = float("inf"), 0, RATE, [], 0
    for row in rows(run)[: STEPS - 2]:
        waited = 0 if row["loss"] < best else waited + 1
        best = min(best, row["loss"])
        if waited >= 2 and row["step"] >= free:
            rate /= 2
            expected.append((row["step"] + 1, pytest.approx(rate)))
            free = row["step"] + 1 + COOLDOWN
    return expected


def test_it_trains_as_it_says_and_is_told_everywhere(whole):
    found = changes(whole)
    assert len(found) >= 2, "too few plateaus to show anything"
    assert found == by_hand(whole)
    step, value = found[0]
    assert column(whole, "learning_rate")[step] == pytest.approx(value)
    assert column(whole, "learning_rate")[step - 1] == pytest.approx(2 * value)
    data = events(whole, "control")[0]["data"]
    assert (data["source"], data["rule"]) == ("orchestrator", "halve_on_plateau")
    assert (data["confidence"], data["reversal"]) == (0.7, "undo")
    assert data["evidence"]["best_loss"] == min(column(whole, "loss")[: step - 1])
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["rules"] == ["training_health", "halve_on_plateau"]
    assert "halves the rate when the loss" in plan["reasons"]["rules"]
    report = (whole / "report.html").read_text()
    assert "halve_on_plateau" in report and "the loss has not fallen in 2" in report


@pytest.mark.parametrize("after", [-1, 2], ids=["granted", "cooling down"])
def test_killed_it_resumes_to_the_bit(trainings, flags, whole, after):
    """Killed before a granted change takes effect, and in the middle of a cooldown."""
    last = changes(whole)[0][0] + after
    name = f"killed-{after}"
    run = trainings.folder / name
    running = trainings.start(name, *flags, HOLD_AFTER=str(last))
    assert wait_until(reached(run, last), running), running.output
    running.kill()
    assert len(rows(run)) == last
    again = trainings.train(name, *flags, "--auto-resume")
    assert events(again, "resumed")
    assert_same_run(again, whole)
    journals = [open_checkpoint(latest_good(x)).meta.journal for x in (again, whole)]
    assert journals[0] == journals[1] and len(journals[0]) == len(changes(whole))


def test_a_pinned_control_is_left_alone(trainings, flags, whole):
    run = trainings.train("pinned", *flags, "--pin", "learning_rate")
    (told,) = events(run, "control")
    assert told["data"]["outcome"] == "refused: E002 learning_rate is pinned"
    assert told["severity"] == "warning" and told["data"]["rule"] == "halve_on_plateau"
    assert set(column(run, "learning_rate")[2:]) == {RATE}
    plain = trainings.train("plain", *FLAGS)
    assert column(run, "loss") == column(plain, "loss") != column(whole, "loss")


def test_it_is_refused_by_name_where_it_can_do_nothing(trainings, flags, whole):
    file = trainings.folder / "placeless.py"
    file.write_text(
        "import lumina\n"
        "from lumina.train.rules import Rule\n"
        "@lumina.register_rule\n"
        "class Placeless(Rule):\n"
        "    name, changes = 'placeless', ('capacity_factor',)\n"
        "    @classmethod\n"
        "    def wanted(cls, plan):\n"
        "        return 'always'\n"
    )
    refused = trainings.start("refused", *FLAGS, "--plugins", str(file))
    assert refused.wait() != 0
    assert "E002" in refused.output and "the rule placeless" in refused.output
    assert "this model has no experts" in refused.output
    assert not (trainings.folder / "refused").exists()
    alone = trainings.start("whole", *FLAGS, "--auto-resume", "--steps", "30")
    assert alone.wait() != 0
    assert "the rule halve_on_plateau" in alone.output
    assert "--plugins" in alone.output and TOY.name in alone.output


@pytest.mark.thorough
def test_ranks_decide_together(tiny_config, tmp_path):
    config = tiny_config.replace(
        run_dir=str(tmp_path / "two"), plugins=(str(TOY),),
        batch_size=2, parallel="ddp", lr_scheduler="constant", steps=STEPS,
        learning_rate=RATE,
    )  # fmt: skip
    train_on_two_ranks(config)
    run = tmp_path / "two"
    assert changes(run) and changes(run) == by_hand(run)
    assert len(rows(run)) == STEPS and final_tensors(run)
