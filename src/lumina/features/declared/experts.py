"""Mixture of Experts and what its routing may do."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

EXPERTS = {
    "use_moe": True,
    "num_experts": 4,
    "moe_top_k": 2,
    "moe_intermediate_size": 32,
}
"""A small mixture that `lumina matrix` tries."""


def _routed(config: Any) -> bool:
    return bool(config.moe.use_moe)


def _bounded(config: Any) -> bool:
    """Whether an expert takes this many tokens and no more."""
    moe = config.moe
    if moe.overflow != "none":
        return bool(moe.overflow != "loose")
    return bool(moe.moe_dispatch == "capacity")


register(
    Feature(
        name="mixture_of_experts",
        option="use_moe",
        summary="feed-forwards of several experts, of which a token uses a few",
        without="--no-use-moe",
        change_cost="restart",
        requested=_routed,
        of_shape=lambda spec: spec.moe is not None,
        lacks={"decoding_floor": "a token reads the weights of its own experts"},
        trial=Trial(EXPERTS, keeps=False, columns=("moe.load",)),
    )
)
register(
    Feature(
        name="moe_dropless",
        option="moe_dispatch",
        summary="routed experts that keep every token",
        without="--no-use-moe",
        change_cost="restart",
        requested=lambda c: _routed(c) and not _bounded(c),
        active=lambda p: p.spec.moe is not None and p.spec.moe.dispatch == "dropless",
        trial=Trial(
            {"moe_dispatch": "dropless"},
            beside=EXPERTS | {"moe_dispatch": "capacity"},
            keeps=False,
            columns=("moe.load",),
        ),
    )
)
register(
    Feature(
        name="moe_capacity",
        option="moe_dispatch",
        summary="routed experts of bounded capacity that drop what is too much",
        without="--moe-dispatch dropless",
        change_cost="restart",
        requested=lambda c: _routed(c) and _bounded(c),
        active=lambda p: p.spec.moe is not None and p.spec.moe.dispatch == "capacity",
        trial=Trial(
            {"moe_dispatch": "capacity", "capacity_factor": 1.0},
            beside=EXPERTS,
            keeps=False,
            columns=("moe.load",),
            by_forward=True,  # an expert has room for so many of its tokens
        ),
    )
)
register(
    Feature(
        name="expert_groups",
        option="moe_groups",
        summary="experts in groups, of which a token uses a few",
        without="--moe-groups 1",
        change_cost="restart",
        requested=lambda c: c.moe.moe_groups > 1,
        active=lambda p: p.spec.moe is not None and p.spec.moe.groups > 1,
        trial=Trial(
            {"moe_groups": 2, "moe_top_groups": 1}, beside=EXPERTS, keeps=False
        ),
    )
)
register(
    Feature(
        name="loss_free_bias",
        option="moe_bias_update_rate",
        summary="balance experts by a selection bias instead of by a loss alone",
        without="--moe-bias-update-rate 0",
        change_cost="restart",
        requested=lambda c: _routed(c) and c.moe.moe_bias_update_rate > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.bias_update_rate > 0,
        trial=Trial({"moe_bias_update_rate": 0.01}, beside=EXPERTS, keeps=False),
    )
)
register(
    Feature(
        name="shared_experts",
        option="moe_shared_experts",
        summary="experts that every token goes to, beside the routed ones",
        without="--moe-shared-experts 0",
        change_cost="restart",
        requested=lambda c: _routed(c) and c.moe.moe_shared_experts > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.shared_experts > 0,
        trial=Trial({"moe_shared_experts": 1}, beside=EXPERTS, keeps=False),
    )
)
register(
    Feature(
        name="expert_dropout",
        option="expert_dropout",
        summary="hide experts from tokens at random, against a collapsed router",
        without="--expert-dropout 0",
        change_cost="live",
        requested=lambda c: _routed(c) and c.moe.expert_dropout > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.expert_dropout > 0,
        trial=Trial({"expert_dropout": 0.2}, beside=EXPERTS, keeps=False, draws=True),
    )
)
register(
    Feature(
        name="router_jitter",
        option="router_jitter_noise",
        summary="noise on the router's logits while training",
        without="--router-jitter-noise 0",
        change_cost="live",
        requested=lambda c: _routed(c) and c.moe.router_jitter_noise > 0,
        active=lambda p: p.spec.moe is not None and p.spec.moe.jitter > 0,
        trial=Trial(
            {"router_jitter_noise": 0.1}, beside=EXPERTS, keeps=False, draws=True
        ),
    )
)
register(
    Feature(
        name="named_expert",
        option="expert_id",
        summary="train one expert alone, added to a frozen model",
        without="no --expert-id",
        change_cost="restart",
        requested=lambda c: c.train.expert_id is not None,
        active=lambda p: p.spec.moe is not None and p.spec.moe.trained > 0,
        excludes=(
            Exclusion(
                "expert_groups", "groups are equal", "use a model without groups"
            ),
        ),
        trial=Trial(
            {"expert_id": "tried", "expert_registry": "{folder}/registry"},
            beside=EXPERTS | {"init_from": "{base}"},
            keeps=False,
        ),
    )
)
