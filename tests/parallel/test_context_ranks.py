"""Rows that several ranks share, in real processes: as one process trains them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from context_ranks import (
    FIRST,
    LENGTH,
    SETTINGS,
    THEN,
    WINDOW,
    given,
    judged,
    plan_of,
    shared_rows,
    shown,
)
from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from lumina.ops.attention.ring.zigzag import Zigzag
from lumina.state.state import State
from ops.test_ring import whole_rows
from programs import conversations, stream_of, take_steps
from training import in_processes

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def four(store) -> dict[int, dict[str, Any]]:
    """What each of four ranks found."""
    return dict(in_processes(shared_rows, 4, store.folder, answers=4))


def from_one(found):
    """The State of rank 0's setting, as another run would read it."""
    return State(
        tensors={n: torch.from_numpy(x) for n, x in found["state"].items()},
        optimizer={
            slot: {n: torch.from_numpy(x) for n, x in held.items()}
            for slot, held in found["optimizer"].items()
        },
        extra=found["extra"],
        counters={"step": FIRST},
    )


@pytest.mark.covers("DST-09: blockwise over devices", "DST-15")
@pytest.mark.parametrize("size", [2, 4])
def test_a_ring_over_a_network_gives_attention_of_whole_rows(four, size) -> None:
    """An odd length, shared heads, packed documents, a window; with gradients."""
    whole, documents = given()
    wanted = whole_rows(*whole, documents, WINDOW, 0)
    zigzag = Zigzag(LENGTH, size)
    for first in range(0, 4, size):  # each ring has all of the row
        ring = [four[rank]["attention"][size] for rank in range(first, first + size)]
        found = [
            zigzag.whole([torch.from_numpy(x) for x in parts])
            for parts in zip(*ring, strict=True)
        ]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.covers("DST-15")
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_losses_gradients_and_weights_are_those_of_one_process(
    store, four, setting
) -> None:
    """Two ranks share each row, and the two pairs have rows of their own."""
    program = assemble(plan_of(setting))
    wanted, progress = take_steps(program, stream_of(store), FIRST)
    state = capture(program, progress, everything=True)
    for rank in four.values():
        found = torch.tensor(rank[setting]["numbers"])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = {n: torch.from_numpy(x) for n, x in four[0][setting]["state"].items()}
    expected = {n: torch.from_numpy(x) for n, x in shown(state).items()}
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    if setting == "ddp":  # first moments are sums of gradients
        moments = four[0][setting]["optimizer"]["exp_avg"]
        for name, moment in state.optimizer["exp_avg"].items():
            found = torch.from_numpy(moments[name])
            torch.testing.assert_close(found, moment, rtol=1e-4, atol=1e-7)


def test_held_out_figures_are_those_of_one_process(store, four) -> None:
    state = from_one(four[0]["ddp"])
    program = assemble(plan_of("ddp"), StateSource(state), meta=state)
    loss, tokens, accuracy = judged(program, store)
    for rank in four.values():
        found = rank["ddp"]["judged"]
        assert found[1] == tokens > 0
        assert found[0] == pytest.approx(loss, rel=1e-6)
        assert found[2] == pytest.approx(accuracy, rel=1e-9)


def test_what_was_saved_goes_on_with_rows_of_other_parts(store, four) -> None:
    """In one process, and with four ranks that share each row."""
    one = four[0]["ddp"]
    state = from_one(one)
    program = assemble(plan_of("ddp"), StateSource(state), meta=state)
    wanted, _ = take_steps(program, stream_of(store), THEN, one["progress"])
    for rank in four.values():
        found = torch.tensor(rank["ddp"]["then"])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
