"""The rungs for long forwards and for what lives beside the device, under real caps.

The cap is that of `CappedMemory`: on the bytes of live tensors, as on a full GPU. A CPU
has no host beside it, so files take the place of pinned memory.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from capped_memory import CappedMemory
from lumina.assemble.source import StateSource
from lumina.config import Config
from lumina.config.provenance import Source
from lumina.errors import LuminaError
from lumina.plan.costs import streamed
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import loop
from lumina.train.controls import apply_change
from lumina.train.controls.layout import FeedforwardTile
from lumina.train.memory_ladder.rung import ROUNDING, numbers_after
from lumina.train.memory_ladder.rungs import (
    activations_host,
    feedforward_tile,
    optimizer_states_host,
    weights_host,
)
from machines import gpu, plan_for
from mechanisms import mechanism
from programs import tiny_plan
from short_of_memory import at_most, short
from tiny_runs import EXPERTS, Run, Runs, seen

LONG: dict[str, Any] = {
    "steps": 3, "seq_length": 128, "batch_size": 1, "global_batch_size": 1,
    "gradient_checkpointing": "full",
}  # fmt: skip
WIDE: dict[str, Any] = LONG | {"intermediate_size": 2048}
DEEP: dict[str, Any] = LONG | {"num_layers": 4, "seq_length": 32}


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(feedforward_tile, "PAYS", 128)
    monkeypatch.setattr(feedforward_tile, "SMALLEST", 32)
    monkeypatch.setitem(activations_host.BESIDE, "cpu", "disk")
    monkeypatch.setitem(optimizer_states_host.BESIDE, "cpu", "disk")
    take = apply_change.capture

    def on_the_host(*asked: Any, **more: Any) -> Any:
        """A State that waits is not on the device, whose bytes are counted here."""
        with _disable_current_modes():
            return take(*asked, **more)

    monkeypatch.setattr(apply_change, "capture", on_the_host)
    monkeypatch.setattr(loop, "capture", on_the_host)
    made = Runs(tmp_path, monkeypatch)
    made.train(steps=1)  # what is made once for all
    return made


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == kind]


@pytest.mark.thorough
def test_a_capped_run_divides_its_feed_forwards(runs: Runs) -> None:
    """The next run begins there, and so does one that goes on."""
    with CappedMemory() as whole:
        plain = runs.train(**WIDE)
    with CappedMemory() as less:
        runs.train(**(WIDE | {"feedforward_tile": 32}))
    assert less.peak < 0.8 * whole.peak
    with CappedMemory((less.peak + whole.peak) // 2) as memory:
        run = runs.train(**WIDE)
    assert memory.failures
    assert_reached(runs, run, plain, WIDE, "feedforward_tile", "feedforward_tile", 32)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("control", "rung"),
    [
        ("activations_in", "activations_host"),
        ("optimizer_states_in", "optimizer_states_host"),
        ("weights_in", "weights_host"),
    ],
)
def test_a_run_comes_to_what_lives_beside_the_device(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, control: str, rung: str
) -> None:
    """Failures are injected: on a CPU, files are counted as memory."""
    monkeypatch.setattr(feedforward_tile, "PAYS", 2**20)
    monkeypatch.setitem(weights_host.BESIDE, "cpu", "disk")
    monkeypatch.setattr(streamed, "PAGE_BYTES", 4096)  # or a page held all weights
    fits = short(lambda p: getattr(p.plan, control) == "disk", at=1)
    plain = runs.train(**DEEP)
    run = runs.train(fits, **DEEP)
    assert_reached(runs, run, plain, DEEP, control, rung, "disk")


def assert_reached(
    runs: Runs,
    run: Run,
    plain: Run,
    shape: dict[str, Any],
    control: str,
    rung: str,
    value: Any,
) -> None:
    """A run came to a rung, learned the same, and others know of it."""
    tried = [e["data"]["rung"] for e in told(run, "out_of_memory")]
    assert tried[0] == "cache" and tried[-1] == rung
    fits = told(run, "memory_recovered")[-1]
    assert fits["data"][control] == value
    assert run.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)
    assert run.column("tokens") == plain.column("tokens")
    found: list[Any] = []
    look = seen(lambda program, _: getattr(program.plan, control), found)
    runs.train(look, **(shape | {"steps": 1}))
    on = {"run_dir": str(run.folder), "auto_resume": True, "steps": 4}
    runs.train(look, **(shape | on | {"forget_memory_limits": True}))
    assert found == [value, value]


@pytest.mark.parametrize(
    "model",
    [
        EXPERTS | {"precision": "bf16"},
        pytest.param(
            {"ema_decay": 0.9, "qk_clip": 50.0, "watch_vocabulary": True,
             "precision": "bf16", "global_batch_size": 16},
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["experts", "averaged"],
)  # fmt: skip
def test_nothing_of_the_old_program_stands_while_the_new_one_is_built(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    """Not what the broken step computed either; on a GPU the State is on the host."""
    left: list[float] = []
    build = apply_change.assemble

    def looked(plan: Any, source: StateSource, **rest: Any) -> Any:
        left.append(memory.live / source.state.nbytes())
        return build(plan, source, **rest)

    monkeypatch.setattr(apply_change, "assemble", looked)
    with CappedMemory() as memory:
        runs.train(
            short(at_most(1), at=1, where="backward"),
            **({"steps": 2, "batch_size": 4, "hidden_size": 64} | model),
        )
    assert len(left) == 2 and max(left) < 0.05, left


@mechanism(
    "out of device memory while assembling",
    component="memory",
    failure="the program of a rung finds no room when it is assembled",
    recovery="smaller pieces",
    expected="the State waits in host memory, the next rung is taken, and the step is "
    "taken again; without one, E201 and the State is saved",
    real=False,
)
@pytest.mark.parametrize("fits", [True, False])
def test_a_program_without_room_leaves_the_next_rung(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    story: dict[str, Any] = {"steps": 3, "global_batch_size": 4, "batch_size": 4}
    began = runs.train(**(story | {"batch_size": 1}))
    one = runs.train(**(story | {"steps": 1}))
    build = apply_change.assemble

    def crowded(plan: Any, *rest: Any, **more: Any) -> Any:
        if fits and plan.micro_batch_size == 1:
            return build(plan, *rest, **more)
        raise torch.OutOfMemoryError("CUDA out of memory. Injected.")

    monkeypatch.setattr(apply_change, "assemble", crowded)
    around = short(at_most(2), at=1)
    if fits:
        run = runs.train(around, **story)
        assert run.column("loss") == pytest.approx(began.column("loss"), rel=1e-5)
        second = told(run, "out_of_memory")[-1]
        assert "to assemble the program again" in second["message"]
        journal = [c for c in _meta(run.folder).journal if c["outcome"] == "applied"]
        assert [c["value"] for c in journal] == [2, 1]
        return
    with pytest.raises(LuminaError, match="to assemble the program again") as caught:
        runs.train(around, **story)
    assert caught.value.code == "E201" and "is saved" in caught.value.hint
    folder = max(runs.folder.glob("run-*"), key=lambda one: int(one.name[4:]))
    with open_checkpoint(latest_good(folder)) as reader:
        assert reader.meta.step == 1
        for name, value in one.tensors.items():
            assert torch.equal(reader.tensor(name), value), name
    monkeypatch.undo()
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["micro_batch_size"] == 4


def _meta(folder: Path) -> Any:
    with open_checkpoint(latest_good(folder)) as reader:
        return reader.meta


def test_tiles_are_for_long_forwards_of_models_that_suit_them() -> None:
    """And take the place of compiled blocks; `selective` keeps what they save."""
    tiles = feedforward_tile.FeedforwardTile()
    long = {"seq_length": 65536, "batch_size": 1, "gradient_checkpointing": "full"}

    def planned(**options: Any) -> Any:
        return plan_for(
            Config.resolve(preset="dense_3b").override(
                options, Source("flag", "a test")
            ),
            gpu(),
        )

    plan = planned(**long)
    attempt = tiles.next(plan, cleared=True)
    assert attempt is not None and attempt.value == 16384
    tiled = FeedforwardTile().edit(plan, attempt.value)
    assert tiled.memory["bound"] < plan.memory["bound"] and not tiled.compile
    assert tiles.next(tiled, cleared=True).value == 4096
    assert tiles.known_to_fit(plan, 4096) == 4096
    assert tiles.known_to_fit(tiled, 32768) is None
    assert tiles.known_to_fit(plan, 0) is None
    assert tiles.next(planned(**(long | {"seq_length": 4096})), cleared=True) is None
    kept = plan.replace(gradient_checkpointing="selective")
    assert tiles.next(kept, cleared=True) is None
    with pytest.raises(LuminaError, match="E002"):
        FeedforwardTile().edit(kept, 4096)


@pytest.mark.parametrize(
    ("rung", "changes", "said"),
    [
        ("micro_batch", {}, ROUNDING),
        ("micro_batch", {"dropout": 0.1}, "dropout draws other numbers"),
        ("feedforward_tile", {"dropout": 0.1}, ROUNDING),
        ("checkpointing_full", {"dropout": 0.1}, ""),
        ("activations_host", {"dropout": 0.1}, ""),
        ("optimizer_states_host", {"dropout": 0.1}, ""),
        ("optimizer_states_host", {"optimizer": "muon"}, ROUNDING),
        ("optimizer_states_host", {"optimizer_groups": ("*.up=muon",)}, ROUNDING),
        ("optimizer_states_host", {"weights_dtype": "bfloat16"}, "page by page"),
        ("weights_host", {"dropout": 0.1}, ""),
    ],
)
def test_what_a_rung_changes_in_the_numbers_is_said(
    rung: str, changes: dict[str, Any], said: str
) -> None:
    plan = tiny_plan()
    spec = replace(plan.spec, dropout=changes.get("dropout", 0.0))
    rest = {name: value for name, value in changes.items() if name != "dropout"}
    plan = plan.replace(spec=spec, **rest)
    found = numbers_after(plan, [rung])
    assert said in found if said else found == ""


def test_routers_draw_and_count_in_each_forward() -> None:
    plan = tiny_plan(moe=True)
    assert numbers_after(plan, ["micro_batch", "cache"]) == ROUNDING
    moe = replace(
        plan.spec.moe,  # type: ignore[type-var]
        jitter=0.1,
        expert_dropout=0.1,
        dispatch="capacity",
        balance_scope="micro_batch",
    )
    found = numbers_after(
        plan.replace(spec=replace(plan.spec, moe=moe)), ["micro_batch"]
    )
    assert "expert_dropout, router jitter draws" in found
    assert "places" in found and "balance" in found
