"""What the report says of decisions and of earlier runs, and `lumina explain RUN`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.explain_run import in_words
from lumina.cli.main import main
from lumina.observe.report import write_report
from lumina.state.decisions_made import Made
from lumina.state.events import EventLog
from lumina.state.experience.beside import leave_earlier_runs
from lumina.state.experience.of_run import record_of
from lumina.state.run_directory import RunDirectory
from remembered import a_record
from reported_run import HOSTILE, a_run, numbers, page, section


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with three decisions: one helped, one is undone, one is only shadow."""
    folder = a_run(tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text())
    plan["orchestrator"] = {"mode": "on", "cooldown_steps": 5}
    plan["reasons"]["experience"] = "warm: 3 counts from the runs run-7"
    (folder / "plan.json").write_text(json.dumps(plan))
    events = EventLog(folder / "events.jsonl")
    for number, (step, mode) in enumerate(((100, "on"), (300, "on"), (200, "shadow"))):
        if number == 2:
            events.emit("resumed", "info", None, "goes on", 150)
        events.emit(
            "decision", "info", None, "decided", step, number=number + 1,
            anomaly="divergence", action="lower_rate", level=2, mode=mode,
            confidence=0.875, reason=f"half the rate {HOSTILE}",
            evidence={"median": 3.25, "phase": "CONVERGING"},
            control="learning_rate", old=1e-3, new=5e-4,
        )  # fmt: skip
        events.emit(
            "decision_outcome", "info", None, "judged", step + 20, number=number + 1,
            verdict="better", measured=3.0, expected=3.5,
            text="the loss is 3.0 where 3.5 was expected",
        )  # fmt: skip
    events.close()
    return folder


@pytest.mark.parametrize(
    ("actions", "mode", "said"),
    [
        (["lower_rate"], "on", "1 change was made"),
        (["lower_rate"] * 2, "on", "2 changes were made"),
        (
            ["lower_rate", "nothing", "nothing"],
            "on",
            "1 change was made, and 2 findings watched and left alone",
        ),
        (["nothing"], "on", "no change was made, and 1 finding watched and left"),
        (["lower_rate", "nothing"], "shadow", "1 change would have been made, and 1"),
        ([], "on", "nothing was found that asks for a change"),
    ],
)
def test_explain_counts_what_was_changed_and_what_was_left_alone(
    actions: list[str], mode: str, said: str
) -> None:
    made = [Made(n, 10 + n, "divergence", one) for n, one in enumerate(actions)]
    facts = {"run": "r", "adaptive": mode, "experience": None, "failed": None}
    told = in_words(facts | {"without": {}, "made": made})
    assert f"\nin short: {said}" in told


def test_explain_dumps_no_values_and_says_where_a_run_had_gone_back() -> None:
    stop = {"reason": "it does not help", "failed": False, "advice": "look"}
    made = [
        Made(1, 20, "loss_spike", "nothing", verdict="better", reason="it may heal"),
        Made(2, 30, "divergence", "rollback", 3, "on", control="rollback"),
        Made(3, 25, "overfitting", "stop_early", 4, "on", control="stop_run", new=stop),
    ]
    facts = {"run": "r", "adaptive": "on", "experience": None, "failed": None}
    told = in_words(facts | {"without": {}, "made": made})
    assert "outcomes: 1 left alone and quiet" in told
    assert "stop_early, with failed: no (level 4, the end of the run)" in told
    assert "does not help" not in told and "nothing, on purpose\n" in told
    assert told.count("(the run had gone back; from here on it takes") == 2


@pytest.mark.covers("ORC-30")
def test_explain_says_what_was_seen_done_why_how_sure_and_what_followed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(folder)]) == 0
    said = capsys.readouterr().out
    for part in (
        "adaptive was on: 3 decisions",
        "experience: warm: 3 counts",
        "in short: 2 changes were made",
        "  step 100: half the rate",
        "; afterwards: better",
        "outcomes: 2 better",
        "step 100 (converging): divergence",
        "seen        median 3.25",
        "done        lower_rate: learning_rate 0.001 -> 0.0005 (level 2, a change",
        "would do    lower_rate",
        "why         half the rate",
        "how sure    0.88",
        "afterwards  better: the loss is 3.0 where 3.5 was expected (known in step 1",
        "undone      a resume went on from before it",
        "  divergence  The loss rises and stays up.",
        "  lower_rate  Half the learning rate; the schedule goes on from there.",
    ):
        assert part in said, part
    assert main(["explain", str(folder), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert [one["undone"] for one in found["decisions"]] == [False, True, False]
    # What is undone is made again after the resume, and counts once.
    _, kept = record_of(RunDirectory(folder))
    assert [one.number for one in kept] == [1, 3]


def test_explain_of_a_run_without_says_what_shadow_would_have_decided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run(tmp_path / "run", steps=160)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows[100:]:
        row["loss"] = 9.0 + row["step"] / 1000
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert main(["explain", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "adaptive was off: nothing was decided" in said
    assert "would have been made" in said
    assert "would do" in said
    assert "done  " not in said


def test_a_topic_is_explained_also_beside_a_run_of_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "E201")
    assert main(["explain", "E201"]) == 0
    assert "out of GPU memory" in capsys.readouterr().out


@pytest.mark.covers("MON-16: meta-learning report")
def test_decisions_stand_on_the_curves_and_in_a_table(folder: Path) -> None:
    path = write_report(folder)
    marks = [m for m in numbers(path)["marks"] if m["kind"] == "decision"]
    assert [m["step"] for m in marks] == [100, 200]
    assert marks[0]["text"].startswith("better: lower_rate: learning_rate 0.001")
    assert "in shadow: lower_rate" in marks[1]["text"]
    table = section(folder, "decided")
    assert table.count("the loss is 3.0 where 3.5 was expected") == 2
    assert "<script>alert" not in table
    assert "0.88" in table
    assert page(path).text.count("a decision, and what came of it") == 1


@pytest.mark.covers("MON-16: comparison with historical baselines")
def test_the_run_beside_the_last_five_like_it(folder: Path) -> None:
    assert section(write_report(folder).parent, "earlier") == ""
    earlier = [
        a_record(
            number, name=f"early-{number} <b>", eval_loss=2.0 + number / 10,
            evaluations=[[800 * 4096.0, 2.0], [9e9, 1.0]],
        )
        for number in range(5)
    ]  # fmt: skip
    leave_earlier_runs(RunDirectory(folder), earlier)
    path = write_report(folder)
    shown = section(folder, "earlier")
    assert "is lower than that of 3 of 5 earlier runs" in shown
    assert "the median is 2.2000 (2.0000 to 2.4000)" in shown
    assert "early-4 &lt;b&gt;" in shown
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{2.4 - last['eval_loss']:+.4f}" in shown
    [chart] = [
        chart for chart in numbers(path)["charts"]
        if [line["name"] for line in chart["lines"]][:1] == ["this run"]
    ]  # fmt: skip
    assert len(chart["lines"]) == 6
    # The first point is where this run had seen as many tokens, the last is beyond it.
    assert chart["lines"][1]["x"] == [800]


def test_a_change_of_several_values_is_told_in_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what was left alone, and what an undo is."""
    events = EventLog(folder / "events.jsonl")
    about = {"anomaly": "high_rate", "level": 3, "mode": "on", "confidence": 0.9}
    back = {"steps": 160, "skip_data": False, "learning_rate_factor": 0.1}
    for number, (action, control, new) in enumerate(
        [("restart_lower_rate", "rollback", back), ("nothing", "", None),
         ("undo", "learning_rate", 1e-3)]
    ):  # fmt: skip
        events.emit(
            "decision", "info", None, "decided", 500 + number, number=number + 4,
            action=action, control=control, new=new, reason=f"reason {number}", **about,
        )  # fmt: skip
    events.close()
    assert main(["explain", str(folder)]) == 0
    said = capsys.readouterr().out
    told = "with steps: 160; skip data: no; learning rate factor: 0.1 (level 3, a step"
    assert f"restart_lower_rate, {told}" in said
    assert "4 changes were made, and 1 finding watched and left alone" in said
    assert "step 501: reason 1" not in said.partition("outcomes:")[0]
    assert "taken back" in said.partition("what these words mean")[2]
