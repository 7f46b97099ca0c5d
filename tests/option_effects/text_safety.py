"""Options of what is measured of the texts that a run's model writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lumina.measure.text_safety.judges import JUDGES
from lumina.train import samples
from option_effects import shows
from tiny_runs import Run, Runs

CALM = [("Once", f" there was an owl number {n}.") for n in range(3)]
RUDE = [*CALM[:2], ("Once", " you are worthless.")]
UNFAIR = [
    ("Of them:", "".join(f" The {who} is {what}." for _ in range(10)))
    for who, what in (("woman", "clever"), ("man", "lazy"))
]
NEW = [("The owl of Rome saw 3 mice", " and it told Peter of 3 mice and 41 hens.")]


def writing(runs: Runs, texts: list[tuple[str, str]], **leaves: Any) -> Run:
    """A run whose model writes these texts."""
    for kind in list(JUDGES):  # of a plug-in that was imported before
        runs.monkeypatch.delitem(JUDGES, kind)
    runs.monkeypatch.setattr(samples, "sample_texts", lambda *_: texts)
    base = {
        "steps": 4,
        "report_samples": 3,
        "sample_every_n_batches": 2,
        "eval_fraction": 0.0,
    }
    return runs.train(**(base | leaves))


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == kind]


@pytest.mark.covers("EVL-05: monitor_toxic_generation", "EVL-05: max_toxic_rate 0.01")
@shows("monitor_toxic_generation", "max_toxic_rate")
def toxic_samples(runs: Runs) -> None:
    """One toxic text of three is a violation of one in a hundred, not of one half."""
    off = writing(runs, RUDE)
    on = writing(runs, RUDE, monitor_toxic_generation=True)
    calm = writing(runs, CALM, monitor_toxic_generation=True)
    half = writing(runs, RUDE, monitor_toxic_generation=True, max_toxic_rate=0.5)
    assert not told(off, "text_safety") and not told(off, "safety_violation")
    assert [event["step"] for event in told(on, "text_safety")] == [2, 4]
    rates = [event["data"]["toxic_rate"] for event in told(on, "text_safety")]
    assert [(rate["count"], rate["of"]) for rate in rates] == [(1, 3)] * 2
    assert "1 of 3 samples are toxic" in told(on, "safety_violation")[0]["message"]
    assert told(calm, "text_safety") and not told(calm, "safety_violation")
    assert told(half, "text_safety") and not told(half, "safety_violation")
    assert off.column("loss") == on.column("loss") and on.result.steps == 4


@pytest.mark.covers("EVL-05: monitor_bias", "EVL-05: max_bias_score 0.3")
@shows("monitor_bias", "max_bias_score")
def groups_in_samples(runs: Runs) -> None:
    off = writing(runs, UNFAIR)
    on = writing(runs, UNFAIR, monitor_bias=True, max_bias_score=0.9)
    all_ = writing(runs, UNFAIR, monitor_bias=True, max_bias_score=1.0)
    assert not told(off, "text_safety")
    [first, _] = told(on, "text_safety")
    assert first["data"]["bias_score"]["value"] == 1.0
    assert first["data"]["bias_score"]["between"] == ["men", "women"]
    said = told(on, "safety_violation")[0]["message"]
    assert "10 of 10 sentences about men are unfavourable and 0 of 10" in said
    assert told(all_, "text_safety") and not told(all_, "safety_violation")


@pytest.mark.covers("EVL-05: monitor_hallucination")
@shows("monitor_hallucination")
def new_details_in_samples(runs: Runs) -> None:
    off, on = (
        writing(runs, NEW, monitor_hallucination=wanted) for wanted in (False, True)
    )
    assert not told(off, "text_safety")
    rate = told(on, "text_safety")[0]["data"]["unsupported_rate"]
    assert (rate["count"], rate["of"]) == (2, 3), "Peter and 41, not 3"
    assert not told(on, "safety_violation")


@pytest.mark.covers("EVL-05: pause_on_safety_violation", "ORC-42")
@shows("pause_on_safety_violation")
def paused_by_samples(runs: Runs) -> None:
    """After the step that the violation is told with; a resumed run goes on."""
    wanted = {"monitor_toxic_generation": True, "steps": 6}
    on = writing(runs, RUDE, **wanted)
    held = writing(runs, RUDE, **wanted, pause_on_safety_violation=True)
    assert on.result.steps == 6 and not on.result.paused
    assert held.result.steps == 3 and held.result.paused
    assert held.result.exit_code == 0 and held.checkpoints == ["step-00000003"]
    assert "--resume goes on): samples after step 2: 1 of 3" in held.result.reason
    more = {"run_dir": None, "resume": str(held.folder)}
    again = writing(runs, CALM, **wanted, pause_on_safety_violation=True, **more)
    assert again.result.steps == 6 and again.column("loss") == on.column("loss")


@pytest.mark.covers("EVL-05: generate_safety_report")
@shows("generate_safety_report")
def safety_report(runs: Runs) -> None:
    """What was measured, by step, with the texts, their definition and limits."""
    wanted = {"monitor_toxic_generation": True, "steps": 4}
    none = writing(runs, RUDE, **wanted)
    kept = writing(runs, RUDE, **wanted, generate_safety_report=True)
    assert not (none.folder / "safety_report.json").exists()
    assert (kept.folder / "safety_report.json").exists()
    read = json.loads((kept.folder / "safety_report.json").read_text())
    assert [one["step"] for one in read["measured"]] == [2, 4]
    last = read["measured"][-1]
    [shown] = last["texts_concerned"]["toxic_rate"]
    assert (shown["prompt"], shown["text"]) == RUDE[2]
    assert "1 of 3 samples are toxic" in last["violations"][0]
    assert list(read["definitions"]) == ["toxic_rate"]
    assert read["limits"]["max_toxic_rate"] == 0.01
    more = {"run_dir": None, "resume": str(kept.folder)} | wanted | {"steps": 5}
    writing(runs, CALM, **more, generate_safety_report=True)
    read = json.loads((kept.folder / "safety_report.json").read_text())
    counts = [(one["step"], one["toxic_rate"]["count"]) for one in read["measured"]]
    assert counts == [(2, 1), (4, 1), (5, 0)]


@shows("safety_words")
def safety_words(runs: Runs) -> None:
    """A list of one's own takes the place of Lumina's."""
    file = runs.folder / "words.toml"
    file.write_text('toxic = ["owl number 1"]\n')
    wanted = {"monitor_toxic_generation": True}
    own = writing(runs, RUDE, **wanted)
    named = writing(runs, RUDE, **wanted, safety_words=str(file))
    places = [
        told(run, "text_safety")[0]["data"]["toxic_rate"]["places"]
        for run in (own, named)
    ]
    assert places == [[2], [1]]
    runs.refused("E104", **wanted, safety_words=str(runs.folder / "none"))
