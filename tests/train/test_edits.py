"""Which resets of a run still hold where it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.train.edits import EDITS_NAME, Edit, edits_at, read_edits, write_edits

HELD = (
    Edit(2, "optimizer", 1.0),
    Edit(4, "scheduler", 2.0),
    Edit(4, "metrics", 2.0),
    Edit(6, "optimizer", 3.0),
)


@pytest.mark.parametrize(
    ("step", "asked", "kept"),
    [
        (1, {}, []),
        (2, {}, [(2, "optimizer")]),
        (4, {}, [(2, "optimizer"), (4, "scheduler"), (4, "metrics")]),
        (4, {"reset_scheduler": False}, [(2, "optimizer"), (4, "metrics")]),
        (5, {"reset_scheduler": False},
         [(2, "optimizer"), (4, "scheduler"), (4, "metrics")]),
        (5, {"reset_optimizer": True},
         [(2, "optimizer"), (4, "scheduler"), (4, "metrics"), (5, "optimizer")]),
    ],
)  # fmt: skip
def test_a_reset_holds_from_its_step_on(
    step: int, asked: dict[str, bool], kept: list[tuple[int, str]], tmp_path: Path
) -> None:
    write_edits(tmp_path, HELD)
    assert read_edits(tmp_path) == HELD
    told: list[tuple[object, ...]] = []
    config = Config(resume=str(tmp_path), **asked)
    found = edits_at(tmp_path, step, config, lambda *event: told.append(event))
    assert [(edit.step, edit.part) for edit in found] == kept
    assert len(told) == sum(edit.step > step for edit in HELD)


@pytest.mark.parametrize("text", ["{", '[{"step": 1}]', '[{"step": 1, "part": "x"}]'])
def test_a_damaged_record_is_not_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / EDITS_NAME).write_text(text)
    with pytest.raises(LuminaError) as caught:
        read_edits(tmp_path)
    assert caught.value.code == "E303"


def test_a_run_that_was_never_edited_has_no_record(tmp_path: Path) -> None:
    write_edits(tmp_path, ())
    assert list(tmp_path.iterdir()) == [] and read_edits(tmp_path) == ()
