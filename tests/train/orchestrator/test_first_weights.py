"""First weights that are too small, found in the first step and made wider."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from lumina import Trainer
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train.controls import control_named
from lumina.train.health.checks.narrow_first_weights import NarrowFirstWeights
from option_effects.adaptive import decisions
from programs import tiny_plan
from tiny_runs import Run, Runs

STILL = {"learning_rate": 1e-12, "weight_decay": 0.0, "steps": 3}
NARROW = {"init_std": 0.002, "steps": 12, "save_every_n_batches": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """For all tests of this file, so that they share runs."""
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("runs"), patch)


def asked(runs: Runs, at: int, value: float, **options: object) -> Run:
    """A run in which the spread is asked for after a step."""

    def on_step(trainer: Trainer, row: dict) -> None:
        if row["step"] == at:
            trainer._request("init_std", value, "a test")

    return Run(Trainer(runs.config(**options), on_step=on_step).train(), "")


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_scaled_weights_are_those_of_a_run_that_began_so(runs: Runs, kind: str) -> None:
    """Every tensor, those of routers and of outputs of blocks among them."""
    shape: dict[str, object] = {"tie_embeddings": False}
    if kind == "experts":
        shape |= {"use_moe": True, "num_experts": 4, "moe_top_k": 2}
    narrow = asked(runs, 1, 0.5, **STILL, **shape, init_std=0.002)
    wide = runs.train(**STILL, **shape, init_std=0.5)
    first, _, last = narrow.column("loss")  # a row is known a step later
    assert last == pytest.approx(wide.column("loss")[-1], rel=1e-5)
    assert abs(first - wide.column("loss")[0]) > 0.05


def test_a_run_is_mended_in_its_first_step_and_goes_on_so(runs: Runs) -> None:
    mended = runs.train(**NARROW, adaptive="on", adaptive_cooldown_steps=4)
    (one,) = [d for d in decisions(mended) if d["action"] == "wider_first_weights"]
    assert (one["anomaly"], one["old"], one["new"]) == (
        "narrow_first_weights", 0.002, 0.02,
    )  # fmt: skip
    assert one["step"] == 1
    with open_checkpoint(latest_good(mended.folder)) as reader:
        assert reader.meta.spec["init_std"] == 0.02
    more = NARROW | {"steps": 14}
    again = runs.train(**more, adaptive="on", run_dir=None, resume=str(mended.folder))
    plan = json.loads((again.folder / "plan.json").read_text())
    assert plan["spec"]["init_std"] == 0.02
    assert len([d for d in decisions(again) if d["anomaly"] == one["anomaly"]]) == 1


def test_moments_begin_anew_with_other_first_weights(runs: Runs) -> None:
    """One step later they are those of one gradient, of the weights that there are."""
    run = asked(runs, 1, 0.02, init_std=0.002, steps=3)
    assert [e["step"] for e in run.events if e["kind"] == "control"] == [2]
    means, squares = run.slot("exp_avg"), run.slot("exp_avg_sq")
    for name, mean in means.items():
        torch.testing.assert_close(squares[name], 0.05 * (mean / 0.1) ** 2)


def test_weights_that_have_learned_are_left_alone(runs: Runs) -> None:
    late = asked(runs, 11, 0.02, **NARROW | {"steps": 14})
    with open_checkpoint(latest_good(late.folder)) as reader:
        assert reader.meta.spec["init_std"] == 0.002
    (change,) = [e["data"] for e in late.events if e["kind"] == "control"]
    assert change["outcome"].startswith("refused: E002 after 12 steps")


def test_what_is_trained_in_part_has_no_first_weights() -> None:
    control = control_named("init_std")
    control.check_plan(tiny_plan())
    with pytest.raises(LuminaError, match="learned already"):
        control.check_plan(tiny_plan(freeze=("embedding",)))
    assert not control.makes_sense(0.0) and not control.makes_sense(1.5)


@pytest.mark.parametrize(
    ("spread", "loss", "optimizer", "wanted"),
    [
        (0.002, 1.0, "adamw", True),
        (0.02, 1.0, "adamw", False),
        (0.002, 0.7, "adamw", False),
        (0.002, 1.0, "sgd", False),
        (0.013, 1.0, "adamw", False),
    ],
)
def test_only_small_weights_that_know_nothing_are_told_of(
    spread: float, loss: float, optimizer: str, wanted: bool
) -> None:
    spec = replace(tiny_plan().spec, init_std=spread)
    plan = tiny_plan(optimizer=optimizer, spec=spec)
    knows_nothing = math.log(plan.spec.vocab_size)
    check = NarrowFirstWeights(plan)
    row = {"step": 1, "loss": loss * knows_nothing, "grad_norm": 1.0}
    alarm = check.see(row)
    assert (alarm is not None) is wanted
    assert check.see(row | {"step": 2}) is None, "once"
    if alarm is not None:
        assert alarm.confidence > 0.9 and "0.002" in alarm.text


def test_weights_that_were_made_wider_are_not_told_of() -> None:
    """The Plan still says how narrow they were."""
    plan = tiny_plan(spec=replace(tiny_plan().spec, init_std=0.002))
    row = {"step": 1, "loss": math.log(plan.spec.vocab_size), "grad_norm": 1.0}
    for control, told in (("dropout", True), ("init_std", False)):
        check = NarrowFirstWeights(plan)
        check.changed(control, 0.02)
        assert (check.see(row) is not None) is told
