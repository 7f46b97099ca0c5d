"""Initial weights drawn on several threads are those drawn one by one."""

from __future__ import annotations

import subprocess
import sys

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
    network = build_network(tiny_spec(), device="meta", seed=None)
    names = [name for name, _ in network.named_parameters()]
    values = InitialValues(network, names, seed=7)
    assert len(names) > 5
    for name in names:
        expected = network.initial_value(name, 7)
        assert torch.equal(values.take(name), expected), name


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
