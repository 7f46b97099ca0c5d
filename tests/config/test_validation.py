"""Values that do not go together are refused; unusual ones get advice."""

from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from marked_cases import marked

REFUSED = {
    "hidden and heads": dict(hidden_size=100, num_heads=3),
    "odd heads": dict(hidden_size=30, num_heads=2),
    "heads and kv heads": dict(hidden_size=128, num_heads=4, num_kv_heads=3),
    "more kv heads than heads": dict(num_heads=2, num_kv_heads=4),
    "rope factor alone": dict(rope_factor=4),
    "rope length alone": dict(rope_original_length=64),
    "a length that ntk does not read": dict(
        rope_original_length=64, rope_scaling="ntk", rope_factor=2
    ),
    "a frequency that yarn does not read": dict(
        rope_low_freq_factor=2, rope_scaling="yarn", rope_factor=2
    ),
    "frequencies the wrong way round": dict(
        rope_low_freq_factor=5, rope_scaling="llama3", rope_factor=2
    ),
    "sinks without a window": dict(attention_sinks=4),
    "dilation without a window": dict(attention_dilation=4),
    "dilation that hides nothing": dict(window_size=8, attention_dilation=1),
    "a latent of queries alone": dict(mla_q_rank=16),
    "a latent and fewer key heads": dict(
        hidden_size=64, num_heads=4, num_kv_heads=2, mla_kv_rank=16
    ),
    "a latent and norms of heads": dict(mla_kv_rank=16, qk_norm="rms"),
    "all channels rotated": dict(head_dim=16, mla_kv_rank=16, mla_rope_dim=16),
    "values wider than keys": dict(head_dim=16, mla_kv_rank=16, mla_value_dim=32),
    "a norm after a scale": dict(scale_embeddings=True, use_stable_embedding=True),
    "nothing to stretch": dict(
        pos_encodings="learned", rope_scaling="linear", rope_factor=2
    ),
    "a latent without rotation": dict(mla_kv_rank=16, pos_encodings="none"),
    "half a sine": dict(
        hidden_size=33, num_heads=3, head_dim=8, pos_encodings="sinusoidal"
    ),
    "positions of a reasoner": dict(use_hrm=True, pos_encodings="learned"),
    "a scale that a reasoner has": dict(use_hrm=True, scale_embeddings=True),
    "embedding of another's": dict(backbone="mine", use_stable_embedding=True),
    "unequal groups": dict(use_moe=True, num_experts=6, moe_groups=4),
    "more groups than there are": dict(
        use_moe=True, num_experts=8, moe_groups=2, moe_top_groups=3
    ),
    "more choices than their groups hold": dict(
        use_moe=True, num_experts=8, moe_groups=4, moe_top_k=3
    ),
    "more choices than experts": dict(use_moe=True, num_experts=4, moe_top_k=5),
    "final rate above the peak": dict(learning_rate=1e-4, min_lr=1e-3),
    "batches": dict(global_batch_size=10, batch_size=4),
    "patience without evaluations": dict(
        early_stopping_patience=3, eval_every_n_batches=0
    ),
    "two beginnings": dict(resume="a", init_from="b"),
}


@pytest.mark.parametrize(
    "case",
    marked(
        REFUSED,
        {
            "hidden and heads": (
                "CFG-04: hidden/heads",
                "MOD-02: hidden size a multiple of heads",
            ),
            "heads and kv heads": (
                "CFG-04: KV/heads",
                "MOD-02: query heads must be a multiple of KV heads",
            ),
            "more choices than experts": "CFG-06: experts vs k",
        },
    ),
)
@pytest.mark.covers("CFG-08: E002 combination")
def test_contradictions_name_values_and_a_way_out(case: str) -> None:
    leaves = REFUSED[case]
    with pytest.raises(LuminaError) as refused:
        Config(**leaves)
    assert refused.value.code == "E002" and refused.value.hint
    assert any(str(leaf) in refused.value.message for leaf in leaves)


def test_the_way_out_is_one() -> None:
    with pytest.raises(LuminaError) as refused:
        Config(hidden_size=128, num_heads=3)
    assert "132" not in refused.value.message and "126" in refused.value.hint
    Config(hidden_size=126, num_heads=3)
    Config(hidden_size=128, num_heads=2)
    Config(hidden_size=128, num_heads=3, head_dim=64)


def test_choices_do_not_matter_without_experts() -> None:
    Config(use_moe=False, num_experts=4, moe_top_k=5)


def test_a_presets_global_batch_is_no_contradiction() -> None:
    # It gives way when the plan is made.
    Config(preset="debug").replace(batch_size=24)


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        pytest.param(
            dict(seq_length=300),
            "seq_length 300 is not a power of two",
            marks=pytest.mark.covers("CFG-04: sequence power of two (advice)"),
        ),
        pytest.param(
            dict(vocab_size=50257),
            "50257 is not a multiple of 64; it is padded to 50304",
            marks=pytest.mark.covers("CFG-04: vocab multiple of 64", "TOK-05"),
        ),
        (dict(hidden_size=60, num_heads=3), "heads of width 20"),
        (dict(window_size=512), "window_size 512 covers the whole row"),
    ],
)
def test_shape_advice(leaves: dict[str, object], says: str) -> None:
    assert [text for text in Config(**leaves).warnings() if says in text]


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        pytest.param(
            dict(learning_rate=0.01),
            "learning_rate 0.01 is outside the usual 1e-06",
            marks=pytest.mark.covers("CFG-05: LR range"),
        ),
        (dict(learning_rate=1e-7), "learning_rate 1e-07"),
        (dict(batch_size=128), "batch_size 128"),
        (dict(weight_decay=0.5), "weight_decay 0.5"),
        (dict(max_grad_norm=50), "max_grad_norm 50"),
        pytest.param(
            dict(num_workers=4096),
            "more than this machine's",
            marks=pytest.mark.covers("CFG-07: workers vs cores"),
        ),
    ],
)
def test_training_advice(leaves: dict[str, object], says: str) -> None:
    assert [text for text in Config(**leaves).warnings() if says in text]


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        (dict(use_moe=True, num_experts=300), "num_experts 300"),
        pytest.param(
            dict(use_moe=True, moe_dispatch="capacity", capacity_factor=9),
            "capacity_factor 9 is outside",
            marks=pytest.mark.covers("CFG-06: capacity"),
        ),
        (dict(use_moe=True, overflow="adaptive", capacity_factor=5), "is outside"),
        (dict(use_moe=True, capacity_factor=1.5), "moe_dispatch is dropless"),
        (dict(use_moe=True, load_balancing_weight=0), "go to a few experts"),
        pytest.param(
            dict(use_moe=True, load_balancing_weight=1),
            "load_balancing_weight 1",
            marks=pytest.mark.covers("CFG-06: balance weight"),
        ),
        (dict(num_experts=4), "num_experts is set but has no effect: use_moe is off"),
        (
            dict(static_routing_mode=True, use_moe=False),
            "static_routing_mode is set but has no effect: the model routes no token",
        ),
    ],
)
def test_expert_advice(leaves: dict[str, object], says: str) -> None:
    assert [text for text in Config(**leaves).warnings() if says in text]


TEXT = dict(use_hrm=True, hrm_mode="language_model")
TWO = dict(tasks=["a=x", "b=y"], task_eval_data=["a=z", "b=z"])


@pytest.mark.parametrize(
    ("leaves", "says"),
    [
        (
            TEXT | dict(puzzle_votes=3),
            "puzzle_votes is set but has no effect: hrm_mode",
        ),
        (TEXT | dict(init_std=0.1), "a reasoner's weights begin"),
        (TEXT | dict(halt_max_steps=1, halt_exploration=0.5), "nothing to explore"),
        (TWO | dict(eval_fraction=0.2), "task_eval_data is given for every task"),
    ],
)
def test_what_has_no_effect_is_told_with_its_reason(
    leaves: dict[str, object], says: str
) -> None:
    assert [text for text in Config(**leaves).warnings() if says in text]


def test_a_share_is_held_out_of_tasks_without_files() -> None:
    some = Config(**TWO | dict(task_eval_data=["a=z"]), eval_fraction=0.2)
    assert not [text for text in some.warnings() if "eval_fraction" in text]


def test_guidelines_are_quiet_inside() -> None:
    assert Config(learning_rate=1e-3, batch_size=64, max_grad_norm=0).warnings() == []
