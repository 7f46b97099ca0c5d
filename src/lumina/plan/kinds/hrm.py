"""Hierarchical reasoners: their options and their shape."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lumina.model.spec import HrmSpec, ModelSpec
from lumina.plan.kinds.kind import VOCAB_MULTIPLE, Known, Planned, round_up

if TYPE_CHECKING:
    from lumina.config import Config

EXPANSION_MULTIPLE = 256
"""A reasoner's SwiGLU width is rounded up to this, as in its reference."""


class Reasoner(Planned):
    """A model that reasons in segments. Its blocks are its own."""

    field = "hrm"
    switch = "use_hrm"
    live = ("puzzle_lr", "puzzle_weight_decay")
    shapeless = (
        "h_cycles", "l_cycles", "halt_max_steps", "halt_exploration", "puzzle_loss",
    )  # fmt: skip
    alone = True

    def chosen(self, config: Config) -> bool:
        """Whether `use_hrm` is on."""
        return config.hrm.use_hrm

    def borrows(self, config: Config) -> bool:
        """A reasoner on text takes the embedding and the head of a language model."""
        return config.hrm.use_hrm and config.hrm.hrm_mode == "language_model"

    def unfit(self, spec: ModelSpec) -> tuple[str, str] | None:
        """A transformer has no modules that reason."""
        if spec.hrm is not None:
            return None
        return (
            "are a transformer's, not a reasoner's",
            "start a reasoner (use_hrm) from a reasoner's weights",
        )

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape of a reasoner; that of a transformer gives nothing to it."""
        return _reasoner(config, known)

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """All options of a reasoner; no others apply."""
        return {} if spec.hrm is None else _options(spec, asdict(spec.hrm))


def _reasoner(config: Config, known: Known) -> ModelSpec:
    """A reasoner. The small vocabularies of puzzles are not padded."""
    model, hrm = config.model, config.hrm
    text = hrm.hrm_mode == "language_model"
    one = hrm.hrm_variant == "trm"
    h_layers = 0 if one else hrm.h_layers
    return ModelSpec(
        vocab_size=known.vocab_size,
        padded_vocab_size=round_up(known.rows, VOCAB_MULTIPLE) if text else known.rows,
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
            num_puzzles=known.num_puzzles,
        ),
    )


def _options(spec: ModelSpec, hrm: dict[str, Any]) -> dict[str, Any]:
    """The options of its modules and segments."""
    same = (
        "hidden_size", "num_heads", "num_kv_heads", "head_dim", "seq_length",
        "rope_theta", "norm_eps", "tie_embeddings",
    )  # fmt: skip
    modules = ("l_layers",) if hrm["variant"] == "trm" else ("l_layers", "h_layers")
    alike = (*modules, "h_cycles", "l_cycles", "halt_max_steps", "halt_exploration")
    return (
        {leaf: getattr(spec, leaf) for leaf in same}
        | {leaf: hrm[leaf] for leaf in alike}
        | {
            "use_hrm": True,
            "hrm_mode": hrm["mode"],
            "hrm_variant": hrm["variant"],
            "vocab_size": spec.padded_vocab_size,
            "puzzle_loss": hrm["loss"],
            "expansion": spec.intermediate_size * 3 / (2 * spec.hidden_size),
        }
    )
