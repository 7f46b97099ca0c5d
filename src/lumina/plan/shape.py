"""From the options of a model to its resolved shape. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.config.task_paths import paths_by_task
from lumina.errors import LuminaError
from lumina.model.spec import HrmSpec, ModelSpec, ModSpec, MoeSpec, MorSpec, TaskSpec
from lumina.plan.count import count_parameters
from lumina.plan.moe_scale import OVERFLOW, default_experts, usual_values
from lumina.plan.part_options import with_parts

if TYPE_CHECKING:
    from lumina.config import Config

VOCAB_MULTIPLE = 64
"""Rows of the embedding and the head are padded to this (tensor cores like it)."""

GOAL_BIAS = 2.0
"""Added to the logits of experts that serve an active goal: odds of more than seven."""

WIDTH_MULTIPLE = 128
"""The default SwiGLU width is rounded up to this."""

EXPANSION_MULTIPLE = 256
"""A reasoner's SwiGLU width is rounded up to this, as in its reference."""


def resolve_spec(
    config: Config, tokenizer_vocab_size: int | None = None, num_puzzles: int = 1
) -> ModelSpec:
    """Fix every number of the model's shape.

    Args:
        config: the options; a Config has already refused numbers that do not divide.
        tokenizer_vocab_size: tokens the tokenizer knows, once there is one. The
            logits returned are as many; without it, as many as `vocab_size`.
        num_puzzles: identifiers of the puzzles, for a model of puzzles.

    Raises:
        LuminaError: E002 where the tokenizer knows more tokens than the model has
            room for, or where `moe_pattern` leaves no routed layer; E005 where the
            size of the vocabulary is known from nowhere.
    """
    if config.hrm.use_hrm:
        return _reasoner(config, tokenizer_vocab_size, num_puzzles)
    model = config.model
    vocab_size, rows = _vocabulary(config, tokenizer_vocab_size)
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    intermediate_size = model.intermediate_size or round_up(
        math.ceil(model.hidden_size * 8 / 3), WIDTH_MULTIPLE
    )
    original = model.rope_original_length
    low, high = model.rope_low_freq_factor, model.rope_high_freq_factor
    if original is None and model.rope_scaling in ("yarn", "llama3"):
        original = max(1, round(model.seq_length / model.rope_factor))
    if model.rope_scaling == "llama3":
        low, high = low or 1.0, high or 4.0
    dense = ModelSpec(
        vocab_size=vocab_size,
        padded_vocab_size=round_up(rows, VOCAB_MULTIPLE),
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads or model.num_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        seq_length=model.seq_length,
        rope_theta=model.rope_theta,
        rope_scaling=model.rope_scaling,
        rope_factor=model.rope_factor,
        rope_original_length=original,
        rope_low_freq_factor=low,
        rope_high_freq_factor=high,
        norm_eps=model.norm_eps,
        qk_norm=model.qk_norm,
        attention_bias=model.attention_bias,
        **_latent(config, head_dim),
        window_size=model.window_size,
        tie_embeddings=model.tie_embeddings,
        dropout=model.dropout,
        init_std=model.init_std,
        pos_encodings=model.pos_encodings,
        scale_embeddings=model.scale_embeddings,
        use_stable_embedding=model.use_stable_embedding,
        tasks=_tasks(config),
    )
    if config.moe.use_moe:
        dense = replace(dense, moe=_routed(config, dense))
    dense = with_parts(config, dense)
    if config.mod.use_mod:
        dense = replace(dense, mod=_depth(config, dense))
    return replace(dense, mor=_recursion(config)) if config.mor.use_mor else dense


def _reasoner(config: Config, vocab_size: int | None, num_puzzles: int) -> ModelSpec:
    """A reasoner. The small vocabularies of puzzles are not padded."""
    model, hrm = config.model, config.hrm
    text = hrm.hrm_mode == "language_model"
    known, rows = _vocabulary(config, vocab_size)
    one = hrm.hrm_variant == "trm"
    h_layers = 0 if one else hrm.h_layers
    return ModelSpec(
        vocab_size=known,
        padded_vocab_size=round_up(rows, VOCAB_MULTIPLE) if text else rows,
        hidden_size=model.hidden_size,
        num_layers=h_layers + hrm.l_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads or model.num_heads,
        head_dim=model.head_dim or model.hidden_size // model.num_heads,
        intermediate_size=round_up(
            round(hrm.expansion * model.hidden_size * 2 / 3), EXPANSION_MULTIPLE
        ),
        seq_length=model.seq_length,
        rope_theta=model.rope_theta,
        norm_eps=model.norm_eps,
        tie_embeddings=model.tie_embeddings,
        hrm=HrmSpec(
            mode=hrm.hrm_mode,
            variant=hrm.hrm_variant,
            h_layers=h_layers,
            l_layers=hrm.l_layers,
            h_cycles=hrm.h_cycles,
            l_cycles=hrm.l_cycles,
            halt_max_steps=hrm.halt_max_steps,
            halt_exploration=hrm.halt_exploration,
            loss=hrm.puzzle_loss,
            num_puzzles=num_puzzles,
        ),
    )


def routed_layers(
    pattern: str, num_layers: int, first_dense: int = 0
) -> tuple[int, ...]:
    """Indices of the routed blocks, of which none is before block `first_dense`.

    `all`: every block. `interleaved`: every second block, starting with block 1, so
    that the first is dense. `sandwich`: the first and the last block are dense, all
    between them are routed.

    Raises:
        LuminaError: E002 if the pattern leaves no routed block.
    """
    chosen = {
        "all": range(num_layers),
        "interleaved": range(1, num_layers, 2),
        "sandwich": range(1, num_layers - 1),
    }[pattern]
    if chosen and first_dense > chosen[-1]:
        raise LuminaError(
            "E002",
            f"moe_first_dense {first_dense} leaves no routed layer of the {num_layers}",
            f"use at most {chosen[-1]}",
        )
    if not chosen:
        need = 2 if pattern == "interleaved" else 3
        raise LuminaError(
            "E002",
            f"moe_pattern {pattern} routes none of {num_layers} layers",
            f"use --moe-pattern all, or --num-layers {need} or more",
        )
    return tuple(layer for layer in chosen if layer >= first_dense)


def depth_layers(
    pattern: str | None, num_layers: int, routed: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Indices of the blocks that only a share of the tokens goes through.

    `alternate`: every second block, starting with block 1, as in the paper. `all`:
    every block. `dense`: the blocks without experts. None: `dense` where there are
    both kinds, else `alternate`.

    Args:
        routed: the blocks with experts.

    Raises:
        LuminaError: E002 if the pattern leaves no such block.
    """
    dense = tuple(i for i in range(num_layers) if i not in routed)
    if pattern is None:
        pattern = "dense" if routed and dense else "alternate"
    chosen = {
        "alternate": tuple(range(1, num_layers, 2)),
        "all": tuple(range(num_layers)),
        "dense": dense,
    }[pattern]
    if not chosen:
        raise LuminaError(
            "E002",
            f"mod_pattern {pattern} leaves none of {num_layers} layers to choose in",
            "use --mod-pattern all",
        )
    return chosen


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def _latent(config: Config, head_dim: int) -> dict[str, Any]:
    """The fields of latent attention, or none."""
    model = config.model
    if not model.mla_kv_rank:
        return {}
    rotated = model.mla_rope_dim or max(2, head_dim // 4 * 2)
    return {
        "mla_kv_rank": model.mla_kv_rank,
        "mla_q_rank": model.mla_q_rank,
        "mla_rope_dim": rotated,
        "mla_value_dim": model.mla_value_dim or head_dim - rotated,
    }


def _vocabulary(config: Config, tokenizer_vocab_size: int | None) -> tuple[int, int]:
    """(tokens that get a logit, rows the embedding needs before padding)."""
    asked = config.model.vocab_size
    if asked is None:
        known = tokenizer_vocab_size or config.data.tokenizer_vocab_size
        if known is None:
            raise LuminaError(
                "E005",
                "the size of the vocabulary is not known: there is no tokenizer yet",
                "name --vocab-size, --tokenizer or --tokenizer-vocab-size",
            )
        return known, known
    if tokenizer_vocab_size is None:
        return asked, asked
    if tokenizer_vocab_size > asked:
        raise LuminaError(
            "E002",
            f"the tokenizer knows {tokenizer_vocab_size:,} tokens but the model has "
            f"room for {asked:,}",
            f"use --vocab-size {round_up(tokenizer_vocab_size, VOCAB_MULTIPLE)}, or a "
            f"tokenizer of at most {asked} tokens",
        )
    return tokenizer_vocab_size, asked


def _tasks(config: Config) -> TaskSpec | None:
    """The tasks and their weights, together one."""
    if not config.data.tasks:
        return None
    weights = config.train.task_weights
    return TaskSpec(
        names=tuple(paths_by_task(config.data.tasks, "tasks")),
        weights=tuple(weight / sum(weights) for weight in weights),
        balancing=config.train.task_balancing,
        balancing_window=config.train.task_balancing_window,
    )


def _recursion(config: Config) -> MorSpec:
    mor = config.mor
    usual = 1.0 if mor.mor_routing == "token_choice" else 0.1
    return MorSpec(
        recursions=mor.mor_recursions,
        mode=mor.mor_mode,
        alpha=_or(mor.mor_alpha, usual),
        router_loss_weight=mor.mor_router_loss_weight,
        routing=mor.mor_routing,
        capacity_factor=mor.mor_capacity_factor,
        balance_weight=mor.mor_balance_weight,
        z_loss_weight=mor.mor_z_loss_weight,
        kv_sharing=mor.mor_kv_sharing,
    )


def _depth(config: Config, dense: ModelSpec) -> ModSpec:
    mod = config.mod
    schedule = mod.mod_capacity_schedule
    capacity = schedule[-1] if schedule else mod.mod_capacity_factor
    routed = dense.moe.layers if dense.moe is not None else ()
    return ModSpec(
        layers=depth_layers(mod.mod_pattern, dense.num_layers, routed),
        capacity=capacity,
        ladder=tuple(sorted({capacity, *schedule, *mod.mod_capacity_ladder})),
        scope=mod.mod_scope,
        routing=mod.mod_routing_strategy,
        mode=mod.mod_mode,
        schedule=schedule,
        predictor_weight=mod.mod_predictor_weight,
    )


def _routed(config: Config, dense: ModelSpec) -> MoeSpec:
    """The routed layers; what was not asked for comes from the scale table."""
    moe = config.moe
    experts = moe.num_experts or default_experts(count_parameters(dense).total)
    if moe.moe_top_k > experts:
        raise LuminaError(
            "E002",
            f"moe_top_k {moe.moe_top_k} is more than num_experts {experts}",
            f"name --num-experts; a model of this size has {experts} by default",
        )
    usual = usual_values(experts)
    given = moe.moe_dispatch, usual.capacity_factor
    dispatch, factor = OVERFLOW.get(moe.overflow, given)
    return MoeSpec(
        num_experts=experts,
        top_k=moe.moe_top_k,
        intermediate_size=moe.moe_intermediate_size or dense.intermediate_size,
        layers=routed_layers(moe.moe_pattern, dense.num_layers, moe.moe_first_dense),
        dispatch=dispatch,
        capacity_factor=_or(moe.capacity_factor, factor),
        overflow=moe.overflow,
        normalise_top_k=moe.moe_normalise_top_k,
        balance_weight=_or(moe.load_balancing_weight, usual.balance_weight),
        z_loss_weight=moe.router_z_loss_weight,
        bias_update_rate=moe.moe_bias_update_rate,
        score=moe.moe_score,
        score_scale=moe.moe_score_scale,
        groups=moe.moe_groups,
        top_groups=moe.moe_top_groups,
        shared_experts=moe.moe_shared_experts,
        balance_scope=moe.moe_balance_scope,
        temperature=moe.routing_temperature,
        jitter=moe.router_jitter_noise,
        expert_dropout=moe.expert_dropout,
        router_init=moe.router_init,
        router_init_std=moe.router_init_std,
        **_named(config),
    )


def _named(config: Config) -> dict[str, Any]:
    """The fields of one expert that trains alone, or none."""
    if config.train.expert_id is None:
        return {}
    return {
        "names": (config.train.expert_id,),
        "trained": 1,
        "goal_bias": GOAL_BIAS if config.train.default_goal else 0.0,
    }


def _or(asked: float | None, usual: float) -> float:
    """What was asked for, zero included, or the usual value."""
    return usual if asked is None else asked
