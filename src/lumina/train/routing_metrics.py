"""What routed layers counted in a step, as keys of a metrics row, a value a layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lumina.model.depth import STATISTICS
from lumina.model.spec import ModelSpec
from lumina.plan.flops import flops_per_token


def expert_metrics(counts: Tensor, dropped: Tensor, factor: float) -> dict[str, Any]:
    """Load, entropy, drops, and what is past an expert's share of `factor`.

    Args:
        counts: [L, E] assignments.
        dropped: [L].
        factor: capacity over the even share.
    """
    experts = counts.shape[1]
    assigned = counts.sum(1, keepdim=True).clamp(min=1)
    share = counts / assigned
    entropy = -(share * share.clamp(min=1e-12).log()).sum(1)
    past = (share - factor / experts).clamp(min=0).sum(1)
    return {
        "moe.overflow_fraction": past.tolist(),
        "moe.load": [[round(x, 6) for x in row] for row in share.tolist()],
        "moe.max_violation": (share.max(1).values * experts - 1).tolist(),
        "moe.load_entropy": entropy.tolist(),
        "moe.dead_experts": (counts == 0).sum(1).tolist(),
        "moe.dropped_fraction": (dropped / assigned.squeeze(1)).tolist(),
    }


def depth_metrics(statistics: Tensor, spec: ModelSpec) -> dict[str, Any]:
    """Share of tokens, scores, threshold and the predictor of Mixture of Depths.

    `mod.compute_savings` is the percentage of tokens that passed the layers by;
    `mod.flops_reduction` the percentage of a dense model's operations that this saves.

    Args:
        statistics: [L, 6], see `lumina.model.depth.STATISTICS`.
    """
    mod = spec.mod
    assert mod is not None
    if mod.mode == "static":
        return {}
    counted = dict(zip(STATISTICS, statistics.unbind(1), strict=True))
    tokens = counted["tokens"].clamp(min=1)
    ratio = counted["selected"] / tokens
    dense = flops_per_token(ModelSpec.from_dict(spec.to_dict() | {"mod": None}))
    row: dict[str, Any] = {
        "mod.selected_ratio": ratio.tolist(),
        "mod.compute_savings": 100 * (1 - ratio.mean().item()),
        "mod.flops_reduction": 100 * (1 - flops_per_token(spec) / dense),
    }
    if mod.learned:
        row["mod.router_score"] = (
            counted["score"] / counted["selected"].clamp(min=1)
        ).tolist()
        row["mod.threshold"] = (
            counted["threshold"] / counted["rows"].clamp(min=1)
        ).tolist()
        row["mod.predictor_accuracy"] = (counted["predicted"] / tokens).tolist()
    return row


def split_loss_metrics(sums: Tensor) -> dict[str, Any]:
    """Mean loss of the tokens that were chosen, and of those that were not.

    Every token counts on both sides, by the share of the layers that chose it.

    Args:
        sums: [4], see `lumina.model.depth.split_losses`.
    """
    chosen, chosen_share, skipped, skipped_share = sums.tolist()
    return {
        "mod.selected_token_loss": chosen / chosen_share if chosen_share else None,
        "mod.skipped_token_loss": skipped / skipped_share if skipped_share else None,
    }


def recursion_metrics(statistics: Tensor) -> dict[str, Any]:
    """How deep tokens went, where passes chose them.

    `mor.depth_share` is the share of tokens in each pass, `mor.mean_depth` their mean
    number of passes, `mor.router_accuracy` the share of each router's candidates whose
    logit alone tells what was chosen.

    Args:
        statistics: [recursions, 2], tokens in a pass and tokens rightly told.
    """
    entered, told = statistics.unbind(1)
    share = entered / entered[0].clamp(min=1)
    return {
        "mor.depth_share": share.tolist(),
        "mor.mean_depth": share.sum().item(),
        "mor.router_accuracy": (told[1:] / entered[:-1].clamp(min=1)).tolist(),
    }


def chosen_depth_metrics(statistics: Tensor) -> dict[str, Any]:
    """How deep tokens went, where they chose it themselves.

    `mor.depth_share` and `mor.mean_depth` as above; `mor.choice_share` is the share of
    tokens that chose each depth, `mor.dropped_fraction` the share that wanted a pass
    and found no place in it.

    Args:
        statistics: [recursions, 2], tokens in a pass and tokens that chose its depth.
    """
    entered, chosen = statistics.unbind(1)
    tokens = entered[0].clamp(min=1)
    wanted = chosen.flip(0).cumsum(0).flip(0)
    return {
        "mor.depth_share": (entered / tokens).tolist(),
        "mor.mean_depth": (entered / tokens).sum().item(),
        "mor.choice_share": (chosen / tokens).tolist(),
        "mor.dropped_fraction": ((wanted - entered) / tokens).tolist(),
    }
