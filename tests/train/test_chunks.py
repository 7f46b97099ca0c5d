"""Chunked training: the loss and the gradient of whole rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.config import Config
from lumina.config.layer import Layer
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.features.declared import chunked_training
from lumina.model.earlier_keys import EarlierKeys
from lumina.model.registry import load_plugins
from lumina.model.spec import MoeSpec, PartsSpec
from lumina.ops.attention import blockwise
from lumina.ops.attention.pieces import KEYS
from lumina.plan.chunks import SHORTEST
from lumina.train.step import SCALARS, forwards, losses_of
from machines import cpu, gpu, plan_for
from networks import packed_batch
from programs import tiny_plan

LENGTH = 48
BATCH = packed_batch([[5, 17, 20], [LENGTH], [30, 18]], LENGTH, vocab=300)
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "window": {"window_size": 9},
    "sinks and dilation": {
        "window_size": 5, "attention_sinks": 2, "attention_dilation": 4,
    },
    "latent": {"num_kv_heads": 4, "mla_kv_rank": 12, "mla_rope_dim": 4,
               "mla_value_dim": 4},
    "experts": {"moe": MoeSpec(4, 2, 16, layers=(0, 1))},
}  # fmt: skip


def plan_of(name: str, **changes: Any) -> Any:
    plan = tiny_plan(global_batch_size=3, micro_batch_size=3)
    values = {"seq_length": LENGTH, **SHAPES[name]}
    return plan.replace(spec=replace(plan.spec, **values), **changes)


def learned(plan: Any, batch: Any = BATCH) -> tuple[list[float], dict[str, Any], int]:
    """The sums of the losses, the gradient of every parameter, and the passes."""
    program = assemble(plan)
    counted = int((batch.labels >= 0).sum())
    tokens = int((batch.document_ids >= 0).sum())
    step = StepBatches([batch], counted, tokens, {}, None, [])
    sums = torch.zeros(len(SCALARS) + len(program.terms))
    taken = 0
    for one in forwards(program, step, 0, 3):
        total, _ = losses_of(program, step, 0, sums, one)
        one.backward(total)
        taken += 1
    found = {
        name: parameter.grad
        for name, parameter in program.network.named_parameters()
        if parameter.grad is not None
    }
    return sums.tolist(), found, taken


@pytest.mark.covers(
    "MEM-06: gradient accumulation per chunk",
)
@pytest.mark.parametrize("name", SHAPES)
def test_chunks_learn_what_the_whole_rows_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a kernel, which takes such short blocks only here, and by plain arithmetic."""
    losses, gradients, taken = learned(plan_of(name))
    assert taken == 1
    for size, least in ((16, 0.01), (21, blockwise.FEW_QUERIES)):
        monkeypatch.setattr(blockwise, "FEW_QUERIES", least)
        mode = "full" if (name, size) == ("dense", 16) else "none"
        changed = {"attention": "blockwise", "gradient_checkpointing": mode}
        got, found, taken = learned(plan_of(name, chunk_size=size, **changed))
        assert taken == 3
        assert got == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(found, gradients, rtol=1e-3, atol=2e-6)


def recurrent(block: tuple[str, ...], **changes: Any) -> Any:
    folder = Path(__file__).parents[1]
    load_plugins([str(folder / "recurrent_parts.py"), str(folder / "own_parts.py")])
    options = {"mamba": {"states": 4, "expand": 2, "width": 4}}
    plan = tiny_plan(global_batch_size=3, micro_batch_size=3)
    parts = PartsSpec(block=block, options=options)
    return plan.replace(
        spec=replace(plan.spec, seq_length=LENGTH, parts=parts), **changes
    )


@pytest.mark.covers("MEM-06: carry of recurrent state")
@pytest.mark.parametrize("block", ["mamba", "rwkv", "parallel"])
def test_states_are_carried_with_their_gradients(block: str) -> None:
    """Between blocks of attention, whole and recomputed, over borders of documents."""
    names = tuple(block if i != 1 else "" for i in range(tiny_plan().spec.num_layers))
    losses, gradients, _ = learned(recurrent(names))
    for size, mode in ((16, "none"), (21, "full")):
        changed = {"attention": "blockwise", "gradient_checkpointing": mode}
        got, found, taken = learned(recurrent(names, chunk_size=size, **changed))
        assert taken == 3
        assert got == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(found, gradients, rtol=1e-3, atol=2e-6)


def test_a_registered_block_that_hands_nothing_on_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = recurrent(("rwkv", "rwkv"), chunk_size=16, attention="blockwise")
    monkeypatch.setattr(EarlierKeys, "remember", lambda *_, **__: None)
    with pytest.raises(LuminaError) as caught:
        learned(plan)
    assert caught.value.code == "E002"
    assert "rwkv of layer 0 hands nothing on" in caught.value.message


@pytest.mark.thorough
def test_selective_checkpointing_keeps_the_attention_of_a_chunk() -> None:
    _, gradients, _ = learned(plan_of("dense"))
    changed = {"attention": "blockwise", "gradient_checkpointing": "selective"}
    _, found, _ = learned(plan_of("dense", chunk_size=16, **changed))
    torch.testing.assert_close(found, gradients, rtol=1e-3, atol=2e-6)


def test_chunks_with_random_draws_go_forward_alike_both_times() -> None:
    """Where dropout differed between the two passes, repeated gradients would too."""
    plan = plan_of("dense", chunk_size=16, attention="blockwise")
    plan = plan.replace(spec=replace(plan.spec, dropout=0.5))
    first, again = learned(plan), learned(plan)
    torch.testing.assert_close(first[1], again[1], rtol=0, atol=0)
    program = assemble(plan)
    step = StepBatches([BATCH], 1, 1, {}, None, [])
    for one in forwards(program, step, 0, 3):
        held = one.earlier
        assert held is not None
        before = {key: x.values.clone() for key, x in held._held.items()}
        held.turn(held.begin, held.end, learns=False)
        program.model(one.batch, cache=held)
        held.turn(held.begin, held.end, learns=True)
        if held.end < LENGTH:
            for key, x in held._held.items():
                torch.testing.assert_close(x.values, before[key])


def test_gradients_of_narrow_weights_add_up_in_float32() -> None:
    plan = plan_of("dense", chunk_size=16, attention="blockwise")
    program = assemble(plan.replace(compute_dtype="bfloat16"))
    slots = program.optimizer.slots
    assert any(slot.accumulator is not None for slot in slots)


def test_what_is_kept_for_backward_is_that_of_one_chunk() -> None:
    kept = {}
    for size in (0, 12):
        program = assemble(plan_of("dense", chunk_size=size, attention="blockwise"))
        step = StepBatches([BATCH], 1, 1, {}, None, [])
        sums, most = torch.zeros(len(SCALARS)), 0
        for one in forwards(program, step, 0, 0):
            saved: dict[int, int] = {}
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, into=saved: into.update({t.data_ptr(): t.nbytes}) or t,
                lambda t: t,
            ):
                total, _ = losses_of(program, step, 0, sums, one)
            total.backward()
            held = set() if one.earlier is None else one.earlier._held.values()
            own = {x.values.data_ptr() for x in held}
            weights = {p.data_ptr() for p in program.network.parameters()}
            sizes = (n for at, n in saved.items() if at not in own | weights)
            most = max(most, sum(sizes))
        kept[size] = most
    assert kept[12] < kept[0] / 3


def test_keys_in_host_memory_give_the_same() -> None:
    """On a CPU both places are one; what is read and written is the same code."""
    batch = BATCH
    results = []
    for host in (False, True):
        held, grads = EarlierKeys(batch, host, whole=True), []
        new = torch.arange(2.0 * 3 * LENGTH * 2 * 4).reshape(2, 3, 2, LENGTH, 4)
        for begin in (0, 16):
            held.turn(begin, begin + 16, learns=False)
            held.pattern(0, None)  # type: ignore[arg-type]
            held.update(0, *new[:, :, :, begin : begin + 16])
        for begin in (32, 16, 0):
            held.turn(begin, begin + 16, learns=True)
            held.pattern(0, None)  # type: ignore[arg-type]
            part = new[:, :, :, begin : begin + 16].clone().requires_grad_()
            k, v = held.update(0, *part)
            torch.testing.assert_close(k, new[0, :, :, : begin + 16])
            (k * (begin + 1) + v).sum().backward()
            grads.append(part.grad)
        results.append(torch.stack(grads))
        assert held.nbytes == 4 * new.nbytes // 2
    torch.testing.assert_close(*results)
    # Every chunk's keys get the factors of its own and of all later chunks.
    assert results[0][:, 0, 0, 0, 0, 0].tolist() == [33, 33 + 17, 33 + 17 + 1]
    assert results[0][:, 1, 0, 0, 0, 0].tolist() == [1, 2, 3]


def planned(length: int, **options: Any) -> Any:
    machine = options.pop("machine", cpu())
    values = {"vocab_size": 64, "steps": 10, "global_batch_size": 1, **options}
    wanted = Config(seq_length=length, use_chunked_training=True, **values)
    return plan_for(wanted, machine)


@pytest.mark.covers("MEM-07")
def test_the_length_of_a_chunk_follows_the_length_of_the_row_and_the_memory() -> None:
    rows = (2048, 4096, 32_767, 32_768, 65_536, 99_999, 100_000, 524_288)
    sizes = [planned(length, machine=gpu()).chunk_size for length in rows]
    assert sizes == [2048, 4096, 4096, 2048, 1024, 1024, 512, 512]
    short = planned(2048)
    assert any("divides nothing" in text for text in short.warnings)
    wide = {"hidden_size": 1024, "intermediate_size": 32_768, "num_layers": 2}
    little = planned(16_384, machine=gpu(gib=5.5), **wide)
    assert SHORTEST <= little.chunk_size < 4096
    assert "do not fit" in little.reasons["chunk_size"]


def test_the_plan_counts_one_chunk_and_the_keys_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = plan_for(
        Config(vocab_size=64, steps=1, global_batch_size=1, seq_length=65_536,
               attention="blockwise", gradient_checkpointing="none"),
        gpu(),
    )  # fmt: skip
    options = {"machine": gpu(), "gradient_checkpointing": "none"}
    chunked = planned(65_536, chunk_size=1024, **options)
    offloaded = planned(65_536, chunk_size=1024, chunk_offload=True, **options)
    spec = chunked.spec
    keys = 2 * spec.num_layers * 65_536 * spec.num_kv_heads * spec.head_dim * (2 + 4)
    difference = chunked.memory["activations"] - offloaded.memory["activations"]
    assert difference == keys
    assert offloaded.memory["activations"] < whole.memory["activations"] / 32
    assert chunked.memory["bound"] < whole.memory["bound"]
    # Keys, values, their gradients and sums; in 16 bits, for each head of queries too.
    heads = 8 * spec.num_kv_heads + 2 * spec.num_heads
    piece = 2 * KEYS * heads * spec.head_dim
    assert chunked_training.PIECE_KEYS == KEYS
    monkeypatch.setattr(chunked_training, "PIECE_KEYS", 0)
    without = planned(65_536, chunk_size=1024, **options)
    assert chunked.memory["working"] - without.memory["working"] == piece


@pytest.mark.covers("MEM-05")
def test_keys_that_have_no_room_beside_the_model_lie_in_host_memory() -> None:
    """Beyond 500,000 tokens here; the flag of the documents says it at any length."""
    wide = {"hidden_size": 1024, "num_heads": 16, "num_layers": 16}
    machine = gpu(gib=40, host_memory_bytes=2**39)
    near = planned(65_536, machine=machine, **wide)
    far = planned(2**19, machine=machine, **wide)
    assert not near.chunk_offload and far.chunk_offload
    assert far.chunk_size == 512
    assert "524,288 tokens have no room" in far.reasons["chunk_offload"]
    assert far.memory["bound"] < 40 * 2**30
    with pytest.raises(LuminaError) as caught:
        planned(2**19, machine=machine, chunk_offload=False, **wide)
    assert caught.value.code in ("E201", "E203")
    layer = Layer()
    layer.put("cpu_offload", True)
    assert layer.leaves == {"chunk_offload": True}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"attention": "sdpa"}, "E002", "attention sdpa do not go together"),
        ({"use_mod": True}, "E002", "use_mod"),
        (
            {"use_moe": True, "moe_dispatch": "capacity"},
            "E002",
            "moe_dispatch capacity",
        ),
        ({"parallel": "fsdp2"}, "E002", "fsdp2"),
        ({"chunk_offload": True}, "E003", "in any case"),
    ],
)
def test_what_chunks_do_not_go_with_is_refused(
    options: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        planned(4096, chunk_size=512, **options)
    assert caught.value.code == code
    assert words in caught.value.message


def test_blocks_are_not_compiled() -> None:
    plan = planned(4096, chunk_size=512, machine=gpu())
    assert not plan.compile and plan.attention == "blockwise"
