"""Snapshots that are copied beside steps on a GPU, and tests of the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina import Config, Trainer
from training import events, rows, whole_lines

pytestmark = pytest.mark.gpu

SHOWN = ("step", "tokens", "loss", "grad_norm", "learning_rate", "epoch", "skipped")


def shown(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.get(key) for key in SHOWN) for row in found]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_run_goes_back_to_a_snapshot(
    tiny_config: Config, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, and a run that is resumed from what it wrote goes on as it does."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    config = tiny_config.replace(
        device="cuda",
        precision=precision,
        deterministic=True,
        steps=16,
        snapshot_every=2,
        known_good_after=50,
        robust_clip=True,
        repeat_check_every=5,
        preflight=True,
        save_total_limit=9,
    )
    asked = []

    def on_step(trainer: Trainer, row: dict[str, Any]) -> None:
        if row["step"] == 9 and not asked:
            value = {"steps": 5, "skip_data": False}
            asked.append(trainer.controls.request("rollback", value, "it went wrong"))

    run = Trainer(config, on_step=on_step).train().run_dir
    undone = whole_lines(run / "undone" / "1" / "metrics.jsonl")
    told = events(run, "rolled_back")[0]
    assert (
        told["data"]["target"] == "snapshot" and told["step"] == undone[0]["step"] - 1
    )
    assert not events(run, "silent_corruption") and events(run, "preflight")
    found = rows(run)
    begin = told["step"]
    assert shown(found[begin : begin + len(undone)]) == shown(undone)
    whole = shown(found)
    there = Path(run) / "checkpoints" / f"step-{begin:08d}"
    Trainer(config.replace(resume=str(there), run_dir=None)).train()
    assert shown(rows(run)) == whole
