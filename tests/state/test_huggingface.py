"""Folders for transformers, and back: nothing lost, guessed or trusted."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.huggingface import export_folder, import_folder
from lumina.state.huggingface.export import _opened
from lumina.state.huggingface.reading import read_embedding
from lumina.state.state import State

DENSE = ModelSpec(
    vocab_size=90,
    padded_vocab_size=128,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=48,
    seq_length=64,
    init_std=0.2,
)
ROUTED = replace(DENSE, moe=MoeSpec(5, 2, 40, layers=(0, 1)))


def ids(rows=2, length=20):
    return torch.randint(
        0, 90, (rows, length), generator=torch.Generator().manual_seed(0)
    )


def load(spec, tensors):
    """A network with imported tensors."""
    from lumina.model.declared import fused_pieces

    network = build_network(spec, seed=None)
    pieces = fused_pieces(network.spec)
    with torch.no_grad():
        for name, target in network.state_dict().items():
            names = pieces[name].names if name in pieces else (name,)
            dim = pieces[name].dim if name in pieces else 0
            target.copy_(torch.cat([tensors.pop(one) for one in names], dim=dim))
    assert not tensors, f"left over: {list(tensors)}"
    return network.eval()


@contextmanager
def refused(code, *words):
    """A context that wants this code, and these words in the message."""
    with pytest.raises(LuminaError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """An exported routed model."""
    return export_folder(build_network(ROUTED, seed=0), None, tmp_path / "exported")


def edit(folder, name="config.json", **changes):
    path = folder / name
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


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
