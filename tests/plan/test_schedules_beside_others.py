"""Every schedule beside the one that torch or transformers has of it, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.plan.plan import Plan
from lumina.plan.schedule import learning_rate_at
from lumina.plan.schedule_table import SCHEDULES
from machines import plan_for
from programs import tiny_plan

STEPS, WARMUP, PEAK = 60, 12, 0.02


def ours(**changes: Any) -> list[float]:
    values: dict[str, Any] = {
        "steps": STEPS,
        "warmup_steps": WARMUP,
        "learning_rate": PEAK,
        "min_lr": 0.0,
        "decay_steps": 0,
    }
    plan = tiny_plan(**(values | changes))
    return [learning_rate_at(plan, step) for step in range(plan.steps)]


def rates_of(make: Any, first: int = 0) -> list[float]:
    """Those of a scheduler of torch, from a number of its steps on."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    scheduler = make(optimizer)
    found = []
    for _ in range(STEPS + first):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found[first:]


@pytest.mark.covers("TRN-03: onecycle", "TRN-04: one-cycle policy")
@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_is_torchs(anneal: str, three_phase: bool) -> None:
    found = ours(
        lr_scheduler="onecycle",
        min_lr=PEAK / 25 / 1e4,
        lr_scheduler_options={"anneal": anneal, "three_phase": three_phase},
    )
    wanted = rates_of(
        lambda optimizer: theirs.OneCycleLR(
            optimizer,
            PEAK,
            total_steps=STEPS,
            pct_start=WARMUP / STEPS,
            anneal_strategy=anneal,
            three_phase=three_phase,
            cycle_momentum=False,
        )
    )
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.covers("TRN-04: polynomial decay")
@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_polynomial_is_torchs(power: float) -> None:
    """Torch counts the step before the first as the one at the peak."""
    found = ours(
        lr_scheduler="polynomial",
        warmup_steps=0,
        lr_scheduler_options={"power": power},
    )
    wanted = rates_of(
        lambda optimizer: theirs.PolynomialLR(optimizer, STEPS, power), first=1
    )
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.covers("TRN-03: cosine", "TRN-03: linear")
def test_cosine_and_linear_are_torchs() -> None:
    cosine = ours(lr_scheduler="cosine", warmup_steps=0, min_lr=0.003)
    assert cosine == pytest.approx(
        rates_of(lambda o: theirs.CosineAnnealingLR(o, STEPS, 0.003), first=1)
    )
    linear = ours(lr_scheduler="linear", warmup_steps=0)
    assert linear == pytest.approx(
        rates_of(lambda o: theirs.LinearLR(o, 1.0, 0.0, STEPS), first=1)
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "changes", "kwargs"),
    [
        ("polynomial", {"lr_scheduler": "polynomial", "min_lr": 1e-4,
                        "lr_scheduler_options": {"power": 2.5}},
         {"lr_end": 1e-4, "power": 2.5}),
        ("inverse_sqrt", {"lr_scheduler": "inverse_sqrt"}, {}),
        ("inverse_sqrt", {"lr_scheduler": "inverse_sqrt",
                          "lr_scheduler_options": {"timescale": 30}},
         {"timescale": 30}),
        ("warmup_stable_decay", {"lr_scheduler": "wsd", "decay_steps": 20},
         {"num_decay_steps": 20, "decay_type": "linear"}),
        ("warmup_stable_decay", {"lr_scheduler": "wsd", "decay_steps": 20,
                                 "lr_scheduler_options": {"decay": "cosine"}},
         {"num_decay_steps": 20, "decay_type": "cosine"}),
        ("warmup_stable_decay", {"lr_scheduler": "wsd", "decay_steps": 20,
                                 "lr_scheduler_options": {"decay": "root"}},
         {"num_decay_steps": 20, "decay_type": "1-sqrt"}),
        ("cosine", {"lr_scheduler": "cosine"}, {}),
        ("linear", {"lr_scheduler": "linear"}, {}),
        ("constant_with_warmup", {"lr_scheduler": "constant"}, {}),
    ],
)  # fmt: skip
def test_schedules_are_those_of_transformers(
    name: str, changes: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    """Theirs begin with a step at rate 0, which Lumina leaves out."""
    optimization = pytest.importorskip("transformers.optimization")
    wanted = rates_of(
        lambda optimizer: optimization.get_scheduler(
            name, optimizer, WARMUP, STEPS, scheduler_specific_kwargs=kwargs
        ),
        first=1,
    )
    assert ours(**changes) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_inverse_sqrt_by_hand() -> None:
    found = ours(lr_scheduler="inverse_sqrt")
    assert max(found) == found[WARMUP - 1] == PEAK
    assert found[4 * WARMUP - 1] == pytest.approx(PEAK / 2)
    longer = ours(lr_scheduler="inverse_sqrt", steps=2 * STEPS)
    assert longer[:STEPS] == found
    assert min(ours(lr_scheduler="inverse_sqrt", min_lr=PEAK / 2)[WARMUP:]) == PEAK / 2


def planned(**options: Any) -> Plan:
    return plan_for(Config(preset="debug", steps=100, **options), rows_per_epoch=10**6)


def test_a_schedule_brings_its_own_warm_up_and_floor() -> None:
    one = planned(lr_scheduler="onecycle", learning_rate=0.01)
    assert one.warmup_steps == 30 and one.min_lr == pytest.approx(0.01 / 25e4)
    assert planned(lr_scheduler="onecycle", warmup_ratio=0.2).warmup_steps == 20
    assert planned(lr_scheduler="inverse_sqrt").min_lr == 0.0
    named = planned(
        lr_scheduler="wsd", decay_steps=37, lr_scheduler_options=("decay=root",)
    )
    assert (named.decay_steps, named.lr_scheduler_options) == (37, {"decay": "root"})


@pytest.mark.covers("CFG-05: scheduler")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_scheduler": "cosine", "decay_ratio": 0.5}, "decay_ratio"),
        ({"lr_scheduler": "linear", "decay_steps": 5}, "decay_steps"),
        ({"lr_scheduler": "constant", "min_lr": 1e-5}, "min_lr"),
    ],
)
def test_what_a_schedule_does_not_read_is_said(
    options: dict[str, Any], words: str
) -> None:
    assert f"{words} is set but has no effect" in " ".join(planned(**options).warnings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr_scheduler": "cosin"}, "did you mean 'cosine'"),
        ({"lr_scheduler": "off"}, "there are constant"),
        ({"lr_scheduler_options": ("power=2",)}, "there are none"),
        ({"lr_scheduler": "polynomial", "lr_scheduler_options": ("power=0",)}, "least"),
        ({"lr_scheduler": "wsd", "lr_scheduler_options": ("decay=3",)}, "str"),
        ({"lr_scheduler": "wsd", "lr_scheduler_options": ("decay=up",)}, "root"),
    ],
)
def test_what_a_schedule_is_not_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LuminaError) as caught:
        planned(**options)
    assert caught.value.code == "E005" and words in caught.value.hint


def test_a_schedule_from_a_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "halves.py"
    own.write_text(
        "import lumina\n\n\n"
        "@lumina.register_schedule('halves', words='halves half-way')\n"
        "def rate(place):\n"
        "    return place.peak / (1 + (2 * place.done >= place.steps))\n"
    )
    load_plugins((str(own),))
    plan = planned(lr_scheduler="halves", plugins=(str(own),), learning_rate=0.02)
    assert [learning_rate_at(plan, step) for step in (0, 49, 50)] == [0.02, 0.02, 0.01]
    assert "halves" in SCHEDULES.known()
    del SCHEDULES["halves"]
