"""Folders of GPT-2 and Phi, as frozen bases too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.errors import LuminaError
from lumina.infer.cache import KVCache
from lumina.infer.load import filled_network
from lumina.model.network import Network
from lumina.ops.low_bits.codec import found_codec
from lumina.state.huggingface import import_folder
from lumina.state.weights import open_weights

GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48, "vocab_size": 90}
PHI = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 90,
    "max_position_embeddings": 48, "partial_rotary_factor": 0.5,
}  # fmt: skip


def theirs(kind: str, folder: Path, **changes: Any) -> Any:
    """A model of transformers with large random weights and biases, saved."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(**(GPT2 | changes))
        model: Any = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.PhiConfig(**(PHI | changes))
        model = transformers.PhiForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


def ours(folder: Path, codec: str | None = None) -> Network:
    weights = open_weights(folder)
    held = None if codec is None else found_codec(codec)
    return filled_network(weights, torch.device("cpu"), torch.float32, held).eval()


def ids() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 90, (2, 20), generator=generator)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2 with another inside": ("gpt2", {"n_inner": 48, "layer_norm_epsilon": 1e-3}),
    "phi": ("phi", {}),
    "phi-2's share": ("phi", {"partial_rotary_factor": 0.25}),
    "phi whole": ("phi", {"partial_rotary_factor": 1.0}),
    "phi with fewer keys": ("phi", {"num_key_value_heads": 2}),
}


@pytest.mark.covers("MOD-40: GPT-2", "MOD-40: 2.7B Phi-2 class model")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_theirs(case: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    model, network = (
        theirs(kind, tmp_path / "folder", **changes),
        ours(tmp_path / "folder"),
    )
    expected = model(ids()).logits
    torch.testing.assert_close(network.logits(ids()), expected, rtol=1e-4, atol=1e-4)
    labels = ids()
    model(ids(), labels=labels).loss.backward()
    network(input_ids=ids(), labels=labels).loss.backward()
    block = "backbone.blocks.1"
    pairs = {
        "gpt2": (
            ("transformer.wpe.weight", "backbone.position_embedding.weight", False),
            ("transformer.h.1.mlp.c_fc.weight", f"{block}.feedforward.up.weight", True),
            ("transformer.ln_f.bias", "backbone.norm.bias", False),
        ),
        "phi": (
            (
                "model.layers.1.mlp.fc2.weight",
                f"{block}.feedforward.down.weight",
                False,
            ),
            (
                "model.layers.1.input_layernorm.bias",
                f"{block}.attention_norm.bias",
                False,
            ),
            ("lm_head.bias", "objective.head.bias", False),
        ),
    }[kind]
    for name, own, turned in pairs:
        wanted = model.get_parameter(name).grad
        found = network.get_parameter(own).grad[
            : (wanted.T if turned else wanted).shape[0]
        ]
        torch.testing.assert_close(
            found, wanted.T if turned else wanted, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["gpt2", "phi"])
def test_answers_with_a_cache_are_those_without(kind: str, tmp_path: Path) -> None:
    theirs(kind, tmp_path / "folder")
    network = ours(tmp_path / "folder")
    with torch.no_grad():
        whole = network.logits(ids())
        cache = KVCache(2, capacity=20)
        parts = [
            network.logits(ids()[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 20))
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "phi"])
def test_matrices_are_held_in_few_bits(kind: str, tmp_path: Path) -> None:
    model = theirs(kind, tmp_path / "folder")
    network = ours(tmp_path / "folder", "int8")
    expected = model(ids()).logits
    error = (network.logits(ids()) - expected).norm() / expected.norm()
    assert 0 < float(error) < 0.05


def test_gpt2_as_the_hub_has_it(tmp_path: Path) -> None:
    """No prefix, masks among the tensors, and the tied head repeated."""
    model = theirs("gpt2", tmp_path / "folder")
    path = tmp_path / "folder/model.safetensors"
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 48, 48)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, path)
    expected = model(ids()).logits
    torch.testing.assert_close(
        ours(tmp_path / "folder").logits(ids()), expected, rtol=1e-4, atol=1e-4
    )


REFUSED = {
    "activation_function": ("gpt2", "relu"),
    "scale_attn_by_inverse_layer_idx": ("gpt2", True),
    "n_head": ("gpt2", 5),
    "qk_layernorm": ("phi", True),
    "hidden_act": ("phi", "silu"),
    "tie_word_embeddings": ("phi", True),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_computed_is_refused_by_name(key: str, tmp_path: Path) -> None:
    kind, value = REFUSED[key]
    theirs(kind, tmp_path / "folder")
    path = tmp_path / "folder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(LuminaError) as caught:
        import_folder(tmp_path / "folder")
    assert caught.value.code in ("E002", "E102")
    assert key in str(caught.value) or "heads" in str(caught.value)


@pytest.mark.parametrize("kind", ["gpt2", "phi"])
def test_a_missing_tensor_is_named(kind: str, tmp_path: Path) -> None:
    theirs(kind, tmp_path / "folder")
    path = tmp_path / "folder/model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith(("c_proj.bias", "dense.bias")))
    save_file({n: t for n, t in tensors.items() if n != name}, path)
    with pytest.raises(LuminaError, match=name.replace(".", r"\.")) as caught:
        import_folder(tmp_path / "folder")
    assert caught.value.code == "E102"
