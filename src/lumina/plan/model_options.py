"""From a resolved shape back to options: the inverse of `resolve_spec`."""

from __future__ import annotations

from typing import Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.part_options import part_leaves
from lumina.plan.shape import depth_layers, routed_layers


def model_leaves(spec: ModelSpec) -> dict[str, Any]:
    """A shape as options of the configuration.

    Raises:
        LuminaError: E002 for a shape that options cannot give.
    """
    leaves = spec.to_dict()
    hrm = leaves.pop("hrm")
    if hrm is not None:
        return _reasoner_leaves(spec, hrm)
    leaves.pop("context")  # stays with the weights, whatever the rows
    leaves.pop("vocab_size")
    leaves["vocab_size"] = leaves.pop("padded_vocab_size")
    leaves.pop("tasks")  # come with data, see `state.heads`
    leaves |= _depth_leaves(spec, leaves.pop("mod"))
    leaves |= part_leaves(leaves.pop("parts"))
    mor = leaves.pop("mor")
    leaves["use_mor"] = mor is not None
    leaves |= {f"mor_{name}": value for name, value in (mor or {}).items()}
    moe = leaves.pop("moe")
    leaves["use_moe"] = moe is not None
    if moe is not None:
        leaves |= {
            "num_experts": moe["num_experts"],
            "moe_top_k": moe["top_k"],
            "moe_intermediate_size": moe["intermediate_size"],
            "moe_pattern": _pattern(spec)[0],
            "moe_first_dense": _pattern(spec)[1],
            "moe_shared_experts": moe["shared_experts"],
            "moe_score": moe["score"],
            "moe_score_scale": moe["score_scale"],
            "moe_groups": moe["groups"],
            "moe_top_groups": moe["top_groups"],
            "moe_bias_update_rate": moe["bias_update_rate"],
            "moe_normalise_top_k": moe["normalise_top_k"],
            "routing_temperature": moe["temperature"],
        }
    return leaves


def _reasoner_leaves(spec: ModelSpec, hrm: dict[str, Any]) -> dict[str, Any]:
    """A reasoner as options."""
    same = (
        "hidden_size", "num_heads", "num_kv_heads", "head_dim", "seq_length",
        "rope_theta", "norm_eps", "tie_embeddings",
    )  # fmt: skip
    modules = ("l_layers",) if hrm["variant"] == "trm" else ("l_layers", "h_layers")
    alike = (*modules, "h_cycles", "l_cycles", "halt_max_steps", "halt_exploration")
    return (
        {leaf: getattr(spec, leaf) for leaf in same}
        | {leaf: hrm[leaf] for leaf in alike}
        | dict.fromkeys(("use_moe", "use_mod", "use_mor"), False)
        | {
            "use_hrm": True,
            "hrm_mode": hrm["mode"],
            "hrm_variant": hrm["variant"],
            "vocab_size": spec.padded_vocab_size,
            "puzzle_loss": hrm["loss"],
            "expansion": spec.intermediate_size * 3 / (2 * spec.hidden_size),
        }
    )


def _depth_leaves(spec: ModelSpec, mod: dict[str, Any] | None) -> dict[str, Any]:
    """A Mixture of Depths as options."""
    if mod is None:
        return {"use_mod": False}
    routed = spec.moe.layers if spec.moe is not None else ()
    patterns = [
        pattern
        for pattern in ("alternate", "all", "dense")
        if (pattern != "alternate" or spec.num_layers > 1)
        and (pattern != "dense" or len(routed) < spec.num_layers)
        and depth_layers(pattern, spec.num_layers, routed) == mod["layers"]
    ]
    if not patterns:
        raise LuminaError(
            "E002",
            f"no mod_pattern gives the layers {mod['layers']} of {spec.num_layers}",
            "patterns are alternate, all and dense",
        )
    return {
        "use_mod": True,
        "mod_capacity_factor": mod["capacity"],
        "mod_capacity_ladder": mod["ladder"],
        "mod_capacity_schedule": mod["schedule"],
        "mod_pattern": patterns[0],
        "mod_scope": mod["scope"],
        "mod_routing_strategy": mod["routing"],
        "mod_mode": mod["mode"],
        "mod_predictor_weight": mod["predictor_weight"],
    }


def _pattern(spec: ModelSpec) -> tuple[str, int]:
    """The pattern, and how many first layers are dense, of a spec's routed layers."""
    assert spec.moe is not None
    layers = spec.moe.layers
    for first_dense in (0, layers[0]):
        for pattern in ("all", "interleaved", "sandwich"):
            try:
                found = routed_layers(pattern, spec.num_layers, first_dense)
            except LuminaError:
                continue
            if found == layers:
                return pattern, first_dense
    raise LuminaError(
        "E002",
        f"no pattern gives routed layers {spec.moe.layers} of {spec.num_layers}",
        "patterns are all, interleaved and sandwich",
    )
