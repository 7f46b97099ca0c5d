"""Folders for transformers, and back: nothing lost, guessed or trusted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file

from exported_folders import DENSE, ROUTED, edit, edit_weights, ids, load, refused
from lumina.model.build import build_network
from lumina.state.huggingface import export_folder, import_folder
from lumina.state.huggingface.export import _opened
from lumina.state.huggingface.reading import read_embedding
from lumina.state.state import State


@pytest.fixture
def folder(tmp_path):
    """An exported routed model."""
    return export_folder(build_network(ROUTED, seed=0), None, tmp_path / "exported")


@pytest.mark.parametrize(
    "spec",
    [
        DENSE,
        replace(DENSE, tie_embeddings=True),
        replace(DENSE, rope_scaling="linear", rope_factor=3.0),
        replace(DENSE, rope_scaling="ntk", rope_factor=3.0),
        replace(
            DENSE, rope_scaling="yarn", rope_factor=4.0, rope_original_length=16
        ),
        replace(DENSE, num_kv_heads=1, norm_eps=1e-3, rope_theta=500.0),
        ROUTED,
        replace(ROUTED, window_size=6),
        replace(ROUTED, tie_embeddings=True, head_dim=8),
        replace(
            ROUTED, rope_scaling="yarn", rope_factor=4.0, rope_original_length=16
        ),
        replace(ROUTED, moe=replace(ROUTED.moe, dispatch="capacity")),
        replace(ROUTED, hidden_size=36, head_dim=10),
    ],
    ids=[
        "dense", "tied", "linear", "ntk", "yarn", "mqa", "routed", "window",
        "routed-tied", "routed-yarn", "capacity", "odd-width",
    ],
)  # fmt: skip
def test_transformers_loads_it_with_the_same_logits_and_it_comes_back(spec, tmp_path):
    transformers = pytest.importorskip("transformers")
    network = build_network(spec, seed=1).eval()
    folder = export_folder(network, None, tmp_path / "out")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = network.logits(ids())
    torch.testing.assert_close(model(ids()).logits, expected, rtol=1e-5, atol=1e-5)

    back_spec, tensors = import_folder(folder)
    back = load(back_spec, tensors)
    torch.testing.assert_close(back.logits(ids()), expected, rtol=1e-6, atol=1e-6)
    for (name, a), (_, b) in zip(
        network.named_parameters(), back.named_parameters(), strict=True
    ):
        if name in ("backbone.embedding.weight", "objective.head.weight"):
            a, b = a[:90], b[:90]
        assert torch.equal(a, b), name


@pytest.mark.parametrize("spec", [DENSE, ROUTED], ids=["dense", "routed"])
def test_what_transformers_writes_is_read(spec, tmp_path):
    """save_pretrained's own folder, whatever layout this version writes."""
    transformers = pytest.importorskip("transformers")
    first = export_folder(build_network(spec, seed=1), None, tmp_path / "a")
    model = transformers.AutoModelForCausalLM.from_pretrained(first)
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert (tmp_path / "b" / "model.safetensors.index.json").is_file()
    network = load(*import_folder(tmp_path / "b"))
    torch.testing.assert_close(
        network.logits(ids()), model(ids()).logits, rtol=1e-5, atol=1e-5
    )


def test_experts_fused_in_one_tensor_are_read(folder):
    """The names transformers 5 has in memory, as some tools save them."""
    expected = import_folder(folder)[1]

    def fuse(tensors):
        for layer in range(2):
            old = f"model.layers.{layer}.block_sparse_moe"
            new = f"model.layers.{layer}.mlp"
            tensors[f"{new}.gate.weight"] = tensors.pop(f"{old}.gate.weight")
            stacks = {
                w: torch.stack(
                    [tensors.pop(f"{old}.experts.{e}.{w}.weight") for e in range(5)]
                )
                for w in ("w1", "w2", "w3")
            }
            tensors[f"{new}.experts.gate_up_proj"] = torch.cat(
                [stacks["w1"], stacks["w3"]], dim=1
            )
            tensors[f"{new}.experts.down_proj"] = stacks["w2"]

    edit_weights(folder, fuse)
    found = import_folder(folder)[1]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_shards_hold_everything_once(tmp_path):
    network = build_network(ROUTED, seed=0)
    whole = export_folder(network, None, tmp_path / "whole")
    parts = export_folder(network, None, tmp_path / "parts", shard_bytes=20_000)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in parts.glob("*.safetensors"))
    assert len(files) > 3 and sorted(set(index["weight_map"].values())) == files
    assert all((parts / name).stat().st_size < 30_000 for name in files)
    expected = load_file(whole / "model.safetensors")
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())
    a, b = import_folder(whole)[1], import_folder(parts)[1]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_file_is_filled_to_its_last_byte(tmp_path):
    network = build_network(ROUTED, seed=0)
    whole = export_folder(network, None, tmp_path / "whole") / "model.safetensors"
    size = sum(tensor.nbytes for tensor in load_file(whole).values())
    for limit, files in ((size, 1), (size - 1, 2)):
        folder = export_folder(network, None, tmp_path / f"{limit}", shard_bytes=limit)
        assert len(list(folder.glob("*.safetensors"))) == files


def test_old_spellings_of_rope_are_read(folder):
    edit(
        folder,
        rope_parameters=...,
        rope_theta=5000.0,
        rope_scaling={"type": "linear", "factor": 2.0},
    )
    spec, _ = import_folder(folder)
    assert (spec.rope_scaling, spec.rope_factor, spec.rope_theta) == ("linear", 2, 5000)


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": PLAIN, "rope_scaling": YARN | {"rope_theta": 1e6}},
        {"rope_parameters": PLAIN, "rope_theta": 1e6, "rope_scaling": YARN},
        {"rope_parameters": YARN | {"rope_theta": 1e6}, "rope_scaling": PLAIN},
        {"rope_parameters": YARN | {"rope_theta": 1e6}, "rope_scaling": None},
        {"rope_parameters": PLAIN, "rope_theta": 1e4, "rope_scaling": {}},
    ],
)
def test_rope_scaling_beside_rope_parameters_means_what_transformers_takes(
    changes, tmp_path
):
    dense = export_folder(build_network(DENSE, seed=0), None, tmp_path / "folder")
    edit(dense, **{"rope_theta": ...} | changes)
    theirs = transformers.AutoConfig.from_pretrained(dense).rope_parameters
    spec, _ = import_folder(dense)
    kind = "none" if theirs["rope_type"] == "default" else theirs["rope_type"]
    assert (spec.rope_scaling, spec.rope_theta) == (kind, theirs["rope_theta"])
    if kind == "yarn":
        assert spec.rope_factor == theirs["factor"] == 4
        assert spec.rope_original_length == 256


def test_rope_scaling_that_would_lose_the_base_is_refused(tmp_path):
    dense = export_folder(build_network(DENSE, seed=0), None, tmp_path / "folder")
    edit(dense, rope_theta=..., rope_parameters=PLAIN, rope_scaling=YARN)
    with refused("E002", "rope_scaling", "rope_parameters", "rope_theta", "1000000"):
        import_folder(dense)


def test_rotary_settings_by_kind_of_layer_are_refused(folder):
    edit(folder, rope_parameters={"full_attention": PLAIN, "sliding_attention": PLAIN})
    with refused("E002", "rope_parameters", "full_attention"):
        import_folder(folder)


def test_an_index_may_list_a_tied_head_that_no_file_holds(tmp_path):
    spec = replace(DENSE, tie_embeddings=True)
    network = build_network(spec, seed=0)
    parts = export_folder(network, None, tmp_path / "parts", shard_bytes=20_000)
    whole = import_folder(parts)[1]
    index = parts / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["lm_head.weight"] = max(listed["weight_map"].values())
    index.write_text(json.dumps(listed))
    again = import_folder(parts)[1]
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    name, table = read_embedding(parts)
    assert name == "model.embed_tokens.weight" and table.shape == (90, 32)
    edit(parts, tie_word_embeddings=False)
    with refused("E303", "lm_head.weight"):
        import_folder(parts)


def test_half_precision_export_rounds_once(tmp_path):
    network = build_network(DENSE, seed=0)
    folder = export_folder(network, None, tmp_path / "out", dtype="bfloat16")
    _, tensors = import_folder(folder)
    name = "backbone.blocks.0.attention.out.weight"
    expected = network.get_parameter(name).bfloat16().float()
    assert tensors[name].dtype == torch.float32
    assert torch.equal(tensors[name], expected)
    with refused("E005", "int3"):
        export_folder(network, None, tmp_path / "other", dtype="int3")


def test_a_state_exports_like_its_network(tmp_path):
    network = build_network(ROUTED, seed=0)
    spec, read = _opened(network)
    spec_names = import_folder(export_folder(network, None, tmp_path / "a"))[1]
    state = State(tensors={n: read(n) for n in spec_names}, spec=spec.to_dict())
    export_folder(state, None, tmp_path / "b")
    a, b = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.covers("TOK-08: saved with exports")
def test_the_tokenizer_goes_along_with_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lumina.data.tokenizer import Tokenizer

    texts = ["the cat sat on the mat, and the dog: 123", "naïve café, 漢字 \U0001f600"]
    tokenizer = Tokenizer.train(texts * 20, 300)
    spec = replace(DENSE, vocab_size=tokenizer.vocab_size, padded_vocab_size=320)
    network = build_network(spec, seed=0)
    folder = export_folder(network, tokenizer, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*texts, "  unseen\n\ttext <|end|>"]:
        if "<|" not in text:
            assert theirs(text, add_special_tokens=False).input_ids == tokenizer.encode(
                text
            )
    again = Tokenizer.from_path(folder)
    assert again.fingerprint == tokenizer.fingerprint
    generation = json.loads((folder / "generation_config.json").read_text())
    stops = generation["eos_token_id"]
    assert set(stops if isinstance(stops, list) else [stops]) == tokenizer.stop_ids
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([tokenizer.prompt("the cat")])
    assert model.generate(prompt, max_new_tokens=3, do_sample=False).shape[1] >= 4

    small = replace(spec, vocab_size=100, padded_vocab_size=128)
    with refused("E002", "tokenizer has"):
        export_folder(build_network(small, seed=0), tokenizer, tmp_path / "small")


def test_a_model_of_the_hub_comes_with_its_chat_templates() -> None:
    from huggingface_hub.utils import filter_repo_objects

    from lumina.state.base_model import _WANTED

    files = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json",
             "additional_chat_templates/rag.jinja"]  # fmt: skip
    assert list(filter_repo_objects(files, allow_patterns=list(_WANTED))) == files
