"""What the benchmark of adaptive training does to a run, apart from a run."""

from __future__ import annotations

import json

import pytest
import torch

from lumina.measure.adaptive.log import read_log
from lumina.optim.gate import judge
from lumina.train.adaptive_bench.injector import Injection, SkipStep


def injection(folder, *faults):
    given = {"log": str(folder / "log"), "checkpoints": "", "faults": list(faults)}
    (folder / "injection.json").write_text(json.dumps(given))
    return Injection(folder / "injection.json")


def steps_of(found, steps):
    happened = []
    for step in steps:
        found.step = step
        happened += [step] * len(found.due())
    return happened


def test_a_fault_lasts_its_steps_and_does_not_come_again(tmp_path):
    found = injection(tmp_path, {"kind": "gradient_factor", "step": 5, "steps": 3})
    assert steps_of(found, range(12)) == [5, 6, 7]
    assert steps_of(found, range(4, 12)) == []  # the steps are done again
    again = Injection(tmp_path / "injection.json")  # in another process
    assert steps_of(again, range(12)) == []
    lines = read_log(tmp_path / "log")
    assert [(line["step"], line["name"]) for line in lines] == [
        (step, "gradient_factor") for step in (5, 6, 7)
    ]


def test_a_death_comes_as_often_as_it_is_said(tmp_path):
    found = injection(tmp_path, {"kind": "sigkill", "step": 5, "times": 2})
    assert steps_of(found, range(8)) == [5]
    again = Injection(tmp_path / "injection.json")
    assert steps_of(again, range(4, 8)) == [5]
    assert steps_of(Injection(tmp_path / "injection.json"), range(8)) == []


def test_spoilt_text_is_noted_and_never_due(tmp_path):
    found = injection(tmp_path, {"kind": "noise", "step": 5, "steps": 3})
    assert steps_of(found, range(12)) == []
    found.saw_text()
    assert [line["name"] for line in read_log(tmp_path / "log")] == ["noise"]


@pytest.mark.parametrize(("norm", "left_out"), [(1.05, False), (1.5, True)])
def test_a_step_that_stands_out_is_left_out(norm, left_out):
    options = {"deviations": 6.0, "window": 16, "first": 8}
    step = SkipStep([], {}, options, device=torch.device("cpu"))
    one = torch.ones(())

    def taken(size):
        verdict = judge([torch.tensor([size])], loss_scale=one, max_norm=0 * one)
        step.judge(verdict, one)
        return verdict.divisor.item()

    for number in range(20):
        assert taken(1.0 + 0.02 * (number % 4)) == 1.0
    assert (taken(norm) == float("inf")) == left_out
    assert (norm in step.norms) != left_out
    assert taken(float("nan")) == 1.0
    assert step.norms.isfinite().all()
