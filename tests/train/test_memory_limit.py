"""A real limit: for two steps the system gives the process no more memory."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from short_of_memory import limit_data
from training import DENSE, column, events, start, words

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's"),
]

FLAGS = [*DENSE, *words("--hidden-size 128 --intermediate-size 384 --num-layers 3 "
                        "--seq-length 256 --batch-size 16 --global-batch-size 16 "
                        "--precision fp32 --steps 3 --eval-fraction 0 "
                        "--report-samples 0")]  # fmt: skip


@pytest.mark.parametrize("room", [60, 110])
def test_a_run_fits_into_what_the_system_leaves_it(trainings, room):
    """Its losses are those of a run without the limit, up to rounding."""
    plain = trainings.folder / "plain"
    cache = {"LUMINA_CACHE": str(trainings.folder / f"cache-{room}")}
    if not plain.exists():
        trainings.train("plain", *FLAGS)
    name = f"limited-{room}"
    running = start(
        trainings.command(name, *FLAGS),
        trainings.folder / f"{name}.log",
        before=partial(limit_data, room),
        **cache,
    )
    assert running.wait() == 0, running.output
    run = trainings.folder / name
    found = events(run, "out_of_memory")
    assert found and {e["code"] for e in found} == {"E202"}
    assert column(run, "loss") == pytest.approx(column(plain, "loss"), rel=1e-4)
    assert "is taken again" in running.output
