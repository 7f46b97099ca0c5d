"""Whether a training is supervised: what is asked for, where it runs, how long."""

from __future__ import annotations

import pytest

from lumina import heartbeat
from lumina.cli.main import main
from lumina.cli.supervisor.choice import Choice, choose
from lumina.cli.supervisor.training import HandOverError, planned, restarted
from lumina.config import Config

HOUR = 3600.0


@pytest.mark.parametrize(
    ("environment", "command", "on"),
    [
        ({}, True, None),
        ({}, False, False),
        ({"WORLD_SIZE": "2"}, True, False),
        ({"TORCHELASTIC_RUN_ID": "x"}, True, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, True, None),
        ({"JPY_PARENT_PID": "7"}, True, False),
    ],
)
def test_without_an_option_only_a_plain_command_may_be(environment, command, on):
    found = choose(Config(), environment, command=command)
    assert found.on is on and bool(found.why) == (on is not None)
    for asked in (True, False):
        config = Config(supervise=asked)
        assert choose(config, environment, command=command).on is asked


@pytest.mark.parametrize(
    ("seconds", "on"), [(HOUR + 1, True), (HOUR, False), (None, False)]
)
def test_an_hour_decides(seconds, on):
    assert Choice(None, "").after_planning(seconds).on is on
    assert Choice(not on, "asked for").after_planning(seconds).on is not on
    if on:
        with pytest.raises(HandOverError, match="more than an hour"):
            planned(Choice(None, ""), seconds)
    else:
        assert planned(Choice(None, ""), seconds).startswith("no: ")


def test_a_supervised_training_goes_on_with_its_run(tmp_path, monkeypatch):
    """What it was told is told by the folder of signs, and asks for nothing again."""
    heartbeat.write(tmp_path / "restart.json", {"run": "runs/x", "number": 1})
    heartbeat.write(tmp_path / "supervision.json", Choice(None, "").to_dict())
    asked = Config(run_dir=None, branch_from="runs/y", reset_optimizer=True)
    assert restarted(asked) is asked
    monkeypatch.setenv(heartbeat.FOLDER, str(tmp_path))
    try:
        heartbeat.begin()
        again = restarted(asked)
        assert (again.run.run_dir, again.run.auto_resume) == ("runs/x", True)
        assert again.run.branch_from is None and not again.resuming.reset_optimizer
        assert planned(Choice(False, ""), 2 * HOUR).startswith("yes: about 2")
        told = heartbeat.read(heartbeat.word_of(tmp_path, 0, "plan"))
        assert told["supervised"] is True
    finally:
        heartbeat.end()


@pytest.mark.thorough
def test_a_plan_says_whether_the_run_is_supervised(capsys, tiny_corpus):
    small = ["train", "--preset", "debug", "--train-data", str(tiny_corpus)]
    assert main([*small, "--device", "cpu", "--dry-run", "--supervise"]) == 0
    assert "Supervised\n  yes: asked for" in capsys.readouterr().out
