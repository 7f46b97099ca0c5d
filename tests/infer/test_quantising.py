"""GPTQ of a whole model: what it looks at, what it writes, and what it is worth."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.networks import MOE, tiny
from lumina.batch import Batch
from lumina.data.packed_stream import eval_batches
from lumina.errors import LuminaError
from lumina.infer.calibrated import calibrated
from lumina.infer.calibration_data import calibration_rows
from lumina.infer.export import export_for_inference
from lumina.infer.load import load
from lumina.infer.quantising import Quantising
from lumina.infer.small_loss import _held_out
from lumina.measure.held_out import loss_of_text
from lumina.model.network import Network
from lumina.model.spec import StyleSpec
from lumina.model.stored import storable
from lumina.ops.gptq.blocked import gptq
from lumina.ops.gptq.coded import Grid, nearest
from lumina.state.huggingface import export_folder
from lumina.state.huggingface.written import GptqStored
from lumina.state.weights import open_weights
from tiny_runs import Run, Runs, story


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small model that has learned its text, and held out a part of it."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("trained")
        runs = Runs(folder, patched)
        return runs.train(
            steps=60, hidden_size=64, learning_rate=5e-3, eval_fraction=0.2
        )


def rows(seed: int, vocabulary: int = 90) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch.from_rows(torch.randint(0, vocabulary, (1, 24), generator=generator))


def inputs_of(network: Network, name: str, batches: list[Batch]) -> torch.Tensor:
    """What a linear layer takes, [N, in], by a forward pass of the whole model."""
    seen: list[torch.Tensor] = []
    module = network.get_submodule(name.removesuffix(".weight"))
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            network.backbone(batch, None)
    hook.remove()
    return torch.cat([one.flatten(0, -2) for one in seen])


@pytest.mark.parametrize("moe", [None, MOE], ids=["dense", "experts"])
def test_each_block_sees_what_the_coded_blocks_before_it_leave(moe: Any) -> None:
    """For every matrix, with the exact block itself and coded ones before it."""
    network = tiny(90, moe=moe, num_layers=3).eval()
    before = copy.deepcopy(network)
    batches, grid = [rows(seed) for seed in range(3)], Grid(4, 32)
    found = calibrated(network, batches, grid)
    assert found.tokens == 72 and set(found.errors) == set(
        storable(network.spec, network)
    )
    for layer in range(3):
        mixed = copy.deepcopy(before)
        for earlier in range(layer):
            block = network.backbone.blocks[earlier]
            mixed.backbone.blocks[earlier].load_state_dict(block.state_dict())
        for leaf in ("attention.qkv", "attention.out", "feedforward.down"):
            name = f"backbone.blocks.{layer}.{leaf}.weight"
            if name not in found.errors:
                continue
            x = inputs_of(mixed, name, batches)
            weight = before.get_parameter(name)
            expected = gptq(weight, x.T @ x, grid)
            torch.testing.assert_close(network.get_parameter(name), expected.wide())


def true_sequential_model(kind: str) -> Network:
    if kind == "phi":
        style = StyleSpec("phi", rotary_share=0.5)
        return tiny(90, num_layers=2, style=style, attention_bias=True).eval()
    if kind == "latent":
        latent = {"mla_kv_rank": 32, "mla_q_rank": 32, "mla_rope_dim": 4}
        return tiny(90, num_layers=2, mla_value_dim=8, **latent).eval()
    return tiny(90, num_layers=2).eval()


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [
        ("llama", ("attention.qkv", "attention.out", "feedforward.gate_up",
                   "feedforward.down")),
        ("latent", ("attention.q_down", "attention.q_up", "attention.kv_down",
                    "attention.kv_up", "attention.out", "feedforward.gate_up",
                    "feedforward.down")),
        ("phi", ("attention.qkv", "attention.out", "feedforward.up",
                 "feedforward.down")),
    ],
)  # fmt: skip
def test_in_true_sequential_order_each_matrix_sees_what_those_before_it_leave(
    kind: str, leaves: tuple[str, ...]
) -> None:
    """Written out: one matrix after the other, by a forward pass of the whole model."""
    network = true_sequential_model(kind)
    written_out = copy.deepcopy(network)
    together = copy.deepcopy(network)
    batches = [rows(seed) for seed in range(2)]
    grid = Grid(3, 32, symmetric=True)
    found = calibrated(network, batches, grid, true_sequential=True)
    calibrated(together, batches, grid)
    assert len(found.errors) == 2 * len(leaves)
    for layer in range(2):
        for leaf in leaves:
            name = f"backbone.blocks.{layer}.{leaf}.weight"
            x = inputs_of(written_out, name, batches)
            weight = written_out.get_parameter(name)
            expected = gptq(weight, x.T @ x, grid).wide()
            torch.testing.assert_close(network.get_parameter(name), expected)
            weight.data.copy_(expected)
    last = f"backbone.blocks.1.{leaves[-1]}.weight"
    assert not torch.equal(network.get_parameter(last), together.get_parameter(last))


@pytest.mark.parametrize("true_sequential", [False, True])
def test_experts_are_coded_for_the_tokens_that_come_to_them(
    true_sequential: bool,
) -> None:
    network = tiny(90, moe=replace(MOE, layers=(0,)), num_layers=1).eval()
    before = copy.deepcopy(network)
    layer = before.backbone.blocks[0].feedforward
    batches, grid = [rows(seed) for seed in range(2)], Grid(4, 32)
    calibrated(network, batches, grid, true_sequential=true_sequential)
    if true_sequential:  # experts come to see what coded attention leaves
        mine, coded = (one.backbone.blocks[0].attention for one in (before, network))
        mine.load_state_dict(coded.state_dict())
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            before.backbone(batch, None)
        hook.remove()
        x = torch.cat([one.flatten(0, 1) for one in seen])
        chosen = layer.route(x).ids_tk
        for expert in range(MOE.num_experts):
            mine = x[(chosen == expert).any(1)]
            gate_up = gptq(layer.gate_up[expert], mine.T @ mine, grid)
            read = gate_up.wide() if true_sequential else layer.gate_up[expert]
            whole = mine @ read.T
            gate, up = whole.chunk(2, -1)
            inner = torch.nn.functional.silu(gate) * up
            down = gptq(layer.down[expert], inner.T @ inner, grid)
            ours = network.backbone.blocks[0].feedforward
            torch.testing.assert_close(ours.gate_up[expert], gate_up.wide())
            torch.testing.assert_close(ours.down[expert], down.wide())


def test_padding_is_not_looked_at() -> None:
    network = tiny(90, num_layers=1).eval()
    padded = copy.deepcopy(network)
    one = rows(0)
    longer = torch.cat([one.input_ids, torch.full((1, 8), 7)], dim=1)
    documents = torch.cat([torch.zeros(1, 24), torch.full((1, 8), -1)], dim=1).long()
    batch = Batch.from_rows(longer)
    object.__setattr__(batch, "document_ids", documents)
    object.__setattr__(batch, "one_document_rows", False)
    batch.cu_seqlens[1:] = torch.tensor([32])
    found = calibrated(padded, [batch], Grid(3, 32))
    plain = calibrated(network, [one], Grid(3, 32))
    assert found.tokens == plain.tokens == 24
    for name, coded in plain.matrices.items():
        assert torch.equal(found.matrices[name].codes, coded.codes), name


@pytest.mark.covers(
    "PRC-13: calibration data", "PRC-13: post-training", "PRC-10: gptq 4, 3, 2"
)
@pytest.mark.parametrize("bits", [4, 3, 2])
def test_perplexity_is_below_that_of_rounding_in_the_same_bits(
    bits: int, trained: Run, tmp_path: Path
) -> None:
    """On all of the held-out text, which was not looked at."""
    done = export_for_inference(
        trained.folder,
        tmp_path / "few",
        quantize=True,
        quantization_method="gptq",
        bits=bits,
        group_size=64,
    )
    assert done.small is not None and done.small.perplexity is not None
    assert (
        done.looked is not None
        and done.looked.measured_on == "what the run learned from"
    )
    assert done.looked.error < done.looked.nearest_error
    exact, few = done.small.perplexity

    network, tokenizer = load(trained.folder, "cpu")
    with torch.no_grad():
        for name in storable(network.spec, network):
            parameter = network.get_parameter(name)
            parameter.copy_(nearest(parameter, Grid(bits, 64)).wide())
    weights = open_weights(trained.folder)
    store, said = _held_out(weights, tokenizer, [], network.spec.seq_length)
    assert store is not None and "held-out" in said
    rounded = loss_of_text(network, store, network.spec.seq_length).perplexity
    assert exact * 0.99 < few < rounded, (exact, few, rounded)
    seen = {
        tuple(batch.input_ids[0].tolist())
        for batch in calibration_rows(weights, tokenizer, (), 500)[0]
    }
    held = eval_batches(store, network.spec.seq_length, 1)
    assert not seen & {tuple(batch.input_ids[0].tolist()) for batch in held}

    facts = json.loads((tmp_path / "few/export.json").read_text())
    assert facts["bits"] == bits and facts["quantization_method"] == "gptq"
    assert facts["calibration"]["tokens"] == done.looked.tokens
    settings = json.loads((tmp_path / "few/config.json").read_text())
    assert settings["quantization_config"]["bits"] == bits


@pytest.mark.covers("PRC-10: quantization_method gptq", "PRC-13: inference only")
@pytest.mark.parametrize(
    ("bits", "act_order", "other"),
    [
        *((bits, order, False) for bits in (8, 4, 3, 2) for order in (False, True)),
        (4, False, True),
        (3, True, True),
    ],
)
def test_what_is_written_is_what_the_codes_stand_for(
    bits: int, act_order: bool, other: bool, trained: Run, tmp_path: Path
) -> None:
    """The folder is read back by what reads the folders of other tools."""
    text = tmp_path / "own.txt"
    text.write_text(story(30, 500))
    export_for_inference(
        trained.folder,
        tmp_path / "few",
        quantize=True,
        quantization_method="gptq",
        bits=bits,
        group_size=-1 if bits == 8 else 32,
        act_order=act_order,
        symmetric=other,
        true_sequential=other,
        calibration_data=[str(text)],
        calibration_rows=4,
        dtype="bfloat16",
    )
    weights = open_weights(trained.folder)
    network, tokenizer = load(trained.folder, "cpu")
    batches, said = calibration_rows(weights, tokenizer, [str(text)], 4)
    assert said == "the text given" and len(batches) <= 4
    grid = Grid(bits, 256 if bits == 8 else 32, symmetric=other)
    found = calibrated(
        network, batches, grid, act_order=act_order, true_sequential=other
    )
    settings = json.loads((tmp_path / "few/config.json").read_text())
    assert settings["quantization_config"] == {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": -1 if bits == 8 else 32,
        "desc_act": act_order,
        "sym": other,
        "true_sequential": other,
        "lm_head": False,
        "damp_percent": 0.01,
        "checkpoint_format": "gptq_v2" if bits == 3 else "gptq",
        "pack_dtype": "int32",
    }
    few = open_weights(tmp_path / "few")
    for name, coded in found.matrices.items():
        torch.testing.assert_close(
            few.source.tensor(name), coded.wide(), rtol=1e-6, atol=1e-7
        )


REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bnb": ("E003", "bnb", {"method": "bnb"}),
    "quanto": ("E003", "quanto", {"method": "quanto"}),
    "another": ("E005", "awq", {"method": "awq"}),
    "5 bits": ("E005", "5 bits", {"method": "gptq", "bits": 5}),
    "4 bits without": ("E005", "4 bits", {"bits": 4}),
    "odd groups": ("E005", "group_size 48", {"method": "gptq", "group_size": 48}),
    "no rows": (
        "E005",
        "calibration_rows 0",
        {"method": "gptq", "calibration_rows": 0},
    ),
    "unused": ("E002", "not named", {"act_order": True}),
    "unused range": ("E002", "not named", {"symmetric": True}),
    "unused order": ("E002", "not named", {"true_sequential": True}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_choices_that_there_are_not_are_refused(what: str) -> None:
    code, word, choices = REFUSED[what]
    with pytest.raises(LuminaError) as caught:
        Quantising(**({"bits": 4 if choices.get("method") else 8} | choices)).check()
    assert caught.value.code == code and word in str(caught.value)


def test_matrices_that_do_not_fill_words_are_refused(tmp_path: Path) -> None:
    network = tiny(90, hidden_size=36, num_layers=1).eval()
    grid = Grid(4, 32)
    found = calibrated(network, [rows(0)], grid)
    stored = GptqStored(torch.float32, found.matrices, grid, False, 0.01)
    with pytest.raises(LuminaError, match="do not fill words"):
        export_folder(network, None, tmp_path / "out", stored=stored)
    assert not (tmp_path / "out").exists()


def test_blocks_that_are_passed_again_are_refused() -> None:
    network = tiny(90, num_layers=2).eval()
    network.backbone.recursion = object()
    with pytest.raises(LuminaError, match="more than once") as caught:
        calibrated(network, [rows(0)], Grid(4, 32))
    assert caught.value.code == "E002"
