"""Measuring on a GPU: times are those of the device, and no ordinary step waits."""

from __future__ import annotations

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.observe.utilisation import Utilisation
from lumina.train.ring import MetricRing
from lumina.train.step import train_step
from lumina.train.watch import Watch
from programs import conversations, stream_of, tiny_plan

pytestmark = pytest.mark.gpu

ALL = ("gradient_variance", "step_times", "weight_changes", "layer_profile")


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


@pytest.mark.parametrize("moe", [False, True])
def test_no_look_but_that_at_attention_waits_for_the_device(stream, moe):
    measures = {"accuracy": 1} | dict.fromkeys(ALL, 1)
    plan = tiny_plan(moe, device="cuda", measures=measures, compute_dtype="bfloat16")
    program = assemble(plan)
    ring, rows = MetricRing(cuda=True), []
    batches = stream.step(stream.start, micro_batch_size=8)
    moved = [batch.to("cuda") for batch in batches.micro_batches]
    batches.micro_batches[:] = moved
    for step in range(4):
        if step:  # the first one loads kernels
            torch.cuda.set_sync_debug_mode("error")
        try:
            watch = Watch.of(program, batches, step + 1)
            values = train_step(program, batches, step, watch=watch)
            ring.push({"watch": watch}, values)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        rows += [known["watch"].row(found) for known, found in ring.pop(1)]
    rows += [known["watch"].row(found) for known, found in ring.pop(0)]
    for row in rows:
        for part in ("forward_time", "backward_time", "optimizer_time"):
            assert 0 < row[part] < 60
        for key in ("forward_time", "backward_time", "memory_allocated"):
            assert all(value > 0 for value in row[f"layers.{key}"]), key
        assert sum(row["layers.forward_time"]) < row["forward_time"]
        assert row["gradient_variance"] > 0


@pytest.mark.covers("MON-17: GPU (nvidia-smi dmon equivalent)")
def test_the_driver_is_asked_how_busy_the_gpu_is(tmp_path):
    pytest.importorskip("pynvml")
    held = torch.ones(2**28, device="cuda")  # 1 GiB
    seen = Utilisation(tmp_path, "cuda")
    assert seen.missing == ""
    row = seen.row()
    assert 0 <= row["gpu_utilization"] <= 1
    assert held.nbytes <= row["gpu_memory_used_bytes"]
    assert (
        row["gpu_memory_used_bytes"] <= torch.cuda.get_device_properties(0).total_memory
    )
