"""What a plan says of states that live beside the device."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.config import Config
from lumina.config.layer import Layer
from lumina.errors import LuminaError
from lumina.model.declared import in_block, parameters
from lumina.observe.banner import banner_lines
from machines import cpu, gpu, plan_for

GIB = 2**30


def large(**changes) -> Config:
    return Config.resolve(preset="dense_3b").replace(**changes)


@pytest.mark.covers("MEM-11: CPU offload of optimizer")
def test_states_in_host_memory_leave_three_pages_on_the_device() -> None:
    plain = plan_for(large(), gpu(host_memory_bytes=64 * GIB))
    host = plan_for(large(optimizer_states_in="host"), gpu(host_memory_bytes=64 * GIB))
    assert plain.elsewhere == {}
    masters = plain.memory["master_weights"]
    assert host.elsewhere == {"host": plain.memory["optimizer"] + masters}
    assert host.memory["master_weights"] == 0
    averaged = plan_for(
        large(optimizer_states_in="host", ema_decay=0.9),
        gpu(host_memory_bytes=64 * GIB),
    )
    assert averaged.memory["master_weights"] == masters
    assert averaged.elsewhere == {"host": plain.memory["optimizer"]}
    assert plain.memory["optimizer"] == 8 * plain.parameters
    page = 12 * max(one.size for one in parameters(plain.spec))
    assert host.memory["optimizer"] == 3 * page > 3 * 256 * 2**20
    shown = " ".join(banner_lines(host, gpu(), None, None))
    assert "beside it" in shown and "pinned host memory" in shown
    disk = plan_for(large(optimizer_states_in="disk"), gpu(host_memory_bytes=64 * GIB))
    assert disk.elsewhere == {
        "disk": plain.memory["optimizer"] + masters,
        "host": 3 * page,
    }


def test_states_that_the_host_has_no_room_for_are_refused() -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(large(optimizer_states_in="host"), gpu(host_memory_bytes=2 * GIB))
    assert caught.value.code == "E202"
    assert "--optimizer-states-in disk" in str(caught.value)


def test_a_model_too_large_with_its_states_is_told_of_the_host() -> None:
    taken = {"batch_size": 1, "global_batch_size": 1, "gradient_checkpointing": "full"}
    card = gpu("a card", 30, (8, 0), host_memory_bytes=64 * GIB)
    with pytest.raises(LuminaError) as caught:
        plan_for(large(**taken), card)
    assert caught.value.code == "E203"
    assert "--optimizer-states-in host" in caught.value.hint
    plan = plan_for(large(**taken, optimizer_states_in="host"), card)
    assert plan.memory["bound"] <= card.memory_bytes


def adapted(**changes: Any) -> Any:
    peft = {"use_peft": True, "init_from": "base", "tie_embeddings": False}
    return large(**peft, precision="bf16", **changes)


def test_a_frozen_embedding_on_the_host_is_counted_there() -> None:
    plain, host = (
        plan_for(adapted(embedding_in=place), gpu()) for place in ("device", "host")
    )
    table = 2 * host.spec.padded_vocab_size * host.spec.hidden_size
    assert host.elsewhere == {"host": table} and plain.elsewhere == {}
    assert plain.memory["weights"] - host.memory["weights"] == table


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"tie_embeddings": True}, "E002", "the head multiplies by the same table"),
        ({"use_peft": False, "init_from": None}, "E002", "without use_peft it trains"),
        ({"parallel": "fsdp2"}, "E002", "divides every table"),
    ],
)
def test_an_embedding_that_cannot_leave_is_refused(
    changes: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(adapted(embedding_in="host").replace(**changes), gpu())
    assert caught.value.code == code and words in caught.value.message


def test_on_the_cpu_states_are_in_host_memory_anyway() -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(large(optimizer_states_in="host"), cpu())
    assert caught.value.code == "E003" and "anyway" in str(caught.value)
    paged = plan_for(large(optimizer_states_in="disk"), cpu(memory_bytes=96 * GIB))
    assert set(paged.elsewhere) == {"disk"}


ALL = {"use_peft": False, "init_from": None, "optimizer_states_in": "host"}


@pytest.mark.covers("MEM-11: offload of parameters, cpu_offload_parameters")
@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_frozen_blocks_on_the_host_leave_two_of_them_on_the_device(
    load_in_4bit: bool,
) -> None:
    asked = adapted(load_in_4bit=load_in_4bit)
    plain, host = (
        plan_for(asked.replace(weights_in=place), gpu(host_memory_bytes=64 * GIB))
        for place in ("device", "host")
    )
    saved = plain.memory["weights"] - host.memory["weights"]
    whole, layers = host.elsewhere["host"], host.spec.num_layers
    block = whole // layers
    # The second is there only while another one computes, and counted as work.
    assert 0 <= whole - block - saved < 4096 * layers
    matrices = sum(
        one.size
        for one in in_block(host.spec, 0).values()
        if one.role == "matrix" and "adapters" not in one.name
    )
    share = block / matrices
    assert 0.51 < share < 0.52 if load_in_4bit else 2.0 <= share < 2.001
    three = asked.replace(weights_in="host", weights_ahead=2)
    more = plan_for(three, gpu(host_memory_bytes=64 * GIB))
    assert more.memory["weights"] - host.memory["weights"] == block
    disk = plan_for(asked.replace(weights_in="disk"), gpu(host_memory_bytes=64 * GIB))
    assert disk.elsewhere == {"disk": whole, "host": block}
    # What is frozen has no gradients that several forwards would add up on the host.
    twice = asked.replace(weights_in="host", batch_size=1, global_batch_size=2)
    added = plan_for(twice, gpu(host_memory_bytes=64 * GIB))
    assert added.grad_accum == 2 and added.elsewhere == host.elsewhere


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"use_peft": False, "init_from": None}, "E002", "states beside the device"),
        (ALL | {"ema_decay": 0.9}, "E002", "ema_decay"),
        (ALL | {"gradient_steps": ("agc",)}, "E002", "gradient_steps"),
        ({"use_mor": True}, "E002", "passed several times"),
        ({"parallel": "fsdp2"}, "E002", "divided over the processes"),
        ({"parallel": "ddp"}, "E002", "several processes"),
        ({"experimental_cuda_graphs": True}, "E002", "inside the step"),
    ],
)
def test_weights_that_cannot_be_streamed_are_refused(
    changes: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(adapted(weights_in="host").replace(**changes), gpu())
    assert caught.value.code == code and words in caught.value.message


@pytest.mark.parametrize(("host", "place"), [(64, "host"), (2, "disk")])
def test_a_base_too_large_is_told_of_the_host(host: int, place: str) -> None:
    card = gpu("a card", 5, (8, 0), host_memory_bytes=host * GIB)
    taken = {"batch_size": 1, "global_batch_size": 1, "gradient_checkpointing": "full"}
    with pytest.raises(LuminaError) as caught:
        plan_for(adapted(**taken), card)
    assert caught.value.code == "E201"
    assert f"--weights-in {place}" in caught.value.hint
    plan = plan_for(adapted(**taken, weights_in=place), card)
    assert plan.memory["bound"] <= card.memory_bytes


@pytest.mark.parametrize("rows", [1, 2])
def test_weights_that_train_leave_with_their_gradients(rows: int) -> None:
    """Sums of several forwards are float32; two blocks' gradients are on the device."""
    batch = {"batch_size": 1, "global_batch_size": rows, "max_grad_norm": 0.0}
    asked = large(optimizer_states_in="host", precision="bf16", **batch)
    machine = gpu(host_memory_bytes=256 * GIB)
    plain = plan_for(asked, machine)
    host = plan_for(asked.replace(weights_in="host"), machine)
    numbers = [
        sum(one.size for one in in_block(host.spec, layer).values())
        for layer in range(host.spec.num_layers)
    ]
    element = 2 * rows
    beside = host.elsewhere["host"] - plain.elsewhere["host"]
    largest = max(one.size for one in in_block(host.spec, 0).values())
    wanted = (2 + element) * sum(numbers) + 2 * largest * (rows - 1)
    assert 0 <= beside - wanted < 4096 * len(numbers)
    saved = {name: plain.memory[name] - host.memory[name] for name in plain.memory}
    assert 0 <= 2 * sum(numbers[1:]) - saved["weights"] < 4096 * 2
    left = element * sum(numbers) - saved["gradients"]
    assert left == 2 * 2 * max(numbers)
    assert -saved["optimizer"] == (2 + element) * largest
    early = asked.replace(weights_in="host", optimizer_in_backward=True)
    if rows == 1:
        held = plan_for(early, machine).elsewhere["host"] - plain.elsewhere["host"]
        assert beside - held == element * sum(numbers)
    disk = plan_for(asked.replace(weights_in="disk"), machine)
    assert disk.elsewhere["disk"] == host.elsewhere["host"] - (
        plain.elsewhere["host"] + element * sum(numbers) + 2 * largest * (rows - 1)
    )


def test_weights_that_the_host_has_no_room_for_are_refused() -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(adapted(weights_in="host"), gpu(host_memory_bytes=2 * GIB))
    assert caught.value.code == "E202" and "--weights-in disk" in caught.value.hint


@pytest.mark.covers("MEM-11: cpu_offload_optimizer, nvme_path")
@pytest.mark.covers("MEM-11: offload of parameters, cpu_offload_parameters")
def test_the_names_of_the_documents_mean_these_options() -> None:
    layer = Layer()
    layer.put("cpu_offload_parameters", True)
    layer.put("cpu_offload_optimizer", True)
    layer.put("nvme_path", "/mnt/nvme")
    assert layer.leaves == {
        "weights_in": "host",
        "optimizer_states_in": "host",
        "offload_folder": "/mnt/nvme",
    }
