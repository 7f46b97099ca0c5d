"""Runs with adapters: what trains, what a checkpoint holds, and going on from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from lumina.state.weights import open_weights
from tiny_runs import Run, Runs

PEFT = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def whole(run: Run) -> dict[str, torch.Tensor]:
    """Every tensor of the model that a run trained, base and all."""
    weights = open_weights(run.folder)
    found = {name: weights.source.tensor(name) for name in weights.source.names()}
    weights.close()
    return found


@pytest.mark.covers(
    "MOD-38: LoRA",
    "MOD-38: save adapter alone",
    "TRN-08: adapters",
)
def test_only_adapters_train_and_are_saved_and_the_run_goes_on_to_the_bit(
    runs: Runs,
) -> None:
    base = runs.train()
    started = PEFT | {"init_from": str(base.folder)}
    straight = runs.train(steps=4, **started)
    with open_checkpoint(latest_good(straight.folder)) as held:
        assert held.names() and all(".adapters." in name for name in held.names())
        for slot in held.slots():
            assert set(held.optimizer_names(slot)) == set(held.names())
    after, before = whole(straight), whole(base)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(after[n].abs().max() > 0 for n in after if n.endswith(".b"))
    assert straight.rows[-1]["loss"] < straight.rows[0]["loss"]

    half = runs.train(steps=2, **started)
    gone_on = runs.train(resume=str(half.folder), run_dir=None, steps=4)
    assert gone_on.column("loss") == straight.column("loss")
    found = whole(gone_on)
    assert all(torch.equal(found[name], after[name]) for name in after)


@pytest.mark.thorough
def test_a_base_that_was_moved_is_named_and_another_is_refused(runs: Runs) -> None:
    base = runs.train()
    run = runs.train(steps=2, **PEFT, init_from=str(base.folder))
    again = {"resume": str(run.folder), "run_dir": None}
    moved = runs.folder / "moved"
    shutil.move(base.folder, moved)
    with pytest.raises(LuminaError, match="is not there") as lost:
        runs.train(steps=3, **again)
    assert lost.value.code == "E104" and "--peft-base" in lost.value.hint

    other = runs.train(seed=2)
    with pytest.raises(LuminaError, match="other weights") as wrong:
        runs.train(steps=3, peft_base=str(other.folder), **again)
    assert wrong.value.code == "E303"

    runs.train(steps=3, peft_base=str(moved), **again)
    runs.train(steps=4, **again)  # the newest checkpoint knows the place
    assert len(run.rows) == 4


def test_parameters_of_the_base_train_beside_adapters_where_they_are_named(
    runs: Runs,
) -> None:
    base = runs.train()
    run = runs.train(
        peft_also_train=("objective.head.*",), **PEFT, init_from=str(base.folder)
    )
    with open_checkpoint(latest_good(run.folder)) as held:
        own = [name for name in held.names() if ".adapters." not in name]
    assert own == ["objective.head.weight"]
    before, after = whole(base), whole(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(own)


def test_adapters_are_refused_where_they_cannot_be(runs: Runs) -> None:
    assert "use_peft" in runs.refused("E002", use_peft=True)
    assert "qk_clip" in runs.refused("E002", qk_clip=30.0, use_peft=True, init_from="x")


@pytest.mark.thorough
def test_loftq_needs_a_base_in_few_bits_and_starts_nearer_to_the_whole_one(
    runs: Runs,
) -> None:
    base = runs.train(steps=6, hidden_size=64)
    init = {"init_from": str(base.folder), "steps": 1, "hidden_size": 64}
    peft = {"use_peft": True, "lora_r": 16, "lora_dropout": 0.0}
    assert "few bits" in runs.refused("E002", peft_method="loftq", **init, **peft)
    exact = runs.train(**init, **peft).first_loss
    few = init | peft | {"load_in_4bit": True}
    plain = abs(runs.train(**few).first_loss - exact)
    started = abs(runs.train(peft_method="loftq", **few).first_loss - exact)
    assert started < plain
