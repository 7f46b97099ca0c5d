"""Activations in few bits and on disk: gradients, bytes, and what may go wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lumina.assemble.features import build_features
from lumina.assemble.kept.beside import Beside
from lumina.assemble.kept.coded import coded, decoded
from lumina.config import Config
from lumina.config.provenance import Source
from lumina.errors import LuminaError
from lumina.measure.live_bytes import LiveBytes
from lumina.model.build import build_network
from lumina.plan.figures import layout_of
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan
from machines import gpu, plan_for
from networks import packed_batch
from tiny_runs import Runs

SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "seq_length": 64,
    "intermediate_size": 384,
    "global_batch_size": 4,
    "batch_size": 4,
    "loss_chunk_bytes": 2**19,
    "steps": 1,
    "device": "cpu",
}
MOE = {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 96}


ASKED = Source("option", "a test")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "offload"


def planned(**options: Any) -> Plan:
    return plan_for(Config(**(SHAPE | options)))


def gradients(plan: Plan, passes: int = 1) -> tuple[list[Tensor], int, int]:
    """(every gradient, bytes kept for backward, most bytes alive)."""
    network = build_network(plan.spec, loss_chunk_bytes=plan.loss_chunk_bytes, seed=0)
    build_features(network, plan)
    meter = LiveBytes()
    for parameter in network.parameters():
        meter.add(parameter)
    for _ in range(passes):
        network.zero_grad()
        torch.manual_seed(1)
        meter.now = meter.peak = 0
        with meter:
            sums, aux = network(packed_batch([[40, 24]] * 4, 64))
            kept = meter.now
            total = sums.loss_sum + sum(aux[k] for k in aux if k.endswith("loss"))
            total.backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    return [one.clone() for one in found], kept, meter.peak


def distance(found: list[Tensor], reference: list[Tensor]) -> float:
    """The relative error of the whole gradient."""
    one = torch.cat([g.flatten() for g in found])
    two = torch.cat([g.flatten() for g in reference])
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("full", {"dropout": 0.1}),
        ("sqrt", {}),
        pytest.param("selective", MOE, marks=pytest.mark.thorough),
    ],
)
def test_inputs_on_disk_give_the_same_gradients(
    kind: str, options: dict[str, Any], folder: Path
) -> None:
    """Also in the second pass, which uses the files of the first."""
    shape = options | {"gradient_checkpointing": kind, "num_layers": 6}
    plain, here, _ = gradients(planned(**shape))
    away = planned(**shape, activations_in="disk", offload_folder=str(folder))
    found, kept, _ = gradients(away, passes=2)
    assert len(found) == len(plain)
    assert all(map(torch.equal, found, plain))
    assert here - kept >= 0.9 * (away.elsewhere["disk"] - 2 * 4 * 64 * 128 * 4)
    assert folder.is_dir() and not list(folder.iterdir())  # the files have no names


@pytest.mark.covers(
    "MEM-09: 4-bit activation quantisation (NF4) for stored activations"
)
@pytest.mark.parametrize(
    ("bits", "kind", "options", "most"),
    [
        (8, "none", {}, 0.01),
        (4, "none", {}, 0.15),
        (4, "full", {}, 0.2),
        pytest.param(4, "none", MOE, 0.3, marks=pytest.mark.thorough),
        pytest.param(4, "budget", {}, 0.2, marks=pytest.mark.thorough),
    ],
)
def test_few_bits_change_the_gradient_by_a_small_part(
    bits: int, kind: str, options: dict[str, Any], most: float
) -> None:
    shape = options | {"gradient_checkpointing": kind, "num_layers": 2}
    plain, here, _ = gradients(planned(**shape))
    plan = planned(**shape, activation_bits=bits)
    found, kept, peak = gradients(plan)
    error = distance(found, plain)
    assert 1e-6 < error < most, error
    assert kept < here
    parts = estimate(plan.spec, layout_of(plan))
    stays = parts["activations"] + parts["routed"]
    tokens = 4 * 64 + plan.spec.padded_vocab_size
    assert kept - 4 * 128 * tokens == pytest.approx(stays, rel=0.06)
    names = ("activations", "routed", "logits", "working", "gradients")
    assert peak <= sum(parts[name] for name in names)


@pytest.mark.covers("MEM-09: 4x from fp16")
def test_the_codes_are_a_quarter_of_fp16_and_their_scales_come_on_top() -> None:
    """The design's 4x counts codes alone; what is stored is 3.56 times less."""
    x = torch.randn(4, 64, 128, generator=torch.Generator().manual_seed(0)).half()
    one = coded(x, 4)
    parts = {name: tensor.nbytes for name, tensor in one.tensors.items()}
    stored = sum(tensor.untyped_storage().nbytes() for tensor in one.tensors.values())
    assert x.nbytes == 4 * max(parts.values())
    assert stored == sum(parts.values()) == x.nbytes * 4.5 / 16
    back = decoded(one)
    assert back.dtype == torch.float16 and back.shape == x.shape


def test_numbers_that_vanish_or_are_odd_in_number_come_back() -> None:
    torch.manual_seed(0)
    for shape in ((3, 5, 7), (1,), (2, 64), (130, 64)):
        x = torch.randn(shape)
        x.view(-1)[0] = 0.0
        for bits, most in ((8, 1 / 127), (4, 0.16)):
            y = decoded(coded(x, bits))
            assert y.shape == x.shape and (y - x).abs().max() <= most * x.abs().max()
            assert not decoded(coded(torch.zeros(shape), bits)).any()
    x = torch.randn(64)
    x[3] = torch.nan
    assert decoded(coded(x, 4)).isnan().any()


def test_a_tensor_that_changes_while_it_is_copied_is_refused(folder: Path) -> None:
    """It would be computed with otherwise, silently."""
    store = Beside("disk", folder)
    first, second = torch.ones(5000), torch.ones(5000)
    away, here = store.put(first), store.put(second)
    first += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        store.get(here), store.get(away)


def test_each_tensor_comes_back_once_and_files_are_used_again(folder: Path) -> None:
    store = Beside("disk", folder)
    for number in range(3):
        made = [torch.full((n + 1, 1000), number + n / 8) for n in range(5)]
        away = [store.put(one) for one in made]
        for n in reversed(range(5)):
            assert torch.equal(store.get(away[n]), made[n])
        with pytest.raises(RuntimeError, match="second backward pass"):
            store.get(away[0])
        del away
    assert sum(map(len, store._free.values())) == 4  # the last one never leaves


def test_a_full_disk_is_coded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    store = Beside("disk", folder)
    first = store.put(torch.ones(5000))
    with pytest.raises(LuminaError) as caught:
        store.put(torch.ones(5000))
    assert caught.value.code == "E204" and "--offload-folder" in caught.value.hint
    assert torch.equal(store.get(first), torch.ones(5000))  # it never left


def test_the_plan_says_what_leaves_the_device_and_how_much() -> None:
    shape = SHAPE | {"num_layers": 16, "hidden_size": 1024, "seq_length": 8192}
    shape |= {"num_heads": 8, "device": "auto"}
    full = plan_for(Config(**shape, gradient_checkpointing="full"), gpu())
    size = 4 * 8192 * 1024 * 2
    for bits, one in ((None, size), (8, size / 2 * 1.0625), (4, size / 2 * 0.5625)):
        away = Config(**shape, activations_in="host", activation_bits=bits)
        plan = plan_for(away.override({"gradient_checkpointing": "full"}, ASKED), gpu())
        assert plan.elsewhere == {"host": 15 * one}
        saved = full.memory["activations"] - plan.memory["activations"]
        assert saved == pytest.approx(16 * size - 3 * one)
    assert plan_for(away, gpu()).gradient_checkpointing == "selective"


def test_what_does_not_go_together_is_refused_by_name() -> None:
    for code, words, options in (
        ("E003", "CUDA", {"activations_in": "host", "gradient_checkpointing": "full"}),
        ("E002", "gradient_checkpointing none", {
            "activations_in": "disk", "gradient_checkpointing": "none"}),
        ("E002", "use_hrm", {"activation_bits": 8, "use_hrm": True}),
        ("E002", "choice of experts", MOE | {
            "activation_bits": 8, "gradient_checkpointing": "full"}),
    ):  # fmt: skip
        with pytest.raises(LuminaError, match=words) as caught:
            planned(**options)
        assert caught.value.code == code
    bits = SHAPE | {"device": "auto", "activation_bits": 4}
    with pytest.raises(LuminaError, match="compile"):
        Config(**bits, compile=True)
    full = Config(**bits, compile=True, gradient_checkpointing="full")
    assert plan_for(full, gpu()).compile
    assert not plan_for(Config(**bits), gpu()).compile


@pytest.mark.thorough
def test_a_run_with_everything_together_is_the_plain_one_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments, files and tiles; resumed to the bit in the middle."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    shape = {"num_layers": 5, "batch_size": 4, "steps": 4}
    kept = {"gradient_checkpointing": "sqrt", "activations_in": "disk"}
    kept |= {"feedforward_tile": 48, "offload_folder": str(tmp_path / "files")}
    plain = runs.train(**shape)
    whole = runs.train(**shape, **kept)
    assert whole.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)
    half = runs.train(**(shape | {"steps": 2}), **kept)
    rest = runs.train(**shape, **kept, run_dir=str(half.folder), auto_resume=True)
    assert rest.column("loss")[-2:] == whole.column("loss")[-2:]
    for name, tensor in whole.tensors.items():
        assert torch.equal(rest.tensors[name], tensor), name
    chunks = {"use_chunked_training": True, "chunk_size": 16}
    chunked = runs.train(**shape, **kept, **chunks)
    assert chunked.column("loss") == pytest.approx(plain.column("loss"), rel=1e-4)
