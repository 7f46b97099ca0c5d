"""What is found of a cell, from runs whose numbers are made up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.features import Seen
from lumina.features.measured import ABSENT, VERIFIED
from lumina.state.tensor_file import write_tensors
from lumina.train.matrix.cell import Cell, trial_of
from lumina.train.matrix.judge import DIFFERS, FAILED, REFUSED, judge
from lumina.train.matrix.process import Trained

FULL = Cell(("gradient_checkpointing_full",))
AGAIN = "lumina.assemble.checkpointing:to_compute_again"
WINDOW = Cell(("sliding_window",))


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Makes what a run leaves; the gradients of all have one seed."""
    count = iter(range(100))

    def make(passes: int = 4, scale: float = 1.0, **changes: Any) -> Trained:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        draw = torch.Generator().manual_seed(1)
        gradients = {
            name: scale * torch.randn(3, 4, generator=draw) for name in ("one", "two")
        }
        write_tensors(folder / "gradients.safetensors", gradients)
        found = {
            "losses": [5.0, *[3.0] * 59], "evaluated": [3.0], "skipped": 0,
            "step_seconds": [0.5] * 60, "memory": 1000, "held": {"model": 10},
            "features": [], "columns": [], "tensors": [], "figures": {},
            "idle": {}, "calls": {AGAIN: passes - 4},
            "passes": {"attention_norm": passes, "feedforward_norm": passes},
        }  # fmt: skip
        return Trained({**found, **changes}, folder)

    return make


def full(made: Any, **changes: Any) -> Trained:
    run: Trained = made(
        **{"passes": 8, "features": ["gradient_checkpointing_full"], **changes}
    )
    return run


def test_equal_numbers_of_a_feature_that_acted_are_verified(made: Any) -> None:
    found = judge(FULL, full(made), made(), {})
    assert found.status == VERIFIED and not found.why
    assert found.live == {"gradient_checkpointing_full": "plan, calls, computed again"}
    assert found.figures is not None
    assert found.figures["gradient_error"] == 0 == found.figures["first_loss_error"]
    assert found.figures["gradient_slope"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 1.01}, "gradients of the first step: 1.00e-02 off"),
        ({"losses": [5.1, *[3.0] * 59]}, "the first loss: 2.00e-02 off"),
        ({"losses": [5.0, *[3.0] * 49, *[3.1] * 10]}, "mean loss of the last 10"),
        ({"losses": [float("nan"), *[3.0] * 59]}, "the first loss"),
        ({"passes": 4}, f"{AGAIN} ran 0 times, without it 0"),
        (
            {"passes": 4, "calls": {AGAIN: 4}},
            "attention_norm ran 4 times, without it 4",
        ),
        # Chunks and tiles repeat the norms of a block by themselves.
        ({"calls": {}}, f"{AGAIN} ran 0 times, without it 0"),
        ({"features": []}, "is not in the run's plan"),
    ],
)
def test_what_is_wrong_is_said(made: Any, changes: dict[str, Any], words: str) -> None:
    found = judge(FULL, full(made, **changes), made(), {})
    assert found.status == DIFFERS
    assert words in found.why


@pytest.mark.parametrize(("other", "status"), [("same", VERIFIED), ("no", DIFFERS)])
def test_processes_have_to_end_alike(made: Any, other: str, status: str) -> None:
    run = full(made, sent={"collectives": 2.0})
    for rank, text in enumerate(("same", other)):
        (run.folder / f"states.{rank}").write_text(text)
    found = judge(FULL, run, made(), {})
    assert found.status == status and found.figures is not None
    assert found.figures["states_agree"] == (status == VERIFIED)
    assert found.figures["collectives"] == 2
    words = "the processes ended with different weights or moments"
    assert (found.why == words) == (status == DIFFERS)


def test_copies_that_learn_apart_are_compared_with_copies_that_do(made: Any) -> None:
    """One process alone is no reference for them, and neither set ends alike."""
    apart = Cell(("independent", "gradient_checkpointing_full"))
    assert (apart.reference_ranks, FULL.reference_ranks) == (2, 1)
    assert Cell(("independent", "qk_norm")).reference_ranks == 2
    assert Cell(("ddp",)).reference_ranks == 1  # its processes are one training
    assert apart.without("independent").reference_ranks == 1
    features = list(apart.features)
    run = full(made, features=features, figures={"ranks": 2}, sent={})
    beside = made(features=["independent"], figures={"ranks": 2})
    for one in (run, beside):
        for rank in range(2):
            (one.folder / f"states.{rank}").write_text(str(rank))
    found = judge(apart, run, beside, {})
    assert found.status == VERIFIED, found.why
    assert judge(apart, run, made(), {}).status == DIFFERS


def test_blocks_of_ones_own_are_computed_again_by_all_their_modules() -> None:
    once, again = {"norm": 4, "attention": 4}, {"norm": 8, "attention": 8}
    trial = trial_of("gradient_checkpointing_full")
    called = {AGAIN: 4}
    run, reference = Seen(passes=again, calls=called), Seen(passes=once)
    assert trial.missing(run, reference) is None
    run = Seen(passes=once, calls=called)
    assert "ran 8 modules" in str(trial.missing(run, reference))


def test_gradients_of_other_parameters_differ(made: Any) -> None:
    run = full(made)
    write_tensors(run.folder / "gradients.safetensors", {"one": torch.ones(2)})
    found = judge(FULL, run, made(), {})
    assert found.status == DIFFERS and "gradients" in found.why


def test_a_change_of_the_model_has_to_change_something(made: Any) -> None:
    """Its reference has it, too; the one without it has to be another run."""
    run = made(features=["sliding_window"])
    other = made(losses=[5.5, *[3.5] * 59])
    found = judge(WINDOW, run, made(features=["sliding_window"]), {WINDOW.label: other})
    assert found.status == VERIFIED
    found = judge(WINDOW, run, made(), {"sliding_window": made()})
    assert (found.status, found.why) == (
        DIFFERS, "sliding_window: the run without it is the same",
    )  # fmt: skip


def test_a_reference_that_has_what_is_tried_shows_nothing(made: Any) -> None:
    reference = made(features=["gradient_checkpointing_full"])
    found = judge(FULL, full(made), reference, {})
    assert found.status == DIFFERS and "the reference has" in found.why


@pytest.mark.parametrize(
    ("code", "status"), [("E002", REFUSED), ("E301", FAILED), ("", FAILED)]
)
def test_errors_keep_their_code(made: Any, code: str, status: str) -> None:
    told = {"error": {"code": code, "message": "no", "hint": ""}}
    broken = Trained(told, Path())
    found = judge(FULL, broken, made(), {})
    assert (found.status, found.code, found.why) == (status, code, "no")
    found = judge(FULL, full(made), broken, {})
    assert found.status == FAILED and "the reference did not train" in found.why


def test_bounds_of_several_features_add_up() -> None:
    alone = [Cell((name,)).tolerance for name in ("bf16", "adamw_8bit")]
    both = Cell(("bf16", "adamw_8bit")).tolerance
    own = [trial_of(name).tolerance for name in ("bf16", "adamw_8bit")]
    assert both.learned == pytest.approx(own[0].learned + alone[1].learned)
    assert both.gradients == alone[0].gradients
    assert dataclasses.astuple(WINDOW.tolerance) < dataclasses.astuple(both)


def test_other_draws_are_allowed_other_numbers() -> None:
    """Each process draws its own; nothing else is allowed more for it."""
    cells = {names: Cell(names).tolerance.gradients for names in (
        ("dropout",), ("ddp",), ("dropout", "ddp"), ("dropout", "chunked_training"),
        ("dropout", "gradient_checkpointing_full"),
    )}  # fmt: skip
    wide = {names for names, allowed in cells.items() if allowed > 0.01}
    assert wide == {("dropout", "ddp"), ("dropout", "chunked_training")}


def test_a_reasoner_does_not_draw_where_a_feature_draws_otherwise() -> None:
    """It ends no segment later at random, in both runs, and is held to rounding."""
    for reasoner in ("hierarchical_reasoning", "puzzles"):
        alone, divided = Cell((reasoner,)), Cell((reasoner, "fsdp2"))
        assert "halt_exploration" not in alone.leaves | alone.reference
        assert divided.leaves["halt_exploration"] == 0.0
        assert divided.reference["halt_exploration"] == 0.0
        assert divided.tolerance == alone.tolerance
    asked = Cell(("hierarchical_reasoning", "ddp"), {"halt_exploration": 0.5})
    assert asked.leaves["halt_exploration"] == 0.5
    assert asked.tolerance.gradients > 0.1
    assert "halt_exploration" not in Cell(("qk_norm", "ddp")).leaves


def test_the_reference_has_what_changes_numbers_and_nothing_else() -> None:
    cell = Cell(("sliding_window", "bf16"), {"seed": 5})
    assert cell.leaves["window_size"] == 16 == cell.reference["window_size"]
    assert cell.leaves["precision"] == "mixed_bf16"
    assert cell.reference["precision"] == "fp32"
    assert cell.reference["attention"] == "reference"
    assert cell.reference["seed"] == 5
    assert "window_size" not in cell.without("sliding_window").reference


def test_a_feature_with_nothing_to_do_leaves_its_cell_untested(made: Any) -> None:
    run = full(made, idle={"gradient_checkpointing_full": "no block is computed again"})
    found = judge(FULL, run, made(), {})
    assert found.status == ABSENT
    assert found.why == "gradient_checkpointing_full: no block is computed again"
    assert not found.figures
