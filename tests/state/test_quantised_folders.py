"""Folders whose matrices are in few bits already: read right, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.errors import LuminaError
from lumina.infer.load import filled_network
from lumina.model.build import build_network
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.model.stored import stored_pieces
from lumina.ops.low_bits.codec import found_codec
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.state.huggingface import export_folder, import_folder
from lumina.state.weights import open_weights
from state.quantised_folders import (
    Maker,
    eight_bits,
    four_bits,
    gptq,
    plain_twin,
    rewrite,
)

SPEC = ModelSpec(
    vocab_size=90,
    padded_vocab_size=128,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    seq_length=64,
    init_std=0.2,
)
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}

KINDS: dict[str, tuple[dict[str, Any], Maker, str]] = {
    "nf4": (BNB4, four_bits, "nf4"),
    "nf4-other-blocks": (BNB4, partial(four_bits, block=32), ""),
    "nf4-double": (BNB4, partial(four_bits, nested=True), ""),
    "fp4": (BNB4, partial(four_bits, kind="fp4"), ""),
    "int8": (BNB8, eight_bits, "int8"),
    "int8-of-old": ({"load_in_8bit": True}, eight_bits, "int8"),
    "gptq-4": (GPTQ, gptq, ""),
    "gptq-8": (GPTQ | {"bits": 8}, partial(gptq, bits=8), ""),
    "gptq-2": (GPTQ | {"bits": 2}, partial(gptq, bits=2), ""),
    "gptq-act-order": (GPTQ | {"desc_act": True}, partial(gptq, shuffled=True), ""),
    "gptq-whole-rows": (GPTQ | {"group_size": -1}, partial(gptq, group=-1), "int4"),
    "gptq-symmetric": (GPTQ | {"sym": True}, partial(gptq, symmetric=True), ""),
    "gptq-v2": (
        GPTQ | {"checkpoint_format": "gptq_v2"},
        partial(gptq, second=True),
        "",
    ),
    "gptq-128": (GPTQ | {"group_size": 128}, partial(gptq, group=128), "int4"),
}


def ids() -> Tensor:
    return torch.randint(0, 90, (2, 20), generator=torch.Generator().manual_seed(0))


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    """Wants this code, and these words in the message."""
    with pytest.raises(LuminaError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model of plain weights."""
    return export_folder(build_network(SPEC, seed=0), None, tmp_path / "folder")


def logits_of(folder: Path) -> tuple[Tensor, set[str]]:
    """Logits of what generation loads, and the codecs that it holds."""
    weights = open_weights(folder)
    network = filled_network(weights, torch.device("cpu"), torch.float32).eval()
    codecs = {one.codec for one in stored_pieces(network).values()}
    return network.logits(ids()), codecs


@pytest.mark.covers("MOD-40: quantised")
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_what_the_codes_stand_for(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    """transformers computes them from a folder of plain matrices."""
    settings, make, codec = KINDS[kind]
    untouched = shutil.copytree(folder, tmp_path / "untouched")
    meant = rewrite(folder, settings, make)
    assert len(meant) == 14
    twin = plain_twin(untouched, meant, tmp_path / "twin")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(twin)
    expected = theirs(ids()).logits
    found, codecs = logits_of(folder)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert codecs == ({codec} if codec else set())
    exact = build_network(SPEC, seed=0).eval().logits(ids())
    assert (found - exact).abs().max() > 1e-3  # codes are not the weights themselves

    # As a base of training, and piece by piece, it is the same.
    spec, tensors = import_folder(folder)
    lazily = open_weights(folder, piecewise=True)
    assert spec == lazily.spec
    for name, tensor in tensors.items():
        assert torch.equal(lazily.source.tensor(name), tensor), name
    name = "model.layers.1.mlp.down_proj.weight"
    ours = tensors["backbone.blocks.1.feedforward.down.weight"]
    torch.testing.assert_close(ours, meant[name], rtol=1e-5, atol=1e-6)
    lazily.close()


def test_double_quantisation_is_kept_in_its_bits(folder: Path) -> None:
    """With bitsandbytes' own map of 256 levels, which ours is."""
    codec = found_codec("nf4_double")

    def make(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, _ = four_bits(matrix, nested=True)
        held = codec.pack(matrix)
        parts["weight.nested_quant_map"] = torch.tensor(dynamic_map(8, True))
        parts["weight.absmax"] = held.tensors["scale"].flatten()
        return parts, held.unpacked()

    meant = rewrite(folder, BNB4, make)
    _, tensors = import_folder(folder)
    ours = tensors["backbone.blocks.0.attention.q.weight"]
    torch.testing.assert_close(ours, meant["model.layers.0.self_attn.q_proj.weight"])
    assert logits_of(folder)[1] == {"nf4_double"}


@pytest.mark.parametrize("kind", ["nf4", "int8", "gptq-8"])
def test_experts_in_few_bits(kind: str, tmp_path: Path) -> None:
    """One matrix for each expert there; one for all of a layer here."""
    spec = replace(SPEC, moe=MoeSpec(3, 2, 64, layers=(0, 1)))
    folder = export_folder(build_network(spec, seed=0), None, tmp_path / "folder")
    settings, make, codec = KINDS[kind]
    meant = rewrite(folder, settings, make)
    _, tensors = import_folder(folder)
    for part, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        names = [
            f"model.layers.1.block_sparse_moe.experts.{e}.{theirs}.weight"
            for e in range(3)
        ]
        ours = tensors[f"backbone.blocks.1.feedforward.{part}"]
        expected = torch.stack([meant[name] for name in names])
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    weights = open_weights(folder)
    assert {p.codec for p in getattr(weights.source, "packed", {}).values()} == (
        {codec} if codec else set()
    )


def test_a_word_of_zero_points_is_added_to_with_its_carries(folder: Path) -> None:
    """A zero point of 0 is stored by borrowing from its neighbours."""

    def make(matrix: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts, _ = gptq(matrix, second=True)
        zero = parts["qzeros"].clone()
        zero[:, 0] &= ~0xFF  # the first two are 0
        codes = gptq(matrix, second=True)[0]
        wide = torch.zeros_like(matrix)
        for row in range(matrix.shape[0]):
            for column in range(matrix.shape[1]):
                q = (int(codes["qweight"][column // 8, row]) >> 4 * (column % 8)) & 15
                z = (int(zero[column // 32, row // 8]) >> 4 * (row % 8)) & 15
                wide[row, column] = float(parts["scales"][column // 32, row]) * (q - z)
        less = zero.long() - 0x11111111
        parts["qzeros"] = (less + 2**31).remainder(2**32).sub(2**31).to(torch.int32)
        return parts, wide

    small = replace(
        SPEC, num_layers=1, hidden_size=32, head_dim=8, intermediate_size=32
    )
    shutil.rmtree(folder)
    export_folder(build_network(small, seed=0), None, folder)
    meant = rewrite(folder, GPTQ, make)
    _, tensors = import_folder(folder)
    ours = tensors["backbone.blocks.0.attention.v.weight"]
    torch.testing.assert_close(ours, meant["model.layers.0.self_attn.v_proj.weight"])


def test_a_bias_of_zeros_beside_codes_is_passed_over(folder: Path) -> None:
    """AutoGPTQ writes them for models that have no biases."""

    def make(matrix: Tensor, value: float = 0.0) -> tuple[dict[str, Tensor], Tensor]:
        parts, wide = gptq(matrix)
        return parts | {"bias": torch.full((matrix.shape[0],), value)}, wide

    other = shutil.copytree(folder, folder.with_name("other"))
    rewrite(folder, GPTQ, make)
    assert not any("bias" in name for name in import_folder(folder)[1])
    rewrite(other, GPTQ, partial(make, value=0.5))
    with refused("E102", "_proj.bias"):
        import_folder(other)


OTHERS: dict[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4},
    "hqq": {"quant_method": "hqq"},
    "aqlm": {"quant_method": "aqlm"},
    "fp8": {"quant_method": "fp8"},
    "mxfp4": {"quant_method": "mxfp4"},
    "torchao": {"quant_method": "torchao"},
    "quanto": {"quant_method": "quanto"},
    "compressed_tensors": {"quant_method": "compressed_tensors"},
    "None": {"bits": 4},
    "7": {"quant_method": 7},
    "bits is 3": GPTQ | {"bits": 3},
    "bits is '4'": GPTQ | {"bits": "4"},
    "group_size is 0": GPTQ | {"group_size": 0},
    "checkpoint_format is 'marlin'": GPTQ | {"checkpoint_format": "marlin"},
    "is_marlin_format": GPTQ | {"is_marlin_format": True},
    "dynamic": GPTQ | {"dynamic": {"+:.*": {"bits": 8}}},
}


@pytest.mark.parametrize("named", OTHERS)
def test_every_other_kind_is_refused_by_name(named: str, folder: Path) -> None:
    rewrite(folder, OTHERS[named], gptq)
    with refused("E002", named, "quantization_config", "bitsandbytes", "gptq"):
        import_folder(folder)


def test_a_list_in_place_of_settings_is_refused(folder: Path) -> None:
    rewrite(folder, ["gptq"], gptq)  # type: ignore[arg-type]
    with refused("E002", "quantization_config"):
        import_folder(folder)


def changed(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change a folder's tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


Q = "model.layers.0.self_attn.q_proj."
ABSMAX = Q + "weight.absmax"
STATE = Q + "weight.quant_state.bitsandbytes__nf4"


def state(**changes: Any) -> Tensor:
    """A state with other values."""
    values = {"blocksize": 64, "shape": [64, 64], "dtype": "float32"} | changes
    return torch.tensor(list(json.dumps(values).encode())).byte()


DAMAGES: dict[str, tuple[Any, str, tuple[str, ...], Any]] = {
    "no-scales": (BNB4, "E102", (ABSMAX,), lambda t: t.pop(ABSMAX)),
    "no-state": (BNB4, "E102", (), lambda t: t.pop(STATE)),
    "short-scales": (
        BNB4, "E303", (ABSMAX, "[63]"),
        lambda t: t.update({ABSMAX: torch.ones(63)}),
    ),
    "scales-not-finite": (
        BNB4, "E303", (ABSMAX, "not finite"),
        lambda t: t[ABSMAX].fill_(torch.inf),
    ),
    "another-shape": (
        BNB4, "E303", (Q + "weight", "codes of 4 bits"),
        lambda t: t.update({STATE: state(shape=[64, 63])}),
    ),
    "a-huge-shape": (
        BNB4, "E303", (Q + "weight",),
        lambda t: t.update({STATE: state(shape=[2**39, 2**39])}),
    ),
    "no-json": (
        BNB4, "E303", (STATE,), lambda t: t.update({STATE: torch.ones(9).byte()})
    ),
    "no-block": (
        BNB4, "E303", (STATE,), lambda t: t.update({STATE: state(blocksize=0)})
    ),
    "transposed": (
        BNB8, "E102", ("gate_proj", "shape"),
        lambda t: t.update({
            "model.layers.0.mlp.gate_proj.weight": torch.ones(64, 128).char(),
            "model.layers.0.mlp.gate_proj.SCB": torch.ones(64),
        }),
    ),
    "int8-no-scales": (
        BNB8, "E101", (Q + "weight", "I8"),
        lambda t: [t.pop(Q + end) for end in ("SCB", "weight_format")],
    ),
    "in-tiles": (
        BNB8, "E002", ("weight_format",),
        lambda t: t.update({Q + "weight_format": torch.tensor(1).byte()}),
    ),
    "no-zero-points": (GPTQ, "E102", (Q + "qzeros",), lambda t: t.pop(Q + "qzeros")),
    "another-group-size": (
        GPTQ | {"group_size": 64}, "E303", ("qzeros", "shape"), lambda t: None
    ),
    "one-group-for-all": (
        GPTQ, "E303", (Q + "g_idx", "each of 2 groups"),
        lambda t: t[Q + "g_idx"].zero_(),
    ),
    "a-group-too-many": (
        GPTQ, "E303", (Q + "g_idx",), lambda t: t[Q + "g_idx"].add_(1)
    ),
    "other-words": (
        GPTQ, "E303", (Q + "qweight", "I16"),
        lambda t: t.update({Q + "qweight": t[Q + "qweight"].short()}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, folder: Path) -> None:
    settings, code, words, change = DAMAGES[damage]
    make: Maker = four_bits if settings == BNB4 else gptq
    make = eight_bits if settings == BNB8 else make
    rewrite(folder, settings, make)
    changed(folder, change)
    with refused(code, *words):
        import_folder(folder)
