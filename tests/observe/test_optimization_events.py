"""What happens to optimisations reaches TensorBoard's and W&B's files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from levers_on_trial import TIME_ASIDE, harming, large_loss, lever
from tiny_runs import Run, Runs
from training import wait_until
from wandb_files import wandb_records


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    with lever():
        yield Runs(tmp_path, monkeypatch)


def harmed(runs: Runs, tracker: str) -> Run:
    """A run whose lever brings three large losses and is switched off."""
    return runs.train(
        harming(large_loss, (6, 7, 8)),
        features=("lever",),
        trackers=(tracker,),
        wandb_mode="offline",
        steps=12,
        **TIME_ASIDE,
    )


@pytest.mark.covers("KRN-21: TensorBoard")
def test_tensorboard_shows_troubles_and_switches(runs: Runs) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = harmed(runs, "tensorboard")
    shown = EventAccumulator(str(run.folder / "tensorboard"))
    shown.Reload()
    texts: dict[str, list[str]] = {}
    for kind in ("safe_optimizations", "control"):
        found = shown.Tensors(f"events/{kind}/text_summary")
        texts[kind] = [one.tensor_proto.string_val[0].decode() for one in found]
    assert len(texts["safe_optimizations"]) == 3
    assert all("lever is on trial" in one for one in texts["safe_optimizations"])
    assert any(("lever" in one and "off" in one.lower()) or "False" in one
               for one in texts["control"])  # fmt: skip


@pytest.mark.thorough
@pytest.mark.covers("KRN-21: W&B")
def test_wandb_has_troubles_and_switches_offline(runs: Runs) -> None:
    pytest.importorskip("wandb")
    run = harmed(runs, "wandb")
    assert wait_until(
        lambda: any(r.HasField("exit") for r in wandb_records(run.folder))
    )
    rows: list[dict[str, Any]] = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in wandb_records(run.folder)
        if record.HasField("history")
    ]
    troubles = [x for row in rows if (x := row.get("events/safe_optimizations"))]
    assert len(troubles) == 3 and all("lever is on trial" in x for x in troubles)
    switches = [x for row in rows if (x := row.get("events/control"))]
    assert any("lever" in x for x in switches)
