"""What a checkpoint holds, which stay, and what a resume does without the rest."""

from __future__ import annotations

import itertools

import pytest
from torch import Tensor

from lumina.state.reader import open_checkpoint
from option_effects import shows
from tiny_runs import Run, Runs

_BASE = {"steps": 2, "eval_fraction": 0.0}


def _told(run: Run) -> list[str]:
    return [e["message"] for e in run.events if e["kind"] == "begins_anew"]


def _extra(run: Run) -> dict[str, object]:
    with open_checkpoint(run.folder / "checkpoints" / run.checkpoints[-1]) as reader:
        return dict(reader.meta.extra) | {"skipped": reader.meta.counters["skipped"]}


def _moments(run: Run) -> dict[str, Tensor]:
    return run.slot("exp_avg")


@pytest.mark.covers("CKP-03: save_optimizer_states")
@shows("save_optimizer_states")
def without_states(runs: Runs) -> None:
    whole, small = runs.both("save_optimizer_states", True, False, **_BASE)
    assert whole.tensors.keys() == small.tensors.keys()
    assert _moments(whole) and not _moments(small)
    assert any(key.startswith("optimizer") for key in _extra(whole))
    assert not any(key.startswith("optimizer") for key in _extra(small))
    size = [
        sum(f.stat().st_size for f in (r.folder / "checkpoints").rglob("*"))
        for r in (whole, small)
    ]
    assert size[1] < 0.6 * size[0]
    place = {"run_dir": str(small.folder), "auto_resume": True}
    more = runs.train(**(_BASE | place | {"steps": 3, "save_optimizer_states": True}))
    assert _moments(more)
    assert len(_told(more)) == 1 and "optimizer's states" in _told(more)[0]


@pytest.mark.covers(
    "CKP-03: save_training_metrics",
    "CKP-03: save_scheduler_states",
    "CKP-03: save_adaptive_state",
)
@shows("save_training_metrics", "save_scheduler_states", "save_adaptive_state")
def memories(runs: Runs) -> None:
    judged = {"steps": 2, "eval_every_n_batches": 2}
    off = dict.fromkeys(
        ("save_training_metrics", "save_scheduler_states", "save_adaptive_state"), False
    )
    whole, small = runs.train(**judged), runs.train(**judged, **off)
    one, other = _extra(whole), _extra(small)
    assert one["best_step"] == 2 and other["best_step"] is None
    assert "learning_rate_scale" in one["live"]
    assert "learning_rate_scale" not in other["live"]
    assert one["rules"] and not other["rules"]
    place = {"run_dir": str(small.folder), "auto_resume": True}
    more = runs.train(**(judged | place | {"steps": 4}))
    for words in ("best evaluation", "learning rate", "rules"):
        assert words in _told(more)[0]


@pytest.mark.covers("CKP-06: --track-best-model", "CKP-05: keep_best_only")
@shows("track_best_model", "keep_best_only")
def best_only(runs: Runs) -> None:
    judged = {
        "steps": 4,
        "eval_every_n_batches": 2,
        "save_every_n_batches": 1,
        "save_total_limit": 9,
        "best_is": "highest",  # the first, for the loss falls
    }
    usual = runs.train(**judged)
    untracked = runs.train(**judged, track_best_model=False)
    alone = runs.train(**judged, keep_best_only=True)
    assert (usual.folder / "checkpoints" / "BEST").exists()
    assert not (untracked.folder / "checkpoints" / "BEST").exists()
    assert untracked.checkpoints == usual.checkpoints
    assert alone.checkpoints == ["step-00000002", "step-00000004"]


@pytest.mark.covers("CKP-05: smart pruning")
@shows("checkpoint_pruning")
def spread(runs: Runs) -> None:
    """Of six checkpoints three stay, and the older they are, the farther apart."""
    base = {"steps": 6, "save_every_n_batches": 1, "save_total_limit": 3}
    newest, some = runs.both(
        "checkpoint_pruning", "newest", "spread", **base, eval_fraction=0.0
    )
    assert newest.checkpoints == [f"step-{n:08d}" for n in (4, 5, 6)]
    steps = [int(name[-8:]) for name in some.checkpoints]
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert len(steps) == 3 and steps[0] == 1 and steps[-1] == 6
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > gaps[-1], steps
