"""The resolved shape of a model: every number fixed, nothing left to decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lumina.model.adapters.settings import AdapterSpec
from lumina.ops.attention.beyond import Beyond

S = TypeVar("S")


@dataclass(frozen=True)
class MoeSpec:
    """Routed layers.

    Attributes:
        layers: indices of the blocks whose feed-forward is routed.
        intermediate_size: SwiGLU width of one expert.
        dispatch: "dropless" or "capacity".
        overflow: "adaptive": the capacity factor follows the drop rate while training;
            "reroute": tokens without a place ask their next best expert; "tight" and
            "loose" say where dispatch and factor come from.
        score: "softmax" over all experts, or "sigmoid" of each alone (DeepSeek-V3).
        score_scale: factor on the chosen experts' weights.
        groups: equal groups of neighbouring experts, of which a token chooses among
            `top_groups`: those whose best expert scores most (softmax, DeepSeek-V2)
            or whose two best do (sigmoid, V3).
        shared_experts: experts every token goes to, as one SwiGLU of their joint width.
        balance_scope: whose expert shares the balance loss uses: "global" (the step
            before, all ranks) or "micro_batch" (its own).
        temperature: the router's logits are divided by it.
        jitter: relative noise on the logits in training.
        expert_dropout: chance that an expert is hidden from a token in training.
        router_init: "normal", or "orthogonal" rows of equal length.
        router_init_std: spread of initial routers; None: the model's.
        skip_unused: an expert that no token of a step reached does not change in it.
        names: of the experts in the last places, where they have names.
        trained: this many last experts train alone, the others do not; 0: all train.
        goal_bias: added to the logits of the named experts.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    layers: tuple[int, ...]
    dispatch: str = "dropless"
    capacity_factor: float = 1.25
    overflow: str = "none"
    normalise_top_k: bool = True
    balance_weight: float = 0.01
    z_loss_weight: float = 0.001
    bias_update_rate: float = 0.0
    score: str = "softmax"
    score_scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    shared_experts: int = 0
    balance_scope: str = "global"
    temperature: float = 1.0
    jitter: float = 0.0
    expert_dropout: float = 0.0
    router_init: str = "normal"
    router_init_std: float | None = None
    skip_unused: bool = False
    names: tuple[str, ...] = ()
    trained: int = 0
    goal_bias: float = 0.0

    @property
    def reserve(self) -> float:
        """Places kept for tokens sent on, as a share of an expert's own places."""
        return 0.25 if self.overflow == "reroute" else 0.0

    @property
    def shared_size(self) -> int:
        """SwiGLU width of the shared experts together; 0 without any."""
        return self.shared_experts * self.intermediate_size


@dataclass(frozen=True)
class HrmSpec:
    """Hierarchical reasoning with adaptive computation time (arXiv:2506.21734).

    Attributes:
        variant: "hrm": two modules, gradient through the last step of each; "trm": one
            module for both states, gradient through the last high-level cycle.
        h_layers: blocks of the high-level module; none for "trm".
        l_layers: blocks of the low-level module.
        h_cycles: high-level updates of a segment.
        l_cycles: low-level updates before each of them.
        halt_max_steps: most segments spent on a puzzle.
        halt_exploration: share of steps that draw a smallest number of segments.
        loss: "stablemax" (float64) or "softmax" (float32) cross entropy.
        num_puzzles: puzzle identifiers, each with a learned vector in front of the row.
        mode: "puzzle": rows are solved as wholes; "language_model": causal, halting
            token by token.
    """

    variant: str = "hrm"
    h_layers: int = 4
    l_layers: int = 4
    h_cycles: int = 2
    l_cycles: int = 2
    halt_max_steps: int = 16
    halt_exploration: float = 0.1
    loss: str = "stablemax"
    num_puzzles: int = 1
    mode: str = "puzzle"

    @property
    def learns_continue(self) -> bool:
        """Whether the halting head also learns what going on is worth."""
        return self.variant == "hrm" and self.halt_max_steps > 1


@dataclass(frozen=True)
class ModSpec:
    """Mixture of Depths (Raposo et al., 2024, arXiv:2404.02258).

    Attributes:
        layers: indices of the blocks that take only a share of the tokens.
        capacity: that share; k = ceil(capacity * S) tokens of a row.
        ladder: capacities a running job may change to.
        scope: "block" or "feedforward": what the rest pass by.
        routing: "learned", "fixed" (by position) or "random".
        mode: "dynamic" (top-k) or "static" (every token, softly weighted).
        schedule: capacities of equal parts of a run; the last is `capacity`.
        predictor_weight: weight of the causal predictor's loss.
    """

    layers: tuple[int, ...]
    capacity: float = 0.5
    ladder: tuple[float, ...] = (0.5,)
    scope: str = "block"
    routing: str = "learned"
    mode: str = "dynamic"
    schedule: tuple[float, ...] = ()
    predictor_weight: float = 0.01

    @property
    def learned(self) -> bool:
        """Whether there is a router to learn."""
        return self.routing == "learned"

    @property
    def predicted(self) -> bool:
        """Whether evaluation asks a causal predictor: its choice cannot be known."""
        return self.learned and self.mode == "dynamic"


@dataclass(frozen=True)
class MorSpec:
    """Mixture of Recursions (Bae et al., 2025, arXiv:2507.10524).

    Attributes:
        recursions: most passes through the blocks between the first and the last.
        mode: "dynamic" (top-k) or "static" (every token every time, softly weighted).
        alpha: factor on a recursion's weight: sigmoid(logit), or a token's probability.
        router_loss_weight: weight of the routers' own loss (expert choice).
        routing: "expert_choice": each pass takes its share of the tokens before it;
            "token_choice": each token has its depth from one router.
        capacity_factor: places of a pass over its share under an even load; for the
            rest see `MorSection` (token choice).
        kv_sharing: later passes attend to the keys of the first, and make none.
    """

    recursions: int = 2
    mode: str = "dynamic"
    alpha: float = 0.1
    router_loss_weight: float = 0.001
    routing: str = "expert_choice"
    capacity_factor: float = 1.25
    balance_weight: float = 0.1
    z_loss_weight: float = 1e-5
    kv_sharing: bool = False

    @property
    def by_token(self) -> bool:
        """Whether tokens choose their depth, and not passes their tokens."""
        return self.routing == "token_choice"

    @property
    def routers(self) -> int:
        """Rows of the router: one for each depth, or for each pass after the first."""
        return self.recursions if self.by_token else self.recursions - 1

    def share(self, depth: int) -> float:
        """Share of all tokens in the pass after `depth` others: R - depth of R."""
        return (self.recursions - depth) / self.recursions

    def places(self, depth: int, length: int) -> int:
        """Places that a row of `length` has in the pass after `depth` others."""
        factor = self.capacity_factor if self.by_token else 1.0
        # The rounding keeps 0.55 * 100 = 55.00000000000001 from costing a place.
        wanted = math.ceil(round(self.share(depth) * factor * length, 6))
        return max(1, min(length, wanted))


@dataclass(frozen=True)
class TaskSpec:
    """Several tasks: one backbone, a head over the vocabulary for each.

    Attributes:
        names: in the order of the heads.
        weights: of the tasks' mean losses in the total, together one; empty: every
            token counts the same.
        balancing: "none", or "dwa": the weights follow how fast each loss falls.
        balancing_window: steps whose mean loss is one measurement of it.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] = ()
    balancing: str = "none"
    balancing_window: int = 50

    @property
    def weighted(self) -> bool:
        """Whether tasks, not tokens, are what is averaged."""
        return bool(self.weights) or self.balancing != "none"


@dataclass(frozen=True)
class PartsSpec:
    """Registered parts in place of Lumina's own (`lumina.model.registry`).

    Attributes:
        block: name of each layer's block, "" for Lumina's own; () for it everywhere.
        attention: of each layer's attention, likewise.
        feedforward: of each layer's feed-forward, likewise.
        backbone: name of the backbone, or "".
        objective: name of the objective, or "".
        options: part -> its options, defaults included.
        plugins: where the parts came from; for people, nothing loads it.
    """

    block: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()
    backbone: str = ""
    objective: str = ""
    options: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)
    plugins: tuple[str, ...] = ()

    def at(self, kind: str, layer: int) -> str:
        """The part of a layer; "" for Lumina's own."""
        names: tuple[str, ...] = getattr(self, kind)
        return names[layer] if names else ""

    def words(self) -> list[str]:
        """Each part in a few words, as "attention gated_linear in 3 layers"."""
        return [
            f"{kind} {name}"
            + (f" in {layers} layers" if getattr(self, kind) != name else "")
            for (kind, name), layers in self.used().items()
        ]

    def used(self) -> dict[tuple[str, str], int]:
        """(kind, name) -> layers it is in; 1 for a backbone and an objective."""
        found: dict[tuple[str, str], int] = {}
        for kind in ("backbone", "block", "attention", "feedforward", "objective"):
            names = getattr(self, kind)
            for name in (names,) if isinstance(names, str) else names:
                if name:
                    found[kind, name] = found.get((kind, name), 0) + 1
        return found


@dataclass(frozen=True)
class StyleSpec:
    """Blocks of an older family in place of Lumina's (`lumina.model.kinds.style`).

    Attributes:
        name: "gpt2": attention, then a GELU layer; "phi": both beside each other behind
            one norm, rotary positions, and a bias of the head. All linear layers have
            biases, and norms shift as they scale.
        rotary_share: share of a head's channels that are rotated.
    """

    name: str
    rotary_share: float = 1.0

    @property
    def parallel(self) -> bool:
        """Whether both branches of a block read the same norm."""
        return self.name == "phi"


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a decoder-only transformer; field meanings as in `ModelSection`.

    Attributes:
        vocab_size: tokens the tokenizer knows; logits past it are never returned.
        padded_vocab_size: rows of the embedding and head, a multiple of 64.
        mla_kv_rank: width of the latent that keys and values come from (multi-head
            latent attention); 0 for separate ones, and then so are the other `mla_`.
        seq_length: positions of a training row.
        context: positions that the weights were trained to read before they were tuned
            on shorter rows; 0 where that is `seq_length`.
        adapters: small tensors that train beside its matrices, in the order in which
            they were put there.
    """

    vocab_size: int
    padded_vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    seq_length: int
    rope_theta: float = 10000.0
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    rope_original_length: int | None = None
    rope_low_freq_factor: float | None = None
    rope_high_freq_factor: float | None = None
    norm_eps: float = 1e-5
    qk_norm: str = "none"
    attention_bias: bool = False
    mla_kv_rank: int = 0
    mla_q_rank: int = 0
    mla_rope_dim: int = 0
    mla_value_dim: int = 0
    window_size: int = 0
    attention_sinks: int = 0
    attention_dilation: int = 0
    tie_embeddings: bool = False
    dropout: float = 0.0
    init_std: float = 0.02
    pos_encodings: str = "rope"
    scale_embeddings: bool = False
    use_stable_embedding: bool = False
    moe: MoeSpec | None = None
    hrm: HrmSpec | None = None
    mod: ModSpec | None = None
    mor: MorSpec | None = None
    tasks: TaskSpec | None = None
    parts: PartsSpec | None = None
    style: StyleSpec | None = None
    context: int = 0
    adapters: tuple[AdapterSpec, ...] = ()

    def options_of(self, part: str) -> dict[str, Any]:
        """The options of a registered part."""
        return {} if self.parts is None else self.parts.options.get(part, {})

    @property
    def solves_puzzles(self) -> bool:
        """Whether its rows are puzzles, not text."""
        return self.hrm is not None and self.hrm.mode == "puzzle"

    @property
    def context_length(self) -> int:
        """Positions that the model reads: those of its rows, or more of its past."""
        return max(self.seq_length, self.context)

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that are rotated."""
        if self.style is not None:
            return round(self.head_dim * self.style.rotary_share) // 2 * 2
        return self.mla_rope_dim or self.head_dim

    @property
    def value_dim(self) -> int:
        """Width of a head's values."""
        return self.mla_value_dim or self.head_dim

    @property
    def beyond_window(self) -> Beyond:
        """What stays visible beyond the sliding window."""
        return Beyond(self.attention_sinks, self.attention_dilation)

    def traits(self) -> list[str]:
        """What sets it apart from a plain rotary transformer, a few words each."""
        found = [
            f"window {self.window_size}" if self.window_size else "",
            f"{self.attention_sinks} attention sinks" if self.attention_sinks else "",
            f"dilation {self.attention_dilation}" if self.attention_dilation else "",
            f"QK-norm {self.qk_norm}" if self.qk_norm != "none" else "",
            "attention biases" if self.attention_bias else "",
            f"latent attention of {self.mla_kv_rank}" if self.mla_kv_rank else "",
            f"RoPE {self.rope_scaling}" if self.rope_scaling != "none" else "",
            "" if self.pos_encodings == "rope" else f"positions {self.pos_encodings}",
            "tied embeddings" if self.tie_embeddings else "",
            "scaled embeddings" if self.scale_embeddings else "",
            "stable embedding" if self.use_stable_embedding else "",
            f"dropout {self.dropout:g}" if self.dropout else "",
        ]
        return [words for words in found if words]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`; refuses unknown keys (TypeError)."""
        return _rebuilt(ModelSpec, values)


def _rebuilt(cls: type[S], values: Mapping[str, Any]) -> S:
    """An instance of a dataclass from plain JSON values, by the types of its fields."""
    hints: dict[str, Any] = _hints(cls)  # type: ignore[arg-type]
    return cls(**{name: _typed(hints.get(name), x) for name, x in values.items()})


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type that it had: a tuple, a dataclass, or itself."""
    items = get_args(hint)
    if get_origin(hint) is tuple and items and is_dataclass(items[0]):
        return tuple(_typed(items[0], one) for one in value)
    for wanted in (hint, *items):
        if is_dataclass(wanted) and isinstance(wanted, type) and value is not None:
            return _rebuilt(wanted, value)
    return tuple(value) if get_origin(hint) is tuple else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)
