"""Configurations as published: read right, they give the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.plan.count import count_parameters
from lumina.state.huggingface.configuration import spec_of
from lumina.state.huggingface.formats import FORMATS, fits

COMMON = {"hidden_act": "silu", "attention_dropout": 0.0, "torch_dtype": "bfloat16"}

LLAMA_3_2_1B = {
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN2_5_HALF_B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
QWEN3_HALF_B = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
MIXTRAL_8X7B = MISTRAL_7B | {
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
}
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
OLMOE_1B_7B = {
    "model_type": "olmoe",
    "attention_bias": False,
    "clip_qkv": None,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": False,
    "vocab_size": 50304,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
PUBLISHED = {
    "Llama-3.2-1B": (LLAMA_3_2_1B, 1_235_814_400),
    "Mistral-7B-v0.1": (MISTRAL_7B, 7_241_732_096),
    "Qwen2.5-0.5B": (QWEN2_5_HALF_B, 494_032_768),
    "Qwen3-0.6B": (QWEN3_HALF_B, 596_049_920),
    "Mixtral-8x7B-v0.1": (MIXTRAL_8X7B, 46_702_792_704),
    "Qwen3-30B-A3B": (QWEN3_30B_A3B, 30_532_122_624),
    "OLMoE-1B-7B-0924": (OLMOE_1B_7B, 6_919_161_856),
    "DeepSeek-V3": (DEEPSEEK_V3, 671_026_404_352),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_the_published_size(name):
    config, parameters = PUBLISHED[name]
    spec, row = spec_of(COMMON | config)
    assert row.name == config["model_type"]
    assert count_parameters(spec).total == parameters
    assert fits(spec, row)


def test_what_they_say_beside_their_size_is_read():
    llama = spec_of(COMMON | LLAMA_3_2_1B)[0]
    assert (llama.rope_scaling, llama.rope_factor) == ("llama3", 32.0)
    assert (llama.rope_original_length, llama.rope_high_freq_factor) == (8192, 4.0)
    assert spec_of(COMMON | MISTRAL_7B)[0].window_size == 4096
    assert spec_of(COMMON | QWEN2_5_HALF_B)[0].window_size == 0
    olmoe = spec_of(COMMON | OLMOE_1B_7B)[0]
    assert olmoe.qk_norm == "rms_full" and not olmoe.moe.normalise_top_k
    deepseek = spec_of(COMMON | DEEPSEEK_V3)[0]
    assert (deepseek.head_dim, deepseek.rotary_dim, deepseek.value_dim) == (
        192,
        64,
        128,
    )
    assert (deepseek.moe.groups, deepseek.moe.top_groups) == (8, 4)
    assert (deepseek.moe.score, deepseek.moe.score_scale) == ("sigmoid", 2.5)
    assert deepseek.moe.layers == tuple(range(3, 61))


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (DEEPSEEK_V3, "quantization_config", {"quant_method": "fp8"}),
        (DEEPSEEK_V3, "scoring_func", "softmax"),
        (DEEPSEEK_V3, "topk_method", "greedy"),
        (DEEPSEEK_V3, "moe_layer_freq", 2),
        (DEEPSEEK_V3, "rope_interleave", "halves"),
        (DEEPSEEK_V3, "first_k_dense_replace", 61),
        (DEEPSEEK_V3, "topk_group", 0),
        (DEEPSEEK_V3, "n_group", 7),
        (DEEPSEEK_V3, "v_head_dim", 256),
        (DEEPSEEK_V3, "kv_lora_rank", None),
        (DEEPSEEK_V3, "rope_scaling", DEEPSEEK_V3["rope_scaling"] | {"mscale": 0.7}),
        (LLAMA_3_2_1B, "attention_bias", True),
        (QWEN2_5_HALF_B, "hidden_act", "gelu"),
    ],
)
def test_another_function_is_refused_by_key(config, key, value):
    with pytest.raises(LuminaError) as caught:
        spec_of(COMMON | config | {key: value})
    said = "mscale" if key == "rope_scaling" else key
    assert caught.value.code in ("E002", "E102") and said in caught.value.message


def test_the_page_of_formats_has_a_row_for_each():
    page = Path(__file__).parents[2] / "docs" / "formats.md"
    rows = [
        line.split("`")[1] for line in page.read_text().splitlines() if "| `" in line
    ]
    assert rows[1 : rows.index("quant_method")] == list(FORMATS)
