"""Weights of blocks that live beside the device: the same losses and gradients.

On the CPU the device and the host have one memory, so these tests make sure themselves
that blocks read what was brought: memory that a page comes into is full of NaN until
its copy is complete, and again when the page has left.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from assemble.test_adapters import ADAPTER, begun, plan_of
from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.program import Program
from lumina.assemble.source import StateSource
from lumina.assemble.streamed.carrier import Carrier
from lumina.assemble.streamed.page import WeightPage
from lumina.data.packed_stream import BatchStream
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.host_table import beside_the_device
from lumina.plan.costs.streamed import streamed_weights
from lumina.plan.figures import layout_of
from lumina.plan.plan import Plan
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan

LAYERS = 4
NAN = 0xFF
"""A byte of which every floating type makes NaN."""


def deep(plan: Plan, **changes: Any) -> Plan:
    return plan.replace(spec=replace(plan.spec, num_layers=LAYERS), **changes)


def adapted(moe: bool = False, adapter: AdapterSpec = ADAPTER, **changes: Any) -> Plan:
    return deep(plan_of(moe, adapter), **changes)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> BatchStream:
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


@pytest.fixture(scope="module")
def base() -> dict[bool, StateSource]:
    """The tensors of a model, with experts or without."""
    found = {}
    for moe in (False, True):
        program = assemble(deep(tiny_plan(moe)))
        found[moe] = StateSource(capture(program, Progress(), everything=True))
    return found


class Away:
    """What the pages of a run do, as far as a test wants to know.

    Attributes:
        most: pages that were on the device, or on their way, at a time.
        brought: pages that were brought.
        delay: seconds by which each copy is late.
    """

    def __init__(self) -> None:
        self.most, self.brought, self.delay = 0, 0, 0.0
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """Memory of the device is NaN before a page has arrived and after it has left."""
    seen = Away()
    copied, leave, begin = Carrier._copied, WeightPage.leave, Carrier.begin

    def late(self: Carrier, home: Any, content: Tensor, ready: Any) -> Any:
        content.fill_(NAN)
        time.sleep(seen.delay)
        return copied(self, home, content, ready)

    def begun_to_come(self: Carrier, home: Any) -> Any:
        arrival = begin(self, home)
        seen.alive.add(arrival.content)
        seen.most = max(seen.most, len(seen.alive))
        seen.brought += 1
        return arrival

    def left(self: WeightPage, carrier: Carrier, *, graph: bool) -> None:
        here = self._here
        leave(self, carrier, graph=graph)
        if here is not None:
            here.fill_(NAN)

    monkeypatch.setattr(Carrier, "_copied", late)
    monkeypatch.setattr(Carrier, "begin", begun_to_come)
    monkeypatch.setattr(WeightPage, "leave", left)
    yield seen


def alike(plain: Program, beside: Program, stream: BatchStream, steps: int = 2) -> None:
    """Both train the same, to the bit."""
    wanted, _ = take_steps(plain, stream, steps)
    found, _ = take_steps(beside, stream, steps)
    assert wanted.isfinite().all() and (wanted[:, 1] > 0).all()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    weights = dict(plain.network.named_parameters())
    assert weights.keys() == dict(beside.network.named_parameters()).keys()
    for name, parameter in beside.network.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"compute_dtype": "bfloat16", "base_storage": "nf4"},
        {"gradient_checkpointing": "full", "base_storage": "llm_int8"},
        {
            "gradient_checkpointing": "selective",
            "micro_batch_size": 4,
            "grad_accum": 2,
        },
        {"gradient_checkpointing": "sqrt", "compute_dtype": "bfloat16"},
        {"gradient_checkpointing": "attention", "weights_ahead": 3},
        {"gradient_checkpointing": "full", "feedforward_tile": 128},
        {"feedforward_tile": 128, "base_storage": "nf4"},
        {"chunk_size": 16, "attention": "blockwise"},
        {"activation_bits": 8},
        {"gradient_checkpointing": "full", "activations_in": "disk"},
        {"fp8": "e4m3", "compute_dtype": "bfloat16"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "plain",
)
def test_adapters_learn_the_same(
    base: dict[bool, StateSource],
    stream: BatchStream,
    away: Away,
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    plan = adapted(**changes, offload_folder=str(tmp_path))
    beside = begun(plan.replace(weights_in="host"), base[False])
    alike(begun(plan, base[False]), beside, stream)
    assert away.brought > LAYERS


@pytest.mark.parametrize("mode", ["none", "full"])
def test_experts_are_streamed(
    base: dict[bool, StateSource], stream: BatchStream, away: Away, mode: str
) -> None:
    plan = adapted(True, base_storage="nf4", gradient_checkpointing=mode)
    beside = begun(plan.replace(weights_in="host"), base[True])
    alike(begun(plan, base[True]), beside, stream)


@pytest.mark.parametrize("method", ["dora", "loha", "ia3"])
def test_other_adapters_read_the_weights_of_their_block(
    base: dict[bool, StateSource], stream: BatchStream, away: Away, method: str
) -> None:
    plan = adapted(adapter=replace(ADAPTER, method=method, dropout=0.0))
    alike(
        begun(plan, base[False]),
        begun(plan.replace(weights_in="host"), base[False]),
        stream,
    )


def test_weights_that_patterns_freeze_are_streamed_and_saved(
    base: dict[bool, StateSource], stream: BatchStream, away: Away, tmp_path: Path
) -> None:
    """From files, and the run goes on with the weights on the device and back."""
    frozen = ("*feedforward*", "*.2.*")
    plan = deep(tiny_plan(), freeze=frozen, offload_folder=str(tmp_path))
    plain, streamed = assemble(plan, base[False]), plan.replace(weights_in="disk")
    wanted, reached = take_steps(plain, stream, 6)
    beside = assemble(streamed, base[False])
    first, progress = take_steps(beside, stream, 2)
    beside = reassembled(beside, progress, plan)
    then, progress = take_steps(beside, stream, 2, progress)
    beside = reassembled(beside, progress, streamed)
    last, progress = take_steps(beside, stream, 2, progress)
    found = torch.cat([first, then, last])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    states = [capture(one, reached, everything=True) for one in (plain, beside)]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name


def test_a_block_waits_for_a_slow_copy(
    base: dict[bool, StateSource], stream: BatchStream, away: Away
) -> None:
    away.delay = 0.02
    plan = adapted(base_storage="nf4", gradient_checkpointing="full")
    beside = begun(plan.replace(weights_in="host", weights_ahead=2), base[False])
    alike(begun(plan, base[False]), beside, stream, steps=1)


@pytest.mark.parametrize("mode", ["none", "full", "sqrt"])
@pytest.mark.parametrize("ahead", [1, 2])
def test_so_many_blocks_are_on_the_device_as_the_plan_counts(
    base: dict[bool, StateSource],
    stream: BatchStream,
    away: Away,
    mode: str,
    ahead: int,
) -> None:
    plan = adapted(
        weights_in="host",
        weights_ahead=ahead,
        gradient_checkpointing=mode,
        base_storage="nf4",
    )
    program = begun(plan, base[False])
    counted = streamed_weights(plan.spec, layout_of(plan))
    take_steps(program, stream, 2)
    streamed = program.network.backbone.streamed
    assert [page.size for page in streamed.pages] == [counted.largest] * LAYERS
    assert counted.whole == LAYERS * counted.largest
    if mode == "sqrt":  # a block that goes back waits for those computed again
        assert 1 + ahead <= away.most <= counted.here // counted.largest
    else:
        assert counted.here == away.most * counted.largest
        assert away.most == 1 + ahead
    held = beside_the_device(program.network)
    assert sum(tensor.nbytes for tensor in held) == counted.weights
    plain = begun(plan.replace(weights_in="device"), base[False])
    assert plain.held["model"] - program.held["model"] == counted.weights


def test_nothing_stays_on_the_device_between_steps(
    base: dict[bool, StateSource], stream: BatchStream, away: Away
) -> None:
    """Nor does a program that was closed keep its pages."""
    program = begun(adapted(weights_in="host"), base[False])
    take_steps(program, stream, 1)
    gc.collect()
    assert away.brought > 0 and not list(away.alive)
    homes = [weakref.ref(page.home) for page in program.network.backbone.streamed.pages]
    program.close()
    gc.collect()
    assert [home() for home in homes] == [None] * LAYERS


def test_an_evaluation_drops_every_block_at_once(
    base: dict[bool, StateSource], stream: BatchStream, away: Away
) -> None:
    program = begun(adapted(weights_in="host"), base[False])
    plain = begun(adapted(), base[False])
    batch = stream.step(
        dict(stream.start), rank=0, data_ranks=1, micro_batch_size=8
    ).micro_batches[0]
    with torch.no_grad():
        losses = [one.model(batch)[0].loss_sum for one in (program, plain)]
    assert torch.equal(*losses) and away.most == 2
    gc.collect()
    assert not list(away.alive)


def test_a_backward_pass_that_broke_off_leaves_nothing_behind(
    base: dict[bool, StateSource],
    stream: BatchStream,
    away: Away,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next forward pass begins with no block on the device."""
    program = begun(adapted(weights_in="host"), base[False])
    streamed = program.network.backbone.streamed
    whole = streamed.gone_back

    def breaks(index: int) -> None:
        if index == 2:
            raise torch.OutOfMemoryError("for a test")
        whole(index)

    monkeypatch.setattr(streamed, "gone_back", breaks)
    with pytest.raises(torch.OutOfMemoryError):
        take_steps(program, stream, 1)
    monkeypatch.undo()
    program.optimizer.zero_grad()
    assert any(page.here for page in streamed.pages)
    before = []
    use = streamed.use
    monkeypatch.setattr(
        streamed,
        "use",
        lambda index, towards: (
            before.append([page.here for page in streamed.pages]) or use(index, towards)
        ),
    )
    alike(begun(adapted(), base[False]), program, stream)
    assert before[0] == [False] * LAYERS


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full"])
def test_compiled_blocks_learn_the_same(
    base: dict[bool, StateSource], stream: BatchStream, away: Away, mode: str
) -> None:
    adapter = replace(ADAPTER, dropout=0.0)
    plan = adapted(adapter=adapter, gradient_checkpointing=mode, compile=True)
    plain = begun(plan, base[False])
    wanted, _ = take_steps(plain, stream, 2)
    plain.close()
    beside = begun(plan.replace(weights_in="host"), base[False])
    found, _ = take_steps(beside, stream, 2)
    beside.close()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert away.most == 2


def test_tensors_take_a_type_until_they_have_their_place() -> None:
    program = assemble(deep(tiny_plan(), weights_in="host", freeze=("*.0.*",)))
    first, second, *_ = program.network.backbone.blocks
    frozen, trained = first.feedforward.down.weight, second.feedforward.down.weight
    first.to(torch.bfloat16)
    assert frozen.dtype == torch.bfloat16
    program.network.to("meta")
    assert trained.device.type == "cpu" or second.feedforward.down.weight.is_meta
    assert first.feedforward.down.weight.device.type == "cpu"
    program.network.backbone.streamed.settle(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="keep their type"):
        first.to(torch.float32)


def test_pages_hold_what_is_frozen_and_where_all_trains_all_but_routers() -> None:
    frozen = assemble(deep(tiny_plan(), weights_in="host", freeze=("*.0.*",)))
    first, second, *_ = (
        [id(one) for one in page.tensors()]
        for page in frozen.network.backbone.streamed.pages
    )
    assert first == [id(p) for p in frozen.network.backbone.blocks[0].parameters()]
    assert second == []
    plan = deep(tiny_plan(True), weights_in="host", optimizer_states_in="host")
    backbone = assemble(plan).network.backbone
    held = {id(one) for one in backbone.streamed.pages[0].tensors()}
    left = [n for n, p in backbone.blocks[0].named_parameters() if id(p) not in held]
    assert left == ["feedforward.router.weight"]


def test_one_thread_copies_one_page_after_the_other() -> None:
    """They share the memory that they pass on the host: two at once would mix."""
    asked_for_both, threads = threading.Event(), []

    class Home:
        staged = False

        def __init__(self, value: int) -> None:
            self.rest = torch.full((8,), value, dtype=torch.uint8)

        def read(self, into: Tensor | None) -> Tensor:
            asked_for_both.wait(240)
            threads.append(threading.get_ident())
            return self.rest

    carrier = Carrier(torch.device("cpu"), staged=False)
    coming = [carrier.begin(Home(value)) for value in (3, 5)]  # type: ignore[arg-type]
    asked_for_both.set()
    assert [carrier.wait(one).tolist() for one in coming] == [[3] * 8, [5] * 8]
    carrier.close()
    assert len(threads) == 2 and len(set(threads)) == 1
