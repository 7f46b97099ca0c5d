"""Training that stays near the model that it began with, in weights or in scores."""

from __future__ import annotations

import math

from lumina.features.feature import Feature
from lumina.features.table import register

WITHOUT = "--no-preserve-base-knowledge"


register(
    Feature(
        name="preserve_base_knowledge",
        option="preserve_base_knowledge",
        summary="pull the weights towards those that training began with",
        without=WITHOUT,
        change_cost="restart",
        requested=lambda c: (
            c.stages.preserve_base_knowledge
            and c.stages.preservation_method == "weights"
        ),
        active=lambda p: p.keeps == "weights",
        memory=lambda spec, layout: {
            "base_weights": math.ceil(4 * layout.trained_here(spec))
        },
    )
)

register(
    Feature(
        name="preserve_base_outputs",
        option="preserve_base_knowledge",
        summary="stay near the scores of the model that training began with, on base "
        "text",
        without=WITHOUT,
        change_cost="restart",
        plan_field="preservation_method",
        requested=lambda c: (
            c.stages.preserve_base_knowledge
            and c.stages.preservation_method == "outputs"
        ),
        active=lambda p: p.keeps == "outputs",
        # Every device holds the whole copy, also where the weights are sharded.
        memory=lambda spec, layout: {
            "base_weights": layout.whole_copy(spec),
            "activations": layout.hidden_states(spec),
        },
        build="lumina.model.objective.distilled:distil",
    )
)
