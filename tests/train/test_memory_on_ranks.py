"""One rank without memory: the others do not wait for it. Real gloo ranks.

The failures are injected: a rank raises what a GPU's allocator raises.
"""

from __future__ import annotations

from functools import partial

import pytest

from lumina.assemble.ranks import meeting_place
from mechanisms import mechanism
from short_of_memory import fail_on_ranks
from training import DENSE, column, events, start, words

pytestmark = [pytest.mark.thorough, pytest.mark.faults]

FLAGS = [*DENSE, *words("--precision fp32 --steps 4 --global-batch-size 8")]


def on_ranks(trainings, name, inject, *flags):
    """Two ranks that fail as `inject` says; their exit codes and their output."""
    store, place = meeting_place()
    trainings.folder.mkdir(parents=True, exist_ok=True)
    running = [
        start(
            trainings.command(name, *FLAGS, *flags),
            trainings.folder / f"{name}.{rank}.log",
            before=inject,
            LUMINA_CACHE=str(trainings.folder / f"{name}-cache"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            **place,
        )
        for rank in range(2)
    ]
    codes = [rank.wait() for rank in running]
    del store
    return codes, [rank.output for rank in running]


@pytest.fixture
def began(trainings, request):
    """The losses of a run that began with a forward of so many rows."""

    def get(parallel, rows):
        name = f"began-{parallel}-{rows}"
        if not (trainings.folder / name).exists():
            trainings.train_on_ranks(
                name, *FLAGS, *words(f"--parallel {parallel} --batch-size {rows}")
            )
        return column(trainings.folder / name, "loss")

    return get


@mechanism(
    "rank out of device memory",
    component="rank",
    failure="one rank or both have no room in forward, loss or backward",
    recovery="smaller pieces",
    expected="all take the same rung before the next exchange, and none waits for ever",
    real=False,
)
@pytest.mark.parametrize(
    ("parallel", "ranks", "where", "forward", "rows", "step"),
    [
        ("ddp", (1,), "forward", 1, 2, 2),
        ("ddp", (1,), "forward", 2, 2, 3),
        ("ddp", (0,), "loss", 2, 2, 1),
        ("ddp", (1,), "backward", 1, 2, 2),
        ("ddp", (0, 1), "backward", 1, 4, 1),
        ("fsdp2", (1,), "loss", 1, 2, 1),
        ("fsdp2", (0,), "loss", 2, 2, 2),
        ("fsdp2", (0, 1), "forward", 1, 2, 2),
    ],
)
def test_all_ranks_take_the_rung_together(
    trainings, began, parallel, ranks, where, forward, rows, step
):
    """The losses are those of a run that began there, to the last bit from step 1."""
    name = f"{parallel}-{where}-{forward}-{len(ranks)}-{rows}"
    failing = {"forward": forward, "step": step}
    inject = partial(fail_on_ranks, ranks, where, rows // 2, **failing)
    codes, said = on_ranks(
        trainings, name, inject, *words(f"--parallel {parallel} --batch-size {rows}")
    )
    assert codes == [0, 0], said
    run = trainings.folder / name
    found = events(run, "out_of_memory")
    assert [e["data"]["rung"] for e in found] == ["cache", "micro_batch"]
    assert found[0]["data"]["ranks"] == list(ranks)
    losses, whole, half = (
        column(run, "loss"), began(parallel, rows), began(parallel, rows // 2)
    )  # fmt: skip
    assert losses[: step - 1] == whole[: step - 1]
    assert losses == (half if step == 1 else pytest.approx(half, rel=1e-5))


@mechanism(
    "rank out of memory inside an exchange",
    component="rank",
    failure="one rank has no room while the others wait in a collective",
    recovery="end all ranks",
    expected="E201 on all, soon; resumed, the run begins one rung down",
    real=False,
)
@pytest.mark.parametrize(
    ("parallel", "where"), [("ddp", "backward"), ("fsdp2", "forward")]
)
def test_a_rank_that_fails_inside_an_exchange_ends_the_run(trainings, parallel, where):
    """With a code, soon, and the run goes on from its checkpoint one rung down."""
    name, rows = f"inside-{parallel}", 4 if parallel == "ddp" else 2
    flags = words(f"--parallel {parallel} --batch-size {rows} --save-every-n-batches 1")
    inject = partial(fail_on_ranks, (1,), where, rows // 2, step=3)
    codes, said = on_ranks(trainings, name, inject, *flags)
    assert codes == [1, 1]
    assert "E201" in said[0] and "E201" in said[1], said
    assert "rank 1 ran out of memory in step 3, inside an exchange" in said[0]
    codes, said = on_ranks(trainings, name, inject, *flags, "--auto-resume")
    assert codes == [0, 0], said
    run = trainings.folder / name
    assert column(run, "step") == [1, 2, 3, 4]
    assert f"micro_batch_size {rows // 2} instead of {rows}" in said[0]
