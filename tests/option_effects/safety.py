"""Options of optimisations that are proven and watched."""

from __future__ import annotations

from typing import Any

import pytest

from levers_on_trial import TIME_ASIDE, harming, large_loss, lever
from lumina.guard import guarded as module
from lumina.guard.judge import Verdict
from option_effects import shows
from tiny_runs import Run, Runs


def _switched_off(run: Run) -> int | None:
    """The step at which the lever was switched off; None: it was not."""
    for event in run.events:
        data = event["data"]
        if event["kind"] == "control" and data["name"] == "lever":
            return int(event["step"])
    return None


def _harmed(runs: Runs, bad: tuple[int, ...], steps: int = 14, **leaves: Any) -> Run:
    with lever():
        return runs.train(
            harming(large_loss, bad),
            features=("lever",),
            steps=steps,
            **(TIME_ASIDE | leaves),
        )


@shows("safe_optimizations")
def what_is_watched(runs: Runs) -> None:
    """Three losses that are far too large switch the lever off; it is told why."""
    off, watch = (
        _harmed(runs, (6, 7, 8), safe_optimizations=mode) for mode in ("off", "watch")
    )
    assert off.column("loss")[:6] == watch.column("loss")[:6]
    assert _switched_off(off) is None
    assert _switched_off(watch) == 9


@pytest.mark.covers("KRN-04: --experimental_safety_window 100")
@shows("experimental_safety_window")
def steps_on_trial(runs: Runs) -> None:
    """After a window without trouble the lever is stable and is not blamed."""
    whole, short = (
        _harmed(runs, (8, 9, 10), experimental_safety_window=window)
        for window in (100, 5)
    )
    assert _switched_off(whole) == 11 and _switched_off(short) is None
    told = [e["message"] for e in short.events if e["kind"] == "safe_optimizations"]
    assert told == ["lever is stable: 5 steps without trouble"]


@pytest.mark.covers("KRN-04: --experimental_loss_spike_threshold 2.0")
@shows("experimental_loss_spike_threshold")
def how_large_a_loss(runs: Runs) -> None:
    """What is no spike is no trouble."""
    usual, high = (
        _harmed(runs, (6, 7, 8), experimental_loss_spike_threshold=factor)
        for factor in (2.0, 1e6)
    )
    assert _switched_off(usual) == 9 and _switched_off(high) is None


@pytest.mark.covers("KRN-04: --experimental_throughput_drop_threshold 0.5")
@shows("experimental_throughput_drop_threshold")
def how_slow_a_step(runs: Runs) -> None:
    """The share of the usual speed that is trouble; time stands in the rows."""
    from lumina.train.recorder import Recorder

    agreed = Recorder._agreed
    seconds = iter([])

    def told(scalars: Any) -> Any:
        return agreed(scalars) | {"agreed_step_seconds": next(seconds)}

    runs.monkeypatch.setattr(Recorder, "_agreed", staticmethod(told))
    found = []
    for share in (0.5, 0.05):
        seconds = iter([1.0] * 11 + [3.0] * 9 + [1.0] * 4)
        asked = {"experimental_throughput_drop_threshold": share}
        run = _harmed(runs, (), steps=24, experimental_safety_window=15, **asked)
        found.append(_switched_off(run))
    assert found == [21, None], "three times three slow steps in a window"


@pytest.mark.covers(
    "KRN-04: --experimental_skip_pretest",
    "KRN-01: pretests each optimisation before training",
)
@shows("experimental_skip_pretest")
def what_is_tried_beforehand(runs: Runs) -> None:
    """A lever that is not proven is left out, unless pretests are skipped."""

    def verdicts(plan: Any, machine: Any, **more: Any) -> dict[str, Verdict]:
        return {"lever": Verdict("lever", False, ("it is 0.9x as fast",), 1.0)}

    runs.monkeypatch.setattr(module, "pretest_levers", verdicts)
    proven, skipped = (
        _harmed(
            runs,
            (2, 3, 4),
            steps=4,
            safe_optimizations="prove",
            experimental_skip_pretest=skip,
        )
        for skip in (False, True)
    )
    # Without the lever nothing is harmed.
    assert proven.column("loss")[2] < skipped.column("loss")[2] / 2
    said = "left out, since it is not proven: it is 0.9x as fast"
    assert said in " ".join(proven.printed.split())
    assert said not in " ".join(skipped.printed.split())
