"""Every format against transformers: their weights here, ours there, nothing lost."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.spec import HrmSpec, MoeSpec
from lumina.state.huggingface import export_folder, import_folder
from lumina.state.huggingface.configuration import spec_of
from lumina.state.huggingface.formats import FORMATS, choose
from lumina.state.huggingface.latent import habits_of
from lumina.state.huggingface.names import count, entries
from networks import random_ids, shifted, tiny_spec
from their_models import (
    LLAMA3,
    SHAPE,
    TAKEN_UP,
    THEIRS,
    check_gradients,
    logical_gradients,
    network_of,
    theirs_of,
)

transformers = pytest.importorskip("transformers", reason="transformers is absent")


@pytest.mark.covers("MOD-40: weights loaded from local safetensors")
@pytest.mark.parametrize("case", THEIRS)
def test_their_weights_give_the_same_logits_and_gradients_and_go_back(case, tmp_path):
    model = theirs_of(case)
    model.save_pretrained(tmp_path / "theirs")
    spec, tensors = import_folder(tmp_path / "theirs")
    network = network_of(spec, tensors)
    ids = random_ids(3, 20, vocab=90)
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(network.logits(ids), expected, rtol=1e-5, atol=1e-5)
    name = THEIRS[case][0]
    check_gradients(network, model, FORMATS[name], ids)

    folder = export_folder(network, None, tmp_path / "ours", format_name=name)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(again) is type(model)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, expected, rtol=1e-5, atol=1e-5)
    first, second = model.state_dict(), again.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)

    back_spec, back = import_folder(folder)
    assert back_spec == spec and back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("case", TAKEN_UP)
def test_what_weights_take_up_gives_the_same_logits_and_gradients(case, tmp_path):
    """Channels in halves, another temperature: queries and keys are other numbers."""
    model = theirs_of(case)
    model.save_pretrained(tmp_path / "theirs")
    spec, tensors = import_folder(tmp_path / "theirs")
    network, ids = network_of(spec, tensors), random_ids(3, 20, vocab=90)
    expected = model(ids).logits
    torch.testing.assert_close(network.logits(ids), expected, rtol=1e-5, atol=1e-5)

    labels = shifted(ids)
    sums, _ = network(Batch.from_rows(ids, labels))
    (sums.loss_sum / sums.weight_sum).backward()
    torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), labels.flatten(), ignore_index=-100
    ).backward()
    ours, theirs = logical_gradients(network), dict(model.named_parameters())
    values = json.loads((tmp_path / "theirs/config.json").read_text())
    habits, moved = habits_of(values, spec), 0
    for entry in entries(spec, FORMATS[TAKEN_UP[case][0]], fused=True):
        if entry.name in theirs and ".self_attn." in entry.name:
            their = theirs[entry.name].grad
            laid_out = habits.taken_up(spec, entry.logical, their)
            scaled = torch.equal(laid_out, their)
            moved += not scaled
            if "q_proj" in entry.name or "q_b_proj" in entry.name:
                laid_out = laid_out / habits.query_scale**2
            torch.testing.assert_close(
                ours[entry.logical], laid_out, rtol=1e-4, atol=1e-5, msg=entry.name
            )
    assert moved >= spec.num_layers

    folder = export_folder(network, None, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(again(ids).logits, expected, rtol=1e-5, atol=1e-5)
    back_spec, back = import_folder(folder)
    assert back_spec == spec and back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


def test_layers_for_several_tokens_are_dropped_only_on_request(tmp_path):
    model = theirs_of("deepseek-v3")
    model.save_pretrained(tmp_path)
    expected = import_folder(tmp_path)[1]
    file, config_file = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = load_file(file)
    extra = {
        name.replace("layers.2.", "layers.3."): tensor.clone()
        for name, tensor in tensors.items()
        if ".layers.2." in name
    } | {"model.layers.3.eh_proj.weight": torch.zeros(32, 64)}
    save_file(tensors | extra, file)
    values = json.loads(config_file.read_text())
    for key, layers in (("num_nextn_predict_layers", 1), ("num_mtp_layers", 1)):
        told = {k: v for k, v in values.items() if "nextn" not in k and "mtp" not in k}
        config_file.write_text(json.dumps(told | {key: layers}))
        with pytest.raises(LuminaError, match=r"model\.layers\.3") as caught:
            import_folder(tmp_path)
        assert caught.value.code == "E002" and "--drop-mtp" in str(caught.value.hint)
        found = import_folder(tmp_path, drop_mtp=True)[1]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    config_file.write_text(json.dumps(told | {"num_mtp_layers": 0}))
    with pytest.raises(LuminaError, match="not part of this architecture"):
        import_folder(tmp_path, drop_mtp=True)


@pytest.mark.parametrize(
    "case", ["mixtral", "qwen3-moe first dense", "olmoe", "deepseek-v2", "deepseek-v3"]
)
def test_experts_as_transformers_holds_them_in_memory_are_read(case, tmp_path):
    """One tensor for all experts of a layer, as some tools save them."""
    model = theirs_of(case)
    model.save_pretrained(tmp_path / "apart")
    expected = import_folder(tmp_path / "apart")[1]
    fused = tmp_path / "fused"
    fused.mkdir()
    model.config.save_pretrained(fused)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(name.endswith("gate_up_proj") for name in tensors)
    save_file(tensors, fused / "model.safetensors")
    found = import_folder(fused)[1]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


ROUTED = MoeSpec(5, 2, 24, layers=(0, 1))
CHOICES = {
    "llama": tiny_spec(),
    "mistral": tiny_spec(window_size=4),
    "qwen2": tiny_spec(attention_bias=True),
    "qwen3": tiny_spec(qk_norm="rms", head_dim=24, window_size=4),
    "mixtral": tiny_spec(moe=ROUTED),
    "qwen3_moe": tiny_spec(qk_norm="rms", moe=replace(ROUTED, layers=(1,))),
    "olmoe": tiny_spec(qk_norm="rms_full", moe=replace(ROUTED, normalise_top_k=False)),
    "deepseek_v2": tiny_spec(
        num_kv_heads=4,
        mla_kv_rank=20,
        mla_rope_dim=4,
        mla_value_dim=6,
        moe=replace(ROUTED, shared_experts=2, normalise_top_k=False, layers=(1,)),
    ),
    "deepseek_v3": tiny_spec(
        num_kv_heads=4,
        mla_kv_rank=20,
        mla_rope_dim=4,
        mla_value_dim=6,
        moe=replace(ROUTED, score="sigmoid", shared_experts=1, layers=(1,)),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_follows_from_the_shape(name, tmp_path):
    folder = export_folder(build_network(CHOICES[name], seed=0), None, tmp_path / "x")
    assert json.loads((folder / "config.json").read_text())["model_type"] == name
    assert import_folder(folder)[0].to_dict().keys() == CHOICES[name].to_dict().keys()


def test_one_of_several_formats_on_request(tmp_path):
    network = build_network(tiny_spec(), seed=0)
    folder = export_folder(network, None, tmp_path / "x", format_name="mistral")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "MistralForCausalLM"
    ids = random_ids(2, 20)
    torch.testing.assert_close(
        model(ids).logits, network.eval().logits(ids), rtol=1e-5, atol=1e-5
    )


WRONG = {
    "llama, which has no window": ("llama", tiny_spec(window_size=4), "window_size=4"),
    "llama without biases": ("llama", CHOICES["qwen2"], "attention_bias=True"),
    "llama and heads that do not divide": (
        "llama",
        tiny_spec(hidden_size=36, num_heads=8, head_dim=8),
        "num_heads",
    ),
    "qwen2 always has biases": ("qwen2", tiny_spec(), "attention_bias=True"),
    "qwen2 and wide heads": (
        "qwen2",
        tiny_spec(attention_bias=True, head_dim=24),
        "head_dim",
    ),
    "qwen3 always normalises": ("qwen3", tiny_spec(), "qk_norm=rms"),
    "a dense format and experts": ("llama", tiny_spec(moe=ROUTED), "use_moe"),
    "a routed format and none": ("mixtral", tiny_spec(), "use_moe"),
    "mixtral and dense layers": (
        "mixtral",
        tiny_spec(moe=replace(ROUTED, layers=(1,))),
        "moe_pattern",
    ),
    "mixtral always renormalises": (
        "mixtral",
        tiny_spec(moe=replace(ROUTED, normalise_top_k=False)),
        "moe_normalise_top_k",
    ),
    "olmoe has no window": (
        "olmoe",
        replace(CHOICES["olmoe"], window_size=4),
        "window_size",
    ),
    "biases and norms together": (
        None,
        tiny_spec(attention_bias=True, qk_norm="rms"),
        "qk_norm=rms",
    ),
    "l2": (None, tiny_spec(qk_norm="l2"), "qk_norm=l2"),
    "positions in a table": (
        None, tiny_spec(pos_encodings="learned"), "pos_encodings=learned"),
    "computed positions": (
        "llama", tiny_spec(pos_encodings="sinusoidal"), "pos_encodings=sinusoidal"),
    "scaled vectors": (
        None, tiny_spec(scale_embeddings=True), "scale_embeddings=True"),
    "normalised vectors": (
        None, tiny_spec(use_stable_embedding=True), "use_stable_embedding=True"),
    "a recurrent model": (None, tiny_spec(hrm=HrmSpec()), "hrm"),
    "sigmoid scores": ("qwen3_moe", tiny_spec(moe=replace(ROUTED, score="sigmoid"),
        qk_norm="rms"), "moe_score=sigmoid"),
    "shared experts": (
        "mixtral",
        tiny_spec(moe=replace(ROUTED, shared_experts=1)),
        "shared_experts=1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_format_refuses_by_name_what_it_cannot_hold(case):
    name, spec, named = WRONG[case]
    with pytest.raises(LuminaError) as caught:
        choose(spec, name)
    assert caught.value.code == "E002" and named in caught.value.message
    assert "format" in caught.value.message


def test_the_format_that_would_do_is_named():
    with pytest.raises(LuminaError) as caught:
        choose(CHOICES["qwen3"], "llama")
    assert "--format qwen3" in (caught.value.hint or "")
    with pytest.raises(LuminaError) as caught:
        choose(tiny_spec(), "gpt9")
    assert caught.value.code == "E005" and "gpt9" in caught.value.message


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers"])
def test_only_the_format_that_has_them_may_leave_layers_out(key, tmp_path):
    folder = export_folder(
        build_network(CHOICES["llama"], seed=0), None, tmp_path / "x"
    )
    config_file, file = folder / "config.json", folder / "model.safetensors"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {key: 1}))
    extra = f"model.layers.{CHOICES['llama'].num_layers}.self_attn.o_proj.weight"
    save_file(load_file(file) | {extra: torch.zeros(32, 32)}, file)
    for drop in (False, True):
        with pytest.raises(LuminaError, match=re.escape(extra)) as caught:
            import_folder(folder, drop_mtp=drop)
        assert caught.value.code == "E102"


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_are_counted_as_they_are_listed(name):
    spec = CHOICES[name]
    listed = {entry.name for entry in entries(spec, FORMATS[name])}
    assert count(spec) == len(listed)


@pytest.mark.parametrize("name", FORMATS)
def test_missing_and_unknown_tensors_are_named(name, tmp_path):
    folder = export_folder(build_network(CHOICES[name], seed=0), None, tmp_path / "x")
    file = folder / "model.safetensors"
    whole = load_file(file)
    for gone in [key for key in whole if ".1." in key][::3]:
        save_file({key: value for key, value in whole.items() if key != gone}, file)
        with pytest.raises(LuminaError) as caught:
            import_folder(folder)
        assert caught.value.code == "E102" and gone in caught.value.message
    extra = "model.layers.1.self_attn.o_proj.bias"
    save_file(whole | {extra: torch.zeros(32)}, file)
    with pytest.raises(LuminaError) as caught:
        import_folder(folder)
    assert caught.value.code == "E102" and extra in caught.value.message


def config(name, **changes):
    values = transformers.AutoConfig.for_model(name, **SHAPE).to_dict()
    return values | changes


UNREADABLE = {
    "attention_bias": config("llama", attention_bias=True),
    "attention_bias=True": config("qwen3", attention_bias=True),
    "clip_qkv": config("olmoe", clip_qkv=8.0),
    "max_window_layers": config(
        "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1,
        layer_types=None,
    ),
    "layer_types": config(
        "qwen3", use_sliding_window=True, sliding_window=4,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
    "mlp_only_layers": config("qwen3_moe", mlp_only_layers=[0, 1, 2]),
    "decoder_sparse_step": config("qwen3_moe", decoder_sparse_step=0),
    "low_freq_factor": config(
        "llama", rope_parameters={k: v for k, v in LLAMA3.items() if "low" not in k}
    ),
    "high_freq_factor": config(
        "llama", rope_parameters=LLAMA3 | {"low_freq_factor": 9.0}
    ),
    "router_aux_loss_coef": config("olmoe", router_aux_loss_coef="much"),
}  # fmt: skip


@pytest.mark.parametrize("named", UNREADABLE)
def test_what_cannot_be_computed_is_refused_by_key(named):
    with pytest.raises(LuminaError) as caught:
        spec_of(UNREADABLE[named])
    assert caught.value.code in ("E002", "E102") and named in caught.value.message


@pytest.mark.parametrize("name", FORMATS)
def test_keys_left_out_mean_what_transformers_means(name):
    """Folders of the hub leave out what was the default then."""
    needed = {"num_experts_per_tok": 6} if name == "deepseek_v2" else {}
    whole = transformers.AutoConfig.for_model(name, **needed).to_dict()
    bare = dict(whole)
    for key in (
        *FORMATS[name].absent,
        "rope_parameters",
        "norm_topk_prob",
        "tie_word_embeddings",
        "initializer_range",
        "layer_types",
    ):
        bare.pop(key, None)
    assert spec_of(bare) == spec_of(whole)
