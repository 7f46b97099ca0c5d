"""What goes together, what can be trained today, and what the guidelines advise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lumina.config.embedding import (
    EMBEDDING_OPTIONS,
    check_embedding,
    embedding_advice,
    idle_embedding,
)
from lumina.config.leaves import field
from lumina.config.parts import check_parts, idle_parts
from lumina.config.tasks import check_tasks, idle_tasks
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.config import Config


def check_combinations(config: Config) -> None:
    """Refuse values that contradict each other.

    Raises:
        LuminaError: E002, naming the options, their values and a way out.
    """
    _check_shape(config)
    _check_latent(config)
    _check_rope(config)
    check_embedding(config)
    _check_moe(config)
    _check_reasoner(config)
    _check_arc(config)
    _check_mod(config)
    _check_mor(config)
    check_parts(config)
    check_tasks(config)
    _check_training(config)
    _check_run(config)


def _refuse(message: str, hint: str) -> NoReturn:
    raise LuminaError("E002", message, hint)


def _check_shape(config: Config) -> None:
    model = config.model
    if model.head_dim is None and model.hidden_size % model.num_heads:
        lower = _divisor_below(model.hidden_size, model.num_heads)
        _refuse(
            f"hidden_size {model.hidden_size} is not a multiple of num_heads "
            f"{model.num_heads}",
            f"use {lower} heads, a hidden size of "
            f"{_multiple(model.hidden_size, 2 * model.num_heads)}, or set head_dim",
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if head_dim % 2:
        _refuse(
            f"num_heads {model.num_heads} gives heads of width {head_dim}: rotary "
            "embeddings turn pairs, so it must be even",
            f"set head_dim {head_dim + 1}, or another number of heads",
        )
    kv_heads = model.num_kv_heads
    if kv_heads is not None and model.num_heads % kv_heads:
        _refuse(
            f"num_heads {model.num_heads} is not a multiple of num_kv_heads {kv_heads}",
            f"use {_divisor_below(model.num_heads, kv_heads)} key/value heads",
        )


def _check_latent(config: Config) -> None:
    model = config.model
    parts = ("mla_q_rank", "mla_rope_dim", "mla_value_dim")
    if not model.mla_kv_rank:
        for leaf in parts:
            if config.get(leaf):
                _refuse(
                    f"{leaf} {config.get(leaf)} does nothing: mla_kv_rank is 0",
                    f"set mla_kv_rank, or leave {leaf} out",
                )
        return
    for leaf, plain in (("qk_norm", "none"), ("attention_bias", False)):
        if config.get(leaf) != plain:
            _refuse(
                f"{leaf} {config.get(leaf)} and mla_kv_rank {model.mla_kv_rank} do not "
                "go together: latent attention has norms of its own and no biases",
                f"leave {leaf} out",
            )
    if model.num_kv_heads not in (None, model.num_heads):
        _refuse(
            f"num_kv_heads {model.num_kv_heads} and mla_kv_rank {model.mla_kv_rank} do "
            "not go together: every head has keys and values from the latent",
            "leave num_kv_heads out",
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if model.mla_rope_dim % 2 or model.mla_rope_dim >= head_dim:
        _refuse(
            f"mla_rope_dim {model.mla_rope_dim} of head_dim {head_dim}",
            "an even number of a head's channels, not all, are rotated",
        )
    if model.mla_value_dim > head_dim:
        _refuse(
            f"mla_value_dim {model.mla_value_dim} is more than head_dim {head_dim}",
            "values are at most as wide as keys",
        )


def _check_rope(config: Config) -> None:
    model = config.model
    if model.rope_factor != 1.0 and model.rope_scaling == "none":
        _refuse(
            f"rope_factor {model.rope_factor:g} does nothing: rope_scaling is none",
            "choose rope_scaling linear, ntk, yarn or llama3, or leave rope_factor out",
        )
    readers = {
        "rope_original_length": ("yarn", "llama3"),
        "rope_low_freq_factor": ("llama3",),
        "rope_high_freq_factor": ("llama3",),
    }
    for leaf, scalings in readers.items():
        if config.get(leaf) is not None and model.rope_scaling not in scalings:
            _refuse(
                f"{leaf} {config.get(leaf)} does nothing: rope_scaling is "
                f"{model.rope_scaling}",
                f"choose rope_scaling {' or '.join(scalings)}, or leave {leaf} out",
            )
    low = model.rope_low_freq_factor or 1.0
    high = model.rope_high_freq_factor or 4.0
    if low >= high:
        _refuse(
            f"rope_low_freq_factor {low:g} is not below rope_high_freq_factor {high:g}",
            "llama3 keeps what turns more often than the high one, and stretches what "
            "turns less often than the low one",
        )


def _check_moe(config: Config) -> None:
    moe = config.moe
    _check_groups(config)
    _check_overflow(config)
    if moe.use_moe and moe.num_experts and moe.moe_top_k > moe.num_experts:
        _refuse(
            f"moe_top_k {moe.moe_top_k} is more than num_experts {moe.num_experts}",
            f"a token can go to at most {moe.num_experts} experts",
        )


def _check_overflow(config: Config) -> None:
    """A strategy says how tokens are dispatched, and may say the capacity."""
    overflow = config.moe.overflow
    if overflow == "none":
        return
    says = {"tight": "capacity", "loose": "dropless", "adaptive": "capacity"}[overflow]
    fixed = ("capacity_factor",) if overflow != "adaptive" else ()
    for leaf in ("moe_dispatch", *fixed):
        value = config.get(leaf)
        chosen = config.provenance[leaf].kind not in ("default", "preset")
        if chosen and value != field(leaf).default and value != says:
            _refuse(
                f"{leaf} {value} and overflow {overflow} contradict each other",
                f"leave {leaf} out, or use --overflow none",
            )


def _check_groups(config: Config) -> None:
    moe = config.moe
    if moe.moe_top_groups > moe.moe_groups:
        _refuse(
            f"moe_top_groups {moe.moe_top_groups} is more than moe_groups "
            f"{moe.moe_groups}",
            "a token's experts come from some of the groups",
        )
    experts, groups = moe.num_experts, moe.moe_groups
    if groups == 1 or not moe.use_moe:
        return
    if experts is None or experts % groups or experts < 2 * groups:
        _refuse(
            f"num_experts {experts} does not make {groups} groups (moe_groups) of two "
            "or more",
            f"use --num-experts {max(2, round((experts or 0) / groups)) * groups}",
        )
    elif moe.moe_top_k > experts // groups * moe.moe_top_groups:
        _refuse(
            f"moe_top_k {moe.moe_top_k} is more than the experts of "
            f"{moe.moe_top_groups} groups (moe_top_groups)",
            "let a token choose among more groups, or fewer experts",
        )


# What a reasoner has not; set to anything else, it would do nothing.
_NOT_IN_A_REASONER = (
    "use_moe", "use_mod", "use_mor", "dropout", "window_size", "rope_scaling",
    "qk_norm", "attention_bias", "mla_kv_rank", *EMBEDDING_OPTIONS,
)  # fmt: skip
_NOT_WITH_PUZZLES = (
    "tie_embeddings", "tokenizer", "tokenizer_vocab_size",
)  # fmt: skip


def _check_reasoner(config: Config) -> None:
    if not config.hrm.use_hrm:
        return
    puzzles = config.hrm.hrm_mode == "puzzle"
    for leaf in _NOT_IN_A_REASONER + (_NOT_WITH_PUZZLES if puzzles else ()):
        value = config.get(leaf)
        if value != field(leaf).default:
            kind = "model that solves puzzles" if puzzles else "reasoner"
            more = ", or use --hrm-mode language_model" if puzzles else ""
            _refuse(
                f"{leaf} {value} does not go with use_hrm: a {kind} has no such thing",
                f"leave {leaf} out, or use_hrm"
                + (more if leaf in _NOT_WITH_PUZZLES else ""),
            )


def _check_arc(config: Config) -> None:
    hrm = config.hrm
    if not hrm.use_hrm or hrm.puzzle != "arc":
        return
    if hrm.puzzle_votes > hrm.puzzle_augmentations + 1:
        _refuse(
            f"puzzle_votes {hrm.puzzle_votes} is more than the forms of a task: it and "
            f"its puzzle_augmentations {hrm.puzzle_augmentations}",
            f"use at most {hrm.puzzle_augmentations + 1}",
        )


def _check_mod(config: Config) -> None:
    mod = config.mod
    learned = mod.mod_routing_strategy == "learned"
    if mod.use_mod and mod.mod_mode == "static" and not learned:
        _refuse(
            "mod_mode static weighs tokens by a router, and mod_routing_strategy "
            f"{mod.mod_routing_strategy} has none",
            "use mod_routing_strategy learned, or mod_mode dynamic",
        )


def _check_mor(config: Config) -> None:
    if config.mor.use_mor and config.model.num_layers < 3:
        _refuse(
            f"use_mor shares the blocks between the first and the last, and num_layers "
            f"{config.model.num_layers} leaves none",
            "use --num-layers 3 or more",
        )
    if not config.mor.use_mor:
        return
    if config.mor.mor_routing == "token_choice" and config.mor.mor_mode == "static":
        _refuse(
            "mor_mode static lets every token go all the way, and mor_routing "
            "token_choice lets each choose how far",
            "leave one of the two out",
        )
    if config.mor.mor_kv_sharing and config.mod.use_mod:
        _refuse(
            "mor_kv_sharing and use_mod do not go together: a Mixture-of-Depths layer "
            "makes keys of some tokens only, and others would ask for them",
            "leave one of the two out",
        )


def _check_training(config: Config) -> None:
    train = config.train
    if train.expert_id is not None:
        _check_expert(config)
    if train.min_lr is not None and train.min_lr > train.learning_rate:
        _refuse(
            f"min_lr {train.min_lr:g} is above learning_rate {train.learning_rate:g}",
            "the rate decays from learning_rate down to min_lr",
        )
    # A preset's global batch gives way to a batch size (plan/batching.py).
    asked = config.provenance["global_batch_size"].kind not in ("preset", "default")
    if train.global_batch_size is not None and asked:
        product = (train.batch_size or 1) * (train.grad_accum or 1)
        if train.global_batch_size % product:
            _refuse(
                f"global_batch_size {train.global_batch_size} is not a multiple of "
                f"batch_size x grad_accum = {product}",
                f"use a global batch of {_multiple(train.global_batch_size, product)}, "
                "or leave one of the three out",
            )
    if train.early_stopping_patience and train.eval_every_n_batches == 0:
        _refuse(
            f"early_stopping_patience {train.early_stopping_patience} needs "
            "evaluations during the run, and eval_every_n_batches is 0",
            "set eval_every_n_batches, or early_stopping_patience 0",
        )


def _check_expert(config: Config) -> None:
    """What one expert that trains alone needs."""
    if not (config.train.init_from or config.run.resume):
        _refuse(
            f"expert_id {config.train.expert_id} has no model to be added to",
            "name one that was trained with experts: --init-from RUN",
        )
    if config.moe.moe_groups > 1:
        _refuse(
            "expert_id and moe_groups do not go together: groups are equal",
            "use a model without groups",
        )


def _check_run(config: Config) -> None:
    name = config.run.experiment_name
    if name is not None and (not name.strip(". ") or Path(name).name != name):
        raise LuminaError(
            "E005",
            f"experiment_name cannot be {name!r}",
            "it names one folder below runs/; use run_dir for a path",
        )
    if config.run.resume and config.train.init_from:
        _refuse(
            "resume and init_from are both set",
            "resume goes on with a run; init_from starts a new one from its weights",
        )


def _divisor_below(number: int, wanted: int) -> int:
    """The largest divisor of `number` that is at most `wanted`."""
    return next(d for d in range(min(wanted, number), 0, -1) if number % d == 0)


def _multiple(number: int, of: int) -> int:
    """The multiple of `of` nearest to `number`, at least one."""
    return max(1, round(number / of)) * of


def advise(config: Config) -> list[str]:
    """Advice on unusual values, one sentence each, naming option and value."""
    return [
        *_shape_advice(config),
        *embedding_advice(config),
        *_moe_advice(config),
        *_training_advice(config),
        *_idle_advice(config),
    ]


def _shape_advice(config: Config) -> list[str]:
    model, advice = config.model, []
    # Their length and vocabulary are given.
    puzzles = config.hrm.use_hrm and config.hrm.hrm_mode == "puzzle"
    if model.seq_length & (model.seq_length - 1) and not puzzles:
        advice.append(
            f"seq_length {model.seq_length} is not a power of two; kernels prefer one"
        )
    if model.vocab_size is not None and model.vocab_size % 64 and not puzzles:
        advice.append(
            f"vocab_size {model.vocab_size} is not a multiple of 64; it is padded to "
            f"{-(-model.vocab_size // 64) * 64} in memory"
        )
    head_dim = model.head_dim or model.hidden_size // model.num_heads
    if head_dim % 8 or head_dim > 256:
        advice.append(
            f"heads of width {head_dim}: fast attention wants a multiple of 8, "
            "at most 256"
        )
    if model.window_size and model.window_size >= model.seq_length:
        advice.append(
            f"window_size {model.window_size} covers the whole row of "
            f"{model.seq_length}: attention is full"
        )
    if model.rope_scaling != "none" and model.rope_factor == 1.0:
        advice.append(
            f"rope_scaling {model.rope_scaling} with rope_factor 1 changes nothing"
        )
    if model.dropout > 0.3:
        advice.append(f"dropout {model.dropout:g} is above the usual 0 to 0.3")
    return advice


def _moe_advice(config: Config) -> list[str]:
    moe = config.moe
    advice: list[str] = []
    if not moe.use_moe:
        return advice
    if moe.num_experts is not None and not 4 <= moe.num_experts <= 256:
        advice.append(f"num_experts {moe.num_experts} is outside the usual 4 to 256")
    factor = moe.capacity_factor
    if moe.moe_dispatch == "capacity" and factor and not 1.0 <= factor <= 2.8:
        advice.append(f"capacity_factor {factor:g} is outside the usual 1 to 2.8")
    if not 0.5 <= moe.routing_temperature <= 2:
        advice.append(
            f"routing_temperature {moe.routing_temperature:g} is outside the usual "
            "0.5 to 2"
        )
    if moe.expert_dropout > 0.2:
        advice.append(f"expert_dropout {moe.expert_dropout:g} is above the usual 0.2")
    if moe.moe_top_k == 1 and moe.moe_normalise_top_k:
        advice.append(
            "moe_top_k 1 with moe_normalise_top_k: the one chosen expert always weighs "
            "1, so the router learns nothing from the loss; switch the latter off"
        )
    weight = moe.load_balancing_weight
    if weight is None:
        return advice
    if weight > 0.05:
        advice.append(
            f"load_balancing_weight {weight:g} is above the usual 0.005 to 0.05"
        )
    elif weight < 0.005 and moe.moe_bias_update_rate == 0:
        advice.append(
            f"load_balancing_weight {weight:g} with no balancing bias: tokens may all "
            "go to a few experts"
        )
    return advice


def _training_advice(config: Config) -> list[str]:
    train, advice = config.train, []
    usual = (
        ("learning_rate", 1e-6, 1e-3),
        ("epochs", 1, 100),
        ("batch_size", 1, 64),
        ("grad_accum", 1, 128),
        ("weight_decay", 0, 0.1),
        ("max_grad_norm", 0.1, 10),
    )
    for leaf, low, high in usual:
        value = getattr(train, leaf)
        # A preset's value was chosen for its model; the guideline is for others.
        if config.provenance[leaf].kind == "preset":
            continue
        if value is None or (leaf == "max_grad_norm" and value == 0):
            continue
        if not low <= value <= high:
            advice.append(f"{leaf} {value:g} is outside the usual {low:g} to {high:g}")
    workers, cores = config.system.num_workers, os.cpu_count() or 1
    if workers is not None and workers > cores:
        advice.append(
            f"num_workers {workers} is more than this machine's {cores} cores"
        )
    return advice


# Option -> what makes it do nothing. Said only of options somebody set.
_MOE_ONLY = (
    "num_experts", "moe_top_k", "moe_pattern", "moe_intermediate_size",
    "moe_dispatch", "capacity_factor", "overflow", "load_balancing_weight",
    "router_z_loss_weight", "moe_bias_update_rate", "moe_normalise_top_k",
    "moe_first_dense", "moe_shared_experts", "moe_score", "moe_score_scale",
    "moe_balance_scope", "routing_temperature", "router_jitter_noise",
    "expert_dropout", "router_init", "router_init_std", "auto_adjust_lr",
)  # fmt: skip


_REASONER_ONLY = (
    "hrm_mode",
    "hrm_variant", "h_layers", "l_layers", "h_cycles", "l_cycles", "expansion",
    "halt_max_steps", "halt_exploration", "puzzle_loss", "puzzle",
    "puzzle_augmentations", "puzzle_votes", "puzzle_lr", "puzzle_weight_decay",
)  # fmt: skip


def _idle_advice(config: Config) -> list[str]:
    """Options that somebody set and that have no effect beside the others."""
    moe, train, data = config.moe, config.train, config.data
    idle: dict[str, str] = {}
    if not moe.use_moe:
        idle |= dict.fromkeys(_MOE_ONLY, "use_moe is off")
    elif moe.moe_dispatch == "dropless" and moe.overflow == "none":
        idle["capacity_factor"] = "moe_dispatch is dropless"
    idle |= _idle_depth(config) | idle_embedding(config)
    idle |= _idle_recursion(config) | idle_parts(config)
    idle |= idle_tasks(config)
    if train.expert_id is None:
        named = ("expert_registry", "default_goal")
        idle |= dict.fromkeys(named, "expert_id names no expert")
    if not config.hrm.use_hrm:
        idle |= dict.fromkeys(_REASONER_ONLY, "use_hrm is off")
    else:
        other = ("num_layers", "intermediate_size", "init_std")
        idle |= dict.fromkeys(other, "use_hrm has h_layers, l_layers and expansion")
        if config.hrm.hrm_mode == "language_model":
            only = [leaf for leaf in _REASONER_ONLY if leaf.startswith("puzzle")]
            idle |= dict.fromkeys(only, "hrm_mode language_model has no puzzles")
        if config.hrm.hrm_variant == "trm":
            idle["h_layers"] = "hrm_variant trm has one module, of l_layers"
        if config.hrm.puzzle != "arc":
            many = ("puzzle_augmentations", "puzzle_votes")
            idle |= dict.fromkeys(many, "puzzle is sudoku, one form each")
    if train.optimizer == "adam_atan2":
        idle["eps"] = "optimizer adam_atan2 has none"
    if train.lr_scheduler != "wsd":
        idle["decay_ratio"] = f"lr_scheduler is {train.lr_scheduler}"
    if train.lr_scheduler == "constant":
        idle["min_lr"] = "lr_scheduler is constant"
    if train.warmup_steps is not None:
        idle["warmup_ratio"] = "warmup_steps is set"
    if data.eval_data:
        idle["eval_fraction"] = "eval_data is given"
    name, folder = config.run.experiment_name, config.run.run_dir
    if name is not None and folder is not None and Path(folder).name != name:
        idle["experiment_name"] = "run_dir is set"
    if data.tokenizer is not None:
        idle["tokenizer_vocab_size"] = "a tokenizer is given"
    return [
        f"{leaf} is set but has no effect: {why}"
        for leaf, why in idle.items()
        if config.provenance[leaf].kind not in ("default", "preset")
        and not _restates_default(config, leaf)
    ]


def _idle_depth(config: Config) -> dict[str, str]:
    """Options of Mixture of Depths without effect, and why."""
    mod = config.mod
    leaves = [leaf for leaf in type(mod).model_fields if leaf != "use_mod"]
    if not mod.use_mod:
        return dict.fromkeys(leaves, "use_mod is off")
    idle: dict[str, str] = {}
    if mod.mod_mode == "static":
        dynamic = [leaf for leaf in leaves if "capacity" in leaf]
        idle |= dict.fromkeys(
            [*dynamic, "mod_predictor_weight"], "mod_mode static computes every token"
        )
    if mod.mod_routing_strategy != "learned":
        idle["mod_predictor_weight"] = "there is no router to predict"
    if mod.mod_capacity_schedule:
        idle["mod_capacity_factor"] = "mod_capacity_schedule says it"
    return idle


def _idle_recursion(config: Config) -> dict[str, str]:
    """Options of Mixture of Recursions without effect, and why."""
    mor = config.mor
    leaves = [leaf for leaf in type(mor).model_fields if leaf != "use_mor"]
    if not mor.use_mor:
        return dict.fromkeys(leaves, "use_mor is off")
    leaves.remove("mor_recursions")
    if mor.mor_recursions == 1:
        return dict.fromkeys(leaves, "one recursion is the plain transformer")
    if mor.mor_routing == "token_choice":
        why = "mor_routing token_choice has losses of its own"
        return {"mor_router_loss_weight": why}
    chosen = ("mor_capacity_factor", "mor_balance_weight", "mor_z_loss_weight")
    idle = dict.fromkeys(chosen, "mor_routing is expert_choice")
    if mor.mor_mode == "static":
        idle["mor_router_loss_weight"] = "mor_mode static lets every token through"
    return idle


def _restates_default(config: Config, leaf: str) -> bool:
    """Whether a file merely restates the default, as a saved run's file does."""
    return bool(config.get(leaf) == field(leaf).default)
