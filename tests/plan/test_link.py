"""The time of what comes to a device and leaves it, in a plan's hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.features.crossing import Crossing
from lumina.model.declared import in_block
from lumina.plan import link
from lumina.plan.figures import layout_of
from lumina.plan.link import Link, crossings, link_of, link_time
from lumina.plan.plan import Plan
from lumina.plan.speeds import remember, speed_of
from lumina.plan.time_estimate import TimeEstimate, estimate_time
from machines import cpu, gpu, plan_for

GIB = 2**30
HOST = gpu(host_memory_bytes=256 * GIB)
H200 = 49.2e9
"""Bytes a second each way, as docs/claims.md has it."""

ALL = {"optimizer_states_in": "host", "weights_in": "host"}


def planned(**changes: Any) -> Plan:
    values = {"batch_size": 1, "global_batch_size": 1, "precision": "bf16", "steps": 10}
    values |= {"seq_length": 512, "gradient_checkpointing": "none", "compile": False}
    config = Config.resolve(preset="dense_3b").replace(**values | changes)
    return plan_for(config, HOST)


def timed(plan: Plan) -> TimeEstimate:
    found = estimate_time(plan, HOST, efficiency=0.5, earlier=[])
    assert found is not None
    return found


def numbers(plan: Plan) -> int:
    layers = range(plan.spec.num_layers)
    return sum(one.size for n in layers for one in in_block(plan.spec, n).values())


def test_states_on_the_host_come_and_go_when_nothing_else_computes() -> None:
    plain, host = planned(), planned(optimizer_states_in="host")
    size = host.elsewhere["host"]
    assert crossings(host.spec, layout_of(host)) == {
        "host": Crossing(brought_after=size, taken_after=size)
    }
    longer = timed(host).likely - timed(plain).likely
    assert longer == pytest.approx(size / H200, rel=0.01)
    early = planned(
        optimizer_states_in="host", optimizer_in_backward=True, max_grad_norm=0.0
    )
    # The same bytes, of which as many are hidden as the backward pass takes.
    assert timed(early).likely == pytest.approx(size / H200)


def test_the_measured_run_is_told() -> None:
    """989 M parameters: 59 ms a step on the device, 317 with the states on the host."""
    took = link_time(
        planned(),
        {"host": Crossing(brought_after=11.1 * GIB, taken_after=11.1 * GIB)},
        link_of(HOST),
    )
    assert 0.059 + took.after == pytest.approx(0.317, rel=0.06)


@pytest.mark.parametrize("rows", [1, 3])
def test_weights_come_twice_for_each_forward(rows: int) -> None:
    """Those that train leave with their gradients, which come back twice."""
    frozen = {"use_peft": True, "init_from": "base", "tie_embeddings": False}
    base = planned(**frozen, weights_in="host", global_batch_size=rows)
    block = base.elsewhere["host"]
    (found,) = crossings(base.spec, layout_of(base)).values()
    assert found == Crossing(brought=2 * rows * block)
    plain = timed(planned(**frozen, global_batch_size=rows)).likely
    assert plain < 2 * rows * block / H200
    assert timed(base).likely == pytest.approx(2 * rows * block / H200)

    trained = planned(**ALL, max_grad_norm=0.0, global_batch_size=rows)
    states = planned(optimizer_states_in="host", global_batch_size=rows)
    count, element = numbers(trained), 2 if rows == 1 else 4
    found = crossings(trained.spec, layout_of(trained))["host"]
    alone = crossings(states.spec, layout_of(states))["host"]
    assert found.brought == pytest.approx(2 * rows * 2 * count, rel=1e-4)
    assert found.taken == rows * 2 * count
    assert found.brought_after - alone.brought_after == 2 * element * count
    assert found.taken_after - alone.taken_after == 2 * count


def test_chunks_bring_the_weights_once_more_for_their_keys() -> None:
    frozen = {"use_peft": True, "init_from": "base", "tie_embeddings": False}
    rows = {"use_chunked_training": True, "chunk_size": 128}
    base = planned(**frozen, **rows, weights_in="host", attention="blockwise")
    block = base.elsewhere["host"]
    assert crossings(base.spec, layout_of(base))["host"].brought == (2 * 4 + 3) * block


def test_inputs_of_blocks_leave_and_come_back() -> None:
    recomputed = {"gradient_checkpointing": "full", "global_batch_size": 2}
    away = planned(activations_in="host", **recomputed)
    size = 2 * away.elsewhere["host"]
    found = crossings(away.spec, layout_of(away))["host"]
    assert found == Crossing(brought=size, taken=size)
    # They are hidden: the step is as long as without.
    assert timed(away).likely == timed(planned(**recomputed)).likely


def test_what_is_on_disk_takes_the_time_of_the_disk() -> None:
    disk = planned(optimizer_states_in="disk")
    size = disk.elsewhere["disk"]
    longer = timed(disk).likely - timed(planned()).likely
    assert longer == pytest.approx(2 * size / link.DISK, rel=0.01)
    assert timed(disk).slow > 2.5 * timed(disk).likely
    assert "of the disk, which is assumed" in timed(disk).why
    # On a CPU there is no link, and only the disk takes time.
    paged = plan_for(
        Config.resolve(preset="debug").replace(optimizer_states_in="disk", steps=5),
        cpu(memory_bytes=96 * GIB),
    )
    found = crossings(paged.spec, layout_of(paged))
    took = link_time(paged, found, None)
    assert took.after == pytest.approx(2 * paged.elsewhere["disk"] / link.DISK)


def test_where_the_rate_of_the_link_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    host = planned(optimizer_states_in="host")
    assert "was measured on such a card" in timed(host).why
    assert link_of(gpu("an unknown card")) is None
    assumed = link_of(gpu("NVIDIA GeForce RTX 4090", 24, (8, 9)))
    assert assumed is not None and assumed.host == 25e9 and "assumed" in assumed.why
    unknown = link_time(host, crossings(host.spec, layout_of(host)), None)
    assert unknown.after == 0 and "not counted" in unknown.why
    rates = [1e9, 2e9]
    monkeypatch.setattr(link, "_measured", lambda: rates.pop(0))
    link.link_here(cpu())
    for _ in range(2):
        link.link_here(HOST)
    measured = link_of(HOST)
    assert measured == Link(1e9, measured.why, 1.15)  # type: ignore[union-attr]
    assert timed(host).likely > 40 * timed(planned()).likely
    assert "1 GB/s each way of the link, which was measured here" in timed(host).why


def test_an_earlier_run_has_the_time_of_its_link_in_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    host = planned(optimizer_states_in="host")
    remember(speed_of(host, HOST.device_name, 1e13))
    found, plain = (estimate_time(one, HOST) for one in (host, planned()))
    assert found is not None and plain is not None
    assert found.measured and not plain.measured
    work = host.flops_per_token * 512
    assert found.likely == pytest.approx(work / 1e13)
