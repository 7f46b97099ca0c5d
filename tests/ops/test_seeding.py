"""Seeds of what is dropped."""

from __future__ import annotations

import torch

from lumina.ops.seeding import seed_generators


def test_what_is_drawn_is_what_torch_draws_after_its_own_seed() -> None:
    for seed in (0, 1234, 2**63 - 1):
        drawn = []
        for seeded in (torch.manual_seed, seed_generators):
            torch.rand(3)
            seeded(seed)
            drawn.append(torch.nn.functional.dropout(torch.ones(64), 0.5))
        assert torch.equal(*drawn)


def test_nothing_is_kept_for_devices_that_are_not_there(monkeypatch) -> None:
    """Without a GPU, `torch.manual_seed` writes down the stack, three times a call."""
    written: list[object] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("traceback.format_stack", lambda *_: written.append(0) or [])
    seed_generators(1)
    assert not written


def test_a_gpu_is_seeded_too(monkeypatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeds.append)
    seed_generators(5)
    assert seeds == [5]
