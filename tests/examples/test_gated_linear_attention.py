"""A recurrent backbone goes through Lumina's interface with its state as the carry."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lumina.model.interface import Batch

FILE = Path(__file__).parents[2] / "examples" / "gated_linear_attention.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    found = importlib.util.spec_from_file_location("gated_linear_attention", FILE)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_segments_and_single_tokens_are_the_whole(example: ModuleType) -> None:
    network = example.make_network()
    ids = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))
    whole = network.backbone(Batch.from_rows(ids)).hidden
    for size in (1, 8):
        carry, parts = None, []
        for part in ids.split(size, dim=1):
            output = network.backbone(Batch.from_rows(part), carry)
            carry = output.carry
            assert not any(state.requires_grad for state in carry)
            parts.append(output.hidden)
        torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_the_past_matters_and_the_future_does_not(example: ModuleType) -> None:
    network = example.make_network()
    ids = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 8] += 1 if other[0, 8] < 255 else -1
    one, two = (network.logits(x) for x in (ids, other))
    assert torch.equal(one[:, :8], two[:, :8])
    assert not torch.allclose(one[:, 9:], two[:, 9:])


def test_it_learns_through_the_carry(example: ModuleType) -> None:
    """The loss sums hand the carry to the next step; a text is learned by heart."""
    text = b"the owl went to the wood and the hen went to the barn. " * 30
    network = example.make_network()
    losses = example.train(network, text, 60)
    assert losses[-1] < 0.5 * losses[0]
    told = bytes(network.continue_text(list(b"the owl went to"), 10))
    assert told.startswith(b"the owl went to the ")
