"""A base in few bits that is to be compared with its files can be."""

from __future__ import annotations

from lumina.assemble.bare_network import build
from lumina.errors import LuminaError
from lumina.parallel.table import chosen_way
from lumina.train.preparation import Preparation
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("cost_of_few_bits", "decided")
def check_comparison(beginning: Beginning) -> None:
    """Refuse a comparison with nothing to compare with, or to compare on.

    Raises:
        LuminaError: E002.
    """
    prepared = beginning.prepared
    assert prepared is not None
    goes_on = prepared.reader is not None or prepared.place.turn is not None
    if goes_on or not beginning.config.quantization.quantization_eval_batches:
        return
    if why := _why_not(prepared):
        raise LuminaError(
            "E002",
            f"the base in few bits cannot be compared on held-out data: {why}",
            "leave out --quantization-eval-batches",
        )


def _why_not(prepared: Preparation) -> str:
    """What is in the way of the comparison; empty: nothing."""
    plan = prepared.plan
    if prepared.start.weights is None:
        return "the base has no files: its weights are initial ones"
    if prepared.has_data and not prepared.data.holds_out:
        return "nothing is held out"
    network = build(plan)
    if network.recurrent or network.tasks:
        return "the model has more heads or states than one score for each next token"
    if chosen_way(plan.parallel).sharded or plan.mesh_sizes.expert > 1:
        return "the weights are divided over ranks"
    if plan.context_parallel > 1:
        return "ranks share rows"
    return ""
