"""The sections that describe the model: every option, its type, default and meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Section(BaseModel):
    """Common rules: unknown keys are refused, values are checked when set."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(Section):
    """Shape of the network."""

    vocab_size: int | None = Field(
        None, ge=2, description="tokens; default: the tokenizer's, padded to 64"
    )
    hidden_size: int = Field(128, ge=8, description="model width")
    num_layers: int = Field(2, ge=1, description="transformer blocks")
    num_heads: int = Field(2, ge=1, description="query heads")
    num_kv_heads: int | None = Field(
        None, ge=1, description="key/value heads; default: as many as query heads"
    )
    head_dim: int | None = Field(
        None, ge=2, description="width of a head; default: hidden size / heads"
    )
    intermediate_size: int | None = Field(
        None, ge=1, description="SwiGLU width; default: 8/3 hidden, rounded up to 128"
    )
    seq_length: int = Field(
        256,
        ge=2,
        description="tokens in a row (default 256; with init_from: by the data)",
    )
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary embedding")
    rope_scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = Field(
        "none", description="how rotary embeddings reach past the trained length"
    )
    rope_factor: float = Field(
        1.0, ge=1, description="context extension factor of the rope scaling"
    )
    rope_original_length: int | None = Field(
        None,
        ge=2,
        description="trained length before extension; default: seq_length / factor",
    )
    rope_low_freq_factor: float | None = Field(
        None, gt=0, description="turns below which llama3 stretches; default: 1"
    )
    rope_high_freq_factor: float | None = Field(
        None, gt=0, description="turns above which llama3 changes nothing; default: 4"
    )
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of every RMSNorm")
    qk_norm: Literal["none", "rms", "rms_full", "l2"] = Field(
        "none",
        description="normalise queries and keys (rms: each head, as Qwen3; rms_full: "
        "all heads together, as OLMoE; l2: scaled)",
    )
    attention_bias: bool = Field(
        False, description="biases on queries, keys and values, as Qwen2"
    )
    mla_kv_rank: int = Field(
        0, ge=0, description="width of the latent of keys and values (MLA); 0: none"
    )
    mla_q_rank: int = Field(
        0, ge=0, description="width of the latent of queries; 0: none"
    )
    mla_rope_dim: int = Field(
        0, ge=0, description="rotated channels of a head; 0: half of them"
    )
    mla_value_dim: int = Field(
        0, ge=0, description="width of a head's values; 0: its channels not rotated"
    )
    window_size: int = Field(
        0, ge=0, description="sliding attention window in tokens; 0: full attention"
    )
    tie_embeddings: bool = Field(False, description="the head is the embedding")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on both residuals")
    init_std: float = Field(0.02, gt=0, description="spread of initial weights")
    pos_encodings: Literal["rope", "learned", "sinusoidal", "none"] = Field(
        "rope",
        description="how a token knows its place: rotated queries and keys, a learned "
        "or a computed vector added to it, or by causal order alone",
    )
    scale_embeddings: bool = Field(
        False, description="token vectors times sqrt(hidden_size), as Gemma"
    )
    use_stable_embedding: bool = Field(
        False,
        description="token vectors start Xavier-uniform and go through a layer norm",
    )


class MoeSection(Section):
    """Mixture of Experts: routed layers."""

    use_moe: bool = Field(False, description="routed experts in place of the MLP")
    num_experts: int | None = Field(
        None, ge=2, description="experts in a routed layer; default: by model size"
    )
    moe_top_k: int = Field(2, ge=1, description="experts a token goes to")
    moe_pattern: Literal["all", "interleaved", "sandwich"] = Field(
        "all", description="which layers are routed"
    )
    moe_first_dense: int = Field(
        0, ge=0, description="so many first layers are dense, whatever the pattern"
    )
    moe_shared_experts: int = Field(
        0, ge=0, description="experts of the same width that every token goes to"
    )
    moe_score: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="how logits become scores (sigmoid: DeepSeek-V3)"
    )
    moe_score_scale: float = Field(
        1.0, gt=0, description="factor on the weights of a token's experts"
    )
    moe_groups: int = Field(
        1, ge=1, description="groups of experts, as DeepSeek-V3; 1: no groups"
    )
    moe_top_groups: int = Field(
        1, ge=1, description="groups that a token's experts may come from"
    )
    moe_intermediate_size: int | None = Field(
        None, ge=1, description="SwiGLU width of one expert; default: the MLP's"
    )
    moe_dispatch: Literal["dropless", "capacity"] = Field(
        "dropless", description="keep every token, or drop past an expert's capacity"
    )
    capacity_factor: float | None = Field(
        None,
        gt=0,
        description="expert capacity over the even share (capacity only); default: by "
        "number of experts",
    )
    overflow: Literal["none", "tight", "loose", "adaptive"] = Field(
        "none",
        description="tokens past an expert's places: tight drops them at factor 1.0, "
        "loose keeps them (1.5), adaptive follows the drop rate from 1.25; none: as "
        "moe_dispatch says",
    )
    moe_normalise_top_k: bool = Field(
        True, description="the chosen experts' probabilities sum to one"
    )
    load_balancing_weight: float | None = Field(
        None,
        ge=0,
        description="weight of the load-balancing loss; default: by number of experts",
    )
    moe_balance_scope: Literal["global", "micro_batch"] = Field(
        "global",
        description="whose load the balancing loss uses: all of the step before, or "
        "each forward's own",
    )
    router_z_loss_weight: float = Field(
        0.001, ge=0, description="weight of the router z-loss"
    )
    moe_bias_update_rate: float = Field(
        0.0, ge=0, description="step of the loss-free balancing bias; 0: no bias"
    )
    routing_temperature: float = Field(
        1.0, gt=0, description="the router's logits are divided by it; 1.2 explores"
    )
    router_jitter_noise: float = Field(
        0.0, ge=0, lt=1, description="relative noise on the router's logits in training"
    )
    expert_dropout: float = Field(
        0.0, ge=0, lt=1, description="chance that an expert is hidden from a token"
    )
    router_init: Literal["normal", "orthogonal"] = Field(
        "normal",
        description="initial routers: random, or no expert before another (rows of "
        "equal length at right angles)",
    )
    router_init_std: float | None = Field(
        None, gt=0, description="spread of initial routers; default: init_std"
    )


class ModSection(Section):
    """Mixture of Depths: blocks that only some tokens go through."""

    use_mod: bool = Field(False, description="Mixture of Depths")
    mod_capacity_factor: float = Field(
        0.5, gt=0, le=1, description="share of tokens a Mixture-of-Depths layer takes"
    )
    mod_capacity_ladder: tuple[float, ...] = Field(
        (), description="further shares a running job may change to at once"
    )
    mod_capacity_schedule: tuple[float, ...] = Field(
        (), description="shares of equal parts of the run, such as 0.75 0.55 0.45"
    )
    mod_pattern: Literal["alternate", "all", "dense"] | None = Field(
        None,
        description="which layers: every second, all, or those without experts; "
        "default: dense where only some layers have experts, else alternate",
    )
    mod_scope: Literal["block", "feedforward"] = Field(
        "block", description="what the other tokens pass by"
    )
    mod_routing_strategy: Literal["learned", "fixed", "random"] = Field(
        "learned", description="who decides: a router, the position, or chance"
    )
    mod_mode: Literal["dynamic", "static"] = Field(
        "dynamic", description="top-k tokens, or all tokens softly weighted (dense)"
    )
    mod_predictor_weight: float = Field(
        0.01, ge=0, description="weight of the causal predictor's loss"
    )

    @field_validator("mod_capacity_ladder", "mod_capacity_schedule")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 1 for value in values):
            raise ValueError("shares are above 0, at most 1")
        return values


class HrmSection(Section):
    """Hierarchical reasoning with adaptive computation time, on puzzles or text."""

    use_hrm: bool = Field(
        False, description="a recurrent reasoner in place of the transformer"
    )
    hrm_mode: Literal["puzzle", "language_model"] = Field(
        "puzzle", description="what it reasons on: whole puzzles, or text, causally"
    )
    hrm_variant: Literal["hrm", "trm"] = Field(
        "hrm", description="two modules, or one for both states (trm)"
    )
    h_layers: int = Field(4, ge=1, description="high-level blocks (hrm only)")
    l_layers: int = Field(4, ge=1, description="low-level blocks")
    h_cycles: int = Field(2, ge=1, description="high-level updates of a segment")
    l_cycles: int = Field(2, ge=1, description="low-level updates before each of them")
    expansion: float = Field(
        4.0, gt=0, description="SwiGLU width over 2/3 of the hidden size (use_hrm)"
    )
    halt_max_steps: int = Field(
        16, ge=1, description="most segments for a puzzle or a token"
    )
    halt_exploration: float = Field(
        0.1, ge=0, le=1, description="share of steps or tokens that draw a least number"
    )
    puzzle_loss: Literal["stablemax", "softmax"] = Field(
        "stablemax", description="cross entropy: stablemax in float64, or softmax"
    )
    puzzle: Literal["sudoku", "arc"] = Field(
        "sudoku", description="what the puzzles are: Sudokus, or ARC tasks in JSON"
    )
    puzzle_augmentations: int = Field(
        1000, ge=0, description="turned and recoloured forms of an ARC task"
    )
    puzzle_votes: int = Field(
        1, ge=1, description="forms of an ARC test that vote on two attempts"
    )
    puzzle_lr: float = Field(
        0.01, ge=0, le=1, description="peak rate of sign descent on puzzles' vectors"
    )
    puzzle_weight_decay: float = Field(
        0.1, ge=0, description="decoupled, on the vectors of a step's puzzles"
    )


class MorSection(Section):
    """Mixture of Recursions: some tokens pass the middle blocks again."""

    use_mor: bool = Field(False, description="Mixture of Recursions")
    mor_recursions: int = Field(
        2, ge=1, description="most passes through the blocks between first and last"
    )
    mor_mode: Literal["dynamic", "static"] = Field(
        "dynamic", description="top-k tokens, or all tokens every time, softly weighted"
    )
    mor_routing: Literal["expert_choice", "token_choice"] = Field(
        "expert_choice",
        description="each pass takes its share of the tokens, or each token has its "
        "depth from one router",
    )
    mor_kv_sharing: bool = Field(
        False, description="later passes attend to the keys of the first, of all tokens"
    )
    mor_alpha: float | None = Field(
        None,
        gt=0,
        description="factor on a recursion's weight; default: 0.1, token_choice 1",
    )
    mor_router_loss_weight: float = Field(
        0.001, ge=0, description="weight of the routers' own loss (expert_choice)"
    )
    mor_capacity_factor: float = Field(
        1.25,
        gt=0,
        description="places of a pass over its share under an even load (token_choice)",
    )
    mor_balance_weight: float = Field(
        0.1, ge=0, description="weight of the loss that evens out depths (token_choice)"
    )
    mor_z_loss_weight: float = Field(
        1e-5, ge=0, description="weight of the router's z-loss (token_choice)"
    )


class PartsSection(Section):
    """Parts of the model that are your own, or another's, registered by a plug-in."""

    plugins: tuple[str, ...] = Field(
        (),
        description="your own .py files or modules that register parts; run as code, "
        "so they are never taken from a checkpoint",
    )
    block_type: tuple[str, ...] = Field(
        (), description="registered blocks, repeated over the layers; or standard"
    )
    attention_type: tuple[str, ...] = Field(
        (), description="registered attentions, repeated over the layers; or standard"
    )
    feedforward_type: tuple[str, ...] = Field(
        (),
        description="registered feed-forwards, repeated over the layers; or standard",
    )
    backbone: str | None = Field(
        None, description="a registered backbone in place of the transformer"
    )
    objective: str | None = Field(
        None, description="a registered objective in place of next-token cross entropy"
    )
    part_options: tuple[str, ...] = Field(
        (), description="options of registered parts, each NAME.OPTION=VALUE"
    )


MODEL_SECTIONS: dict[str, type[Section]] = {
    "model": ModelSection,
    "moe": MoeSection,
    "hrm": HrmSection,
    "mod": ModSection,
    "mor": MorSection,
    "parts": PartsSection,
}
"""Section name -> section, of those that describe the model."""
