"""Starting from other weights: their shape becomes the settings'."""

from __future__ import annotations

from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.plan.kinds.table import PLANNED, SHAPELESS_OPTIONS
from lumina.plan.model_options import model_leaves
from lumina.state.weights import Weights

SHAPELESS = ("seq_length", "dropout", "init_std", "window_size",
             "attention_sinks", "attention_dilation", "rope_theta",
             "rope_scaling", "rope_factor", "rope_original_length",
             "rope_low_freq_factor", "rope_high_freq_factor",
             *SHAPELESS_OPTIONS)  # fmt: skip
"""Options of the model that change no tensor: other weights may get other ones."""


def adopted(config: Config, weights: Weights) -> Config:
    """The settings, with the shape of the weights that training starts from.

    Raises:
        LuminaError: E002 for weights of another kind, and for a shape asked for that is
            not theirs; E104 where the weights have no tokenizer and none is named.
    """
    for kind in PLANNED:
        unfit = kind.unfit(weights.spec) if kind.chosen(config) else None
        if unfit is not None:
            why, way_out = unfit
            raise LuminaError("E002", f"the weights in {weights.path} {why}", way_out)
    chosen = {
        leaf
        for leaf, source in config.provenance.items()
        if source.given and config.get(leaf) is not None
    }
    shape = {
        leaf: value
        for leaf, value in model_leaves(weights.spec).items()
        if leaf not in _shapeless(weights) or leaf not in chosen
    }
    clashes = [
        f"{leaf} {config.get(leaf)} is not {value}"
        for leaf, value in shape.items()
        if leaf in chosen and config.get(leaf) != value
    ]
    if clashes:
        raise LuminaError(
            "E002",
            f"the weights in {weights.path} have another shape: " + "; ".join(clashes),
            "leave these options out: the shape comes with the weights",
        )
    origin = Source("file", f"weights {weights.path}")
    config = config.override(shape, origin)
    if config.data.tokenizer is None and not weights.spec.solves_puzzles:
        # Never one that is trained anew: its ids would mean nothing to these weights.
        config = config.override({"tokenizer": str(weights.tokenizer_folder)}, origin)
    return config


def _shapeless(weights: Weights) -> tuple[str, ...]:
    """`SHAPELESS`; a table of learned positions is as long as a row, though."""
    learned = weights.spec.pos_encodings == "learned"
    return tuple(leaf for leaf in SHAPELESS if not (learned and leaf == "seq_length"))
