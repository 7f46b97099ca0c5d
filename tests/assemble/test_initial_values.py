"""Initial weights drawn on several threads are those drawn one by one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from lumina.assemble import initial_values
from lumina.assemble.initial_values import InitialValues
from lumina.model.build import build_network
from networks import tiny_spec


@pytest.mark.parametrize("ahead", [0, 4096, initial_values.AHEAD_BYTES])
def test_values_do_not_depend_on_threads_or_order(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initial_values, "AHEAD_BYTES", ahead)
    monkeypatch.setattr(initial_values, "host_memory_bytes", lambda: 0)
    network = build_network(tiny_spec(), device="meta", seed=None)
    names = [name for name, _ in network.named_parameters()]
    values = InitialValues(network, names, seed=7)
    assert len(names) > 5
    for name in names:
        expected = network.initial_value(name, 7)
        assert torch.equal(values.take(name), expected), name


def test_a_host_with_much_memory_begins_with_all_tensors_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process has its share of it."""
    network = build_network(tiny_spec(), device="meta", seed=None)
    sizes = {name: 4 * p.numel() for name, p in network.named_parameters()}
    monkeypatch.setattr(initial_values, "AHEAD_BYTES", 0)
    enough = initial_values.AHEAD_SHARE * sum(sizes.values())
    monkeypatch.setattr(initial_values, "host_memory_bytes", lambda: enough)
    draw, drawn = initial_values.initial_value, []

    def noted(one: Any, seed: int) -> torch.Tensor:
        drawn.append(sizes[one.name])
        return draw(one, seed)

    monkeypatch.setattr(initial_values, "initial_value", noted)
    begun = []
    for processes in (1, 2):
        drawn.clear()
        values = InitialValues(network, list(sizes), 7, processes=processes)
        assert values._pool is not None
        values._pool.shutdown(wait=True)
        begun.append(sum(drawn))
    assert begun[0] == sum(sizes.values()) and 0 < begun[1] <= begun[0] / 2


def test_starting_does_not_load_the_compiler_or_sharding() -> None:
    """They take seconds, and most commands on a CPU use neither."""
    code = (
        "import sys, lumina.train, lumina.infer.load; "
        "print([m for m in ('torch._dynamo', 'torch.distributed.fsdp',"
        " 'torch.distributed.tensor') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
