"""Memory for captures beside steps, and where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lumina.assemble import host_copies
from lumina.assemble.assemble import assemble, memory_for_copies, wanted_copies
from programs import tiny_plan


def test_half_of_the_free_memory_is_for_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = SimpleNamespace(available=2 * 8 * 4000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    monkeypatch.setattr(host_copies, "host_memory_bytes", lambda: 2**60)
    wanted = [("a", torch.Size([500]), torch.float32)] * 4  # 8,000 bytes
    assert host_copies.has_room(wanted, 4)
    assert not host_copies.has_room(wanted, 5)


def test_the_tensors_of_an_optimizer_are_wanted_and_none_on_a_cpu() -> None:
    program = assemble(tiny_plan())
    names = [name for name, _, _ in wanted_copies(program)]
    assert len(names) == len(set(names)) == 3 * len([n for n in names if n[0] == "/"])
    assert memory_for_copies(program) is None
