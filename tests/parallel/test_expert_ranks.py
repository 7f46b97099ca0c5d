"""Experts divided over four real ranks, and what they save, taken up otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from expert_ranks import FIRST, RANKS, RUNS, THEN, divided, looked, plan_of
from lumina.assemble.assemble import assemble, capture
from lumina.assemble.source import StateSource
from programs import conversations, stream_of, take_steps, told_state
from training import in_processes

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def four(store) -> dict[int, dict[Any, Any]]:
    """What each of four ranks found."""
    return dict(in_processes(divided, RANKS, store.folder, answers=RANKS))


@pytest.fixture(scope="module")
def alone(store) -> dict[str, Any]:
    """The runs in one process: numbers and State after the first steps."""
    found = {}
    for name, (_, changes) in RUNS.items():
        program = assemble(plan_of(1, 1, **dict(changes)))
        numbers, progress = take_steps(program, stream_of(store), FIRST)
        found[name] = numbers, capture(program, progress, everything=True)
    return found


@pytest.mark.covers("DST-11: expert_parallel_size", "DST-11: all-to-all")
@pytest.mark.parametrize("name", list(RUNS))
def test_losses_and_clipped_norms_are_those_of_one_process(four, alone, name) -> None:
    """With capacity, one process takes the micro-batches of the ranks in turn."""
    wanted = alone[name][0]
    close = 1e-5 if name != "recomputed" else 2e-2
    for rank in four.values():
        found = torch.tensor(rank[name]["numbers"])
        torch.testing.assert_close(found, wanted, rtol=close, atol=close)


@pytest.mark.covers("DST-12: expert-usage statistics synchronised")
@pytest.mark.parametrize("name", ["all", "halves", "capacity", "muon"])
def test_weights_states_and_usage_are_those_of_one_process(four, alone, name) -> None:
    """Moments, averages and the load of every expert, too; ranks agree to the bit."""
    wanted = alone[name][1]
    tensors, moments = four[0][name]["state"]
    assert tensors.keys() == wanted.tensors.keys()
    assert any(key.endswith(".load") for key in tensors)
    for key, one in wanted.tensors.items():
        found = torch.from_numpy(tensors[key])
        torch.testing.assert_close(found, one, rtol=2e-4, atol=2e-5, msg=key)
    assert moments.keys() == wanted.optimizer.keys()
    for slot, held in wanted.optimizer.items():
        for key, one in held.items():
            found = torch.from_numpy(moments[slot][key])
            torch.testing.assert_close(found, one.float(), rtol=2e-3, atol=2e-6)
    for rank in four.values():
        for key, one in rank[name]["state"][0].items():
            assert (one == tensors[key]).all(), key


@pytest.mark.parametrize("name", list(RUNS))
def test_each_rank_holds_its_experts_only_and_writes_its_share(four, name) -> None:
    here = 4 // RUNS[name][0]
    shares = [rank[name]["mine"] for rank in four.values()]
    for rank in four.values():
        assert set(rank[name]["held"]) == {here}
    written = [tensor for share in shares for tensor in share]
    assert sorted(written) == sorted(four[0][name]["state"][0])


@pytest.mark.covers("DST-11: expert_placement_policy balanced or memory_optimal")
@pytest.mark.parametrize("other", ["same", "halves", "together", "moved"])
def test_what_was_saved_goes_on_with_experts_elsewhere(four, other) -> None:
    """As before, over two ranks, on every rank, and placed by their usage."""
    kept = four[0]["same", "then"]
    for rank in four.values():
        found = rank[other, "then"]
        assert found["back"], "what is saved at once is what was read"
        assert bool(found["moved"]) == (other == "moved")
        assert found["numbers"] == [pytest.approx(n, rel=1e-5) for n in kept["numbers"]]
        for key, one in found["tensors"].items():
            left, right = map(torch.from_numpy, (one, kept["tensors"][key]))
            torch.testing.assert_close(left, right, rtol=2e-4, atol=2e-5, msg=key)


def test_what_was_saved_goes_on_in_one_process(store, four) -> None:
    """And a look at gradients and changes of weights finds the same in all."""
    run = four[0]["all"]
    state = told_state(*run["state"], run["extra"], FIRST)
    plan = plan_of(1, 1, **dict(RUNS["all"][1]))
    program = assemble(plan, StateSource(state), meta=state)
    stream = stream_of(store)
    found, progress = take_steps(program, stream, THEN, run["progress"])
    wanted = torch.tensor(four[0]["same", "then"]["numbers"])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    seen = looked(program, stream, progress)
    for other in ("same", "halves", "together", "moved"):
        for rank in four.values():
            look = rank[other, "then"]["look"]
            assert look == {key: pytest.approx(seen[key], rel=1e-3) for key in seen}
