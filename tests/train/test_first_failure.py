"""What the other ranks, and the record of the run, say where one rank fails."""

from __future__ import annotations

import math
import os
import threading
from functools import partial

import pytest

from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.train import first_failure
from training import DENSE, Trainings, events, words

FLAGS = [*DENSE, *words("--steps 4 --batch-size 2 --save-every-n-batches 2")]


def fails(error: Exception) -> None:
    """In a rank: the second one fails after step 3, with a checkpoint under way.

    The checkpoint of step 2 is not published before the run gives it up.
    """
    from lumina.state.writer import Writing
    from lumina.train.loop import Loop

    def never_published(writing, manifest):
        while True:
            writing._wait_until(math.inf, "nobody did not end this run")

    Writing._publish = never_published

    take_step = Loop._guarded_step

    def failing(loop, *arguments):
        if loop.progress.step == 3 and os.environ["RANK"] == "1":
            raise error
        return take_step(loop, *arguments)

    Loop._guarded_step = failing


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            LuminaError("E106", "part.bin may not be read", "ask its owner"),
            "E106",
            "rank 1 failed: E106 (permission denied): part.bin may not be read",
        ),
        pytest.param(
            FileNotFoundError(2, "No such file or directory", "part.bin"),
            None,
            "rank 1 failed: FileNotFoundError: [Errno 2] No such file or directory",
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["coded", "unforeseen"],
)
def test_the_first_rank_says_what_failed_on_the_second(
    trainings: Trainings,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: str | None,
    said: str,
) -> None:
    name = type(error).__name__
    first, second = trainings.ranks(name, *FLAGS, before=partial(fails, error))
    assert (second.wait(), first.wait()) == (1, 1)
    assert "part.bin" in second.output and "rank 1" not in second.output
    assert f"ended with another process of this run: {said}" in first.output
    for rank in (first, second):
        (beside,) = [one for one in rank.output.splitlines() if "besides: " in one]
        assert beside.startswith("  besides: E303 (damaged checkpoint): ")
        assert "step-00000002 was not finished" in beside
    assert ("ask its owner" in first.output) == (code is not None)
    assert "Traceback" not in first.output and "reset by peer" not in first.output
    run = trainings.folder / name
    assert [event["step"] for event in events(run, "checkpoint_failed")] == [2]
    (failed,) = events(run, "run_failed")
    assert failed["code"] == code and said in failed["message"]
    assert failed["data"]["rank"] == 1
    assert main(["explain", str(run)]) == 0
    assert f"failed at step 3: {said}" in capsys.readouterr().out


def test_a_store_that_does_not_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = threading.Event()
    monkeypatch.setattr(first_failure, "PATIENCE", 0.0)
    assert first_failure._answer(never.wait) is None
    never.set()
