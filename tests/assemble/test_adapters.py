"""Programs of models with adapters: types, recomputation, and another program of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.errors import LuminaError
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.start import FirstValues
from lumina.model.declared import declared
from lumina.model.kinds.adapters import placed
from lumina.plan.costs.state import state_bytes
from lumina.plan.figures import layout_of
from lumina.state.adapter_base import Started
from lumina.train.controls.experts import AddExpert
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan

ADAPTER = AdapterSpec(rank=4, alpha=16.0, dropout=0.3, targets=("full",))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


@pytest.fixture(scope="module")
def base():
    """The tensors of a model, by number of experts, in memory."""
    made = {}

    def get(moe: bool = False) -> StateSource:
        if moe not in made:
            program = assemble(tiny_plan(moe))
            made[moe] = StateSource(capture(program, Progress(), everything=True))
        return made[moe]

    return get


def plan_of(moe: bool = False, adapter: AdapterSpec = ADAPTER, **changes):
    plan = tiny_plan(moe, **changes)
    return plan.replace(spec=replace(plan.spec, adapters=(adapter,)))


def begun(plan, source: StateSource):
    """A program whose adapters have their first values."""
    tensors = declared(plan.spec)
    first = FirstValues(tensors, placed(plan.spec, tensors), plan.seed, source.tensor)
    return assemble(plan, Started(source, first, first.names))


@pytest.mark.covers("TRN-08: adapters")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
def test_in_half_precision_the_base_has_two_bytes_and_no_more(base, stream, moe):
    plan = plan_of(moe, compute_dtype="bfloat16")
    program = begun(plan, base(moe))
    for name, parameter in program.network.named_parameters():
        router = name.endswith("router.weight")
        assert parameter.dtype == (torch.float32 if router else torch.bfloat16), name
        assert parameter.requires_grad == (".adapters." in name)
    slots = {slot.name for slot in program.optimizer.slots}
    assert slots and all(".adapters." in name for name in slots)

    counted = state_bytes(plan.spec, layout_of(plan))
    own = dict(program.network.named_parameters())
    assert counted["weights"] == sum(p.nbytes for p in own.values())
    trained = sum(p.numel() for n, p in own.items() if n in slots)
    assert counted["master_weights"] == 4 * trained
    losses, _ = take_steps(program, stream, 2 if moe else 12)
    assert losses.isfinite().all() and (moe or losses[-1, 0] < losses[0, 0])


@pytest.mark.parametrize("method", ["adalora", "pissa"])
def test_what_a_method_keeps_beside_its_parameters_is_counted(base, method):
    plan = plan_of(adapter=replace(ADAPTER, method=method))
    network = begun(plan, base()).network
    tensors = [*network.parameters(), *network.buffers()]
    counted = state_bytes(plan.spec, layout_of(plan))
    assert counted["weights"] == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("mode", ["full", "selective", "sqrt"])
def test_dropout_is_the_same_when_blocks_are_computed_again(base, stream, mode):
    plain, _ = take_steps(begun(plan_of(), base()), stream, 4)
    again = begun(plan_of(gradient_checkpointing=mode), base())
    torch.testing.assert_close(take_steps(again, stream, 4)[0], plain)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full"])
def test_compiled_blocks_compute_the_same(base, stream, mode):
    adapter = replace(ADAPTER, dropout=0.0, targets=("full", "lm_head"))
    plan = plan_of(adapter=adapter, gradient_checkpointing=mode)
    plain, _ = take_steps(begun(plan, base()), stream, 3)
    compiled = begun(plan.replace(compile=True), base())
    found, _ = take_steps(compiled, stream, 3)
    compiled.close()
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_dropout_acts_in_compiled_blocks_that_are_computed_again(base, stream):
    """Known to fail elsewhere; here the loss falls and no step is skipped."""
    program = begun(plan_of(compile=True, gradient_checkpointing="full"), base())
    losses, _ = take_steps(program, stream, 12)
    program.close()
    assert losses.isfinite().all() and losses[-1, 0] < losses[0, 0]


@pytest.mark.parametrize("method", ["dora", "pissa"])
def test_what_starts_from_the_base_changes_nothing_at_first(base, stream, method):
    adapter = replace(ADAPTER, method=method, dropout=0.0)
    plain, _ = take_steps(assemble(tiny_plan(), base()), stream, 1)
    program = begun(plan_of(adapter=adapter), base())
    found, _ = take_steps(program, stream, 8)
    torch.testing.assert_close(found[0, 0], plain[0, 0], rtol=1e-5, atol=1e-5)
    assert found[-1, 0] < found[0, 0] - 0.05


@pytest.mark.covers("MOD-38: AdaLoRA")
def test_ranks_fall_to_those_asked_for_and_a_run_that_goes_on_has_the_same(
    base, stream
):
    """18 triplets of three matrices in two layers become 12, in unequal shares."""
    targets = ("q_proj", "v_proj", "down_proj")
    adapter = replace(ADAPTER, method="adalora", rank=3, dropout=0.0, targets=targets)
    plan = plan_of(adapter=adapter, steps=12)

    def ranks(program):
        named = dict(program.network.named_parameters())
        return [int((p != 0).sum()) for n, p in named.items() if n.endswith(".e")]

    program = begun(plan, base())
    losses, _ = take_steps(program, stream, 12)
    kept = ranks(program)
    assert sum(kept) == 12 and losses[-1, 0] < losses[0, 0]

    program = begun(plan, base())
    _, progress = take_steps(program, stream, 5)
    assert sum(ranks(program)) > 12
    again = reassembled(program, progress, plan.replace(gradient_checkpointing="full"))
    take_steps(again, stream, 7, progress)
    assert ranks(again) == kept


def test_experts_are_not_added_to_a_base_that_is_elsewhere():
    with pytest.raises(LuminaError, match="adapters") as refused:
        AddExpert().check_plan(plan_of(True))
    assert refused.value.code == "E002"
