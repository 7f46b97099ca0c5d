"""What an exported folder cannot hold, and folders that are not read: each by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from exported_folders import DENSE, ROUTED, edit, edit_weights, refused
from lumina.model.build import build_network
from lumina.state.huggingface import export_folder, import_folder


@pytest.fixture
def folder(tmp_path):
    """An exported routed model."""
    return export_folder(build_network(ROUTED, seed=0), None, tmp_path / "exported")


REFUSALS = {
    "qk_norm=rms_full": replace(DENSE, qk_norm="rms_full"),
    "qk_norm=l2": replace(ROUTED, qk_norm="l2"),
    "moe_pattern": replace(ROUTED, moe=replace(ROUTED.moe, layers=(1,))),
    "moe_normalise_top_k": replace(
        ROUTED, moe=replace(ROUTED.moe, normalise_top_k=False)
    ),
    "routing_temperature": replace(ROUTED, moe=replace(ROUTED.moe, temperature=2.0)),
}


@pytest.mark.parametrize("named", REFUSALS)
def test_what_a_format_cannot_hold_is_refused_by_name(named, tmp_path):
    network = build_network(REFUSALS[named], seed=0)
    with refused("E002", named, "format"):
        export_folder(network, None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_selection_bias_is_refused_once_it_is_not_zero(tmp_path):
    spec = replace(ROUTED, moe=replace(ROUTED.moe, bias_update_rate=0.01))
    network = build_network(spec, seed=0)
    export_folder(network, None, tmp_path / "before")
    network.backbone.blocks[1].feedforward.selection_bias[2] = 0.01
    with refused("E002", "blocks.1.feedforward.selection_bias"):
        export_folder(network, None, tmp_path / "after")


def test_existing_folders_are_left_alone(tmp_path):
    network = build_network(DENSE, seed=0)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with refused("E002", "not an empty folder"):
        export_folder(network, None, full)
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    export_folder(network, None, empty)
    assert (empty / "model.safetensors").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumina.state.huggingface.export.write_tensors", full_disk)
    with refused("E204"):
        export_folder(build_network(DENSE, seed=0), None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_unknown_and_misshapen_tensors_are_named(folder, tmp_path):
    expert = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    for number, (change, name) in enumerate(
        [
            (lambda t: t.pop(expert), expert),
            (lambda t: t.update({"model.layers.0.extra": torch.ones(2)}), "0.extra"),
            (lambda t: t.update({expert: torch.ones(3, 3)}), expert),
            (lambda t: t.pop("model.norm.weight"), "model.norm.weight"),
        ]
    ):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(folder, copy)
        edit_weights(copy, change)
        with refused("E102", name):
            import_folder(copy)


def test_values_that_are_not_finite_are_named(folder):
    edit_weights(folder, lambda t: t["model.norm.weight"].fill_(float("nan")))
    with refused("E303", "model.norm.weight", "not finite"):
        import_folder(folder)


def test_integer_weights_are_refused(folder):
    def change(tensors):
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    edit_weights(folder, change)
    with refused("E101", "model.norm.weight", "I8"):
        import_folder(folder)


def test_a_tied_head_may_be_repeated_but_not_differ(tmp_path):
    spec = replace(DENSE, tie_embeddings=True)
    folder = export_folder(build_network(spec, seed=0), None, tmp_path / "out")

    def repeat(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit_weights(folder, repeat)
    assert "objective.head.weight" not in import_folder(folder)[1]
    edit_weights(folder, lambda t: t["lm_head.weight"].add_(1))
    with refused("E102", "lm_head.weight", "tie_word_embeddings"):
        import_folder(folder)


def test_rotary_tables_of_old_folders_are_ignored(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda t: t.update({name: torch.ones(8)}))
    assert not any("inv_freq" in n for n in import_folder(folder)[1])


CONFIGS = {
    "model_type": ("E002", {"model_type": "bloom"}),
    "hidden_act": ("E002", {"hidden_act": "gelu"}),
    "dynamic": ("E002", {"rope_parameters": {"rope_type": "dynamic", "factor": 8.0}}),
    "mscale": (
        "E002",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
    ),
    "quantization_config": ("E002", {"quantization_config": {"bits": 4}}),
    "hidden_size": ("E102", {"hidden_size": ...}),
    "num_attention_heads": ("E102", {"num_attention_heads": 0}),
    "rms_norm_eps": ("E102", {"rms_norm_eps": "small"}),
    "num_hidden_layers": ("E102", {"num_hidden_layers": 10**15}),
    "tensors": ("E102", {"num_local_experts": 10**9, "num_hidden_layers": 50_000}),
    "num_experts_per_tok": ("E102", {"num_experts_per_tok": 6}),
    "model.embed_tokens.weight": ("E102", {"vocab_size": 10**11}),
    "key/value heads": ("E102", {"num_key_value_heads": 3}),
}


@pytest.mark.parametrize("named", CONFIGS)
def test_a_configuration_that_does_not_fit_is_refused_by_key(named, folder):
    code, changes = CONFIGS[named]
    edit(folder, **changes)
    with refused(code, named):
        import_folder(folder)


def test_damaged_folders(folder, tmp_path):
    with refused("E104", "no such folder"):
        import_folder(tmp_path / "nowhere")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with refused("E303", "model.safetensors"):
        import_folder(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 40)
    with refused("E303", "model.safetensors"):
        import_folder(folder)
    (folder / "model.safetensors").unlink()
    with refused("E104", "model.safetensors"):
        import_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with refused("E101", "pytorch_model.bin", "pickle"):
        import_folder(folder)
    (folder / "config.json").write_text("{not json")
    with refused("E101", "config.json"):
        import_folder(folder)
    (folder / "config.json").unlink()
    with refused("E104", "config.json"):
        import_folder(folder)


def test_an_index_cannot_point_elsewhere_or_promise_too_much(folder, tmp_path):
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = list(load_file(folder / "a.safetensors"))

    def write(weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}))

    write(dict.fromkeys(names, "a.safetensors"))
    assert import_folder(folder)[0].vocab_size == 90
    write(dict.fromkeys(names, "../a.safetensors"))
    with refused("E101", "../a.safetensors"):
        import_folder(folder)
    write(dict.fromkeys(names, "b.safetensors"))
    with refused("E303", "b.safetensors", "missing"):
        import_folder(folder)
    write(dict.fromkeys([*names, "model.layers.7.gone"], "a.safetensors"))
    with refused("E303", "model.layers.7.gone"):
        import_folder(folder)
    index.write_text("{}")
    with refused("E102", "weight_map"):
        import_folder(folder)
