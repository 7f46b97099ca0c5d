"""Options of a run that recovers by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.errors import LuminaError
from lumina.train.loop import Loop
from lumina.train.recovery import repeat
from option_effects import shows
from tiny_runs import Runs


@contextmanager
def spike_at_20(program: Program, batches: Any) -> Iterator[None]:
    """The gradients of the 20th step are a thousand times too large."""
    hooks = []
    if batches.cursor["row"] == 20 * 4:
        hooks = [
            slot.parameter.register_hook(lambda grad: 1000 * grad)
            for slot in program.optimizer.slots
        ]
    yield
    for hook in hooks:
        hook.remove()


@shows("robust_clip")
def norms_that_stand_out(runs: Runs) -> None:
    """One spike is clipped to a usual norm; the steps before it are as they were."""
    off, on = (
        runs.train(
            spike_at_20,
            robust_clip=asked,
            steps=21,
            optimizer="sgd",
            max_grad_norm=0.0,
        )
        for asked in (False, True)
    )
    assert off.column("loss")[:20] == on.column("loss")[:20]
    assert off.column("loss")[20] > on.column("loss")[20] + 0.1
    assert on.column("grad_norm")[19] == pytest.approx(off.column("grad_norm")[19])
    assert [row["clipped_gradients"] for row in on.rows[18:20]] == [0, 1]
    assert "gradient steps robust_clip" in " ".join(on.printed.split())


def _target(runs: Runs, **leaves: Any) -> int | None:
    """The step that a run of eight goes back to from the seventh; None: it goes on."""
    write, asked = Loop._write, list[int]()

    def asking(loop: Loop, row: dict[str, Any]) -> None:
        write(loop, row)
        if row["step"] == 6 and not asked:
            value = {"steps": 5, "skip_data": False}
            asked.append(loop.controls.request("rollback", value, "a test"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_write", asking)
        run = runs.train(steps=8, save_every_n_batches=50, **leaves)
    assert run.column("step") == list(range(1, 9))
    told = [event["step"] for event in run.events if event["kind"] == "rolled_back"]
    return told[0] if told else None


@shows("snapshot_every")
def snapshots(runs: Runs) -> None:
    """There is something to go back to, of the steps that the option says."""
    assert _target(runs, snapshot_every=0) is None
    assert _target(runs, snapshot_every=4) == 4
    assert _target(runs, snapshot_every=None) is None


@shows("snapshots_kept")
def number_of_snapshots(runs: Runs) -> None:
    """With more of them the run can go further back."""
    found = [
        _target(runs, snapshot_every=1, snapshots_kept=n, known_good_after=50)
        for n in (2, 4)
    ]
    assert found == [None, 5]


@shows("known_good_after")
def steps_without_an_alarm(runs: Runs) -> None:
    """The newest snapshot that is known to be good goes before an older one."""
    found = [
        _target(runs, snapshot_every=2, snapshots_kept=4, known_good_after=n)
        for n in (2, 50)
    ]
    assert found == [4, 2]


@shows("repeat_check_every")
def gradients_twice(runs: Runs) -> None:
    """A bit that differs between two computations ends the run in its step."""
    made: list[int] = []
    bits = repeat._bits

    def flipped(tensor: Tensor) -> Tensor:
        made.append(1)
        return bits(tensor) + (len(made) == 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeat, "_bits", flipped)
        with pytest.raises(LuminaError) as caught:
            runs.train(repeat_check_every=2, deterministic=True)
    assert caught.value.code == "E305" and "step 2" in caught.value.message
    runs.refused("E002", repeat_check_every=2)


@shows("preflight")
def test_of_the_device(runs: Runs) -> None:
    """A product that is wrong is noticed before the run."""
    multiply = torch.Tensor.__matmul__

    def wrong(left: Tensor, right: Tensor) -> Tensor:
        found = multiply(left, right)
        return found if left.dtype == torch.float64 else found + 0.1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__matmul__", wrong)
        assert "in float32 is off by" in runs.refused("E306", preflight=True)
