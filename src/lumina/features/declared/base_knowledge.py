"""Training that stays near the model that it began with, in weights or in scores."""

from __future__ import annotations

import math

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import FROM_BASE, Trial

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
        trial=Trial(
            {"preserve_base_knowledge": True, "preservation_method": "weights"},
            beside=FROM_BASE,
            keeps=False,
            calls=("lumina.optim.anchor:BaseWeights.pull",),
        ),
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
        trial=Trial(
            {"preserve_base_knowledge": True, "preservation_method": "outputs"},
            beside={
                **FROM_BASE,
                "train_data": None,
                "base_training_paths": ("{data}",),
                "finetuning_paths": ("{chat}",),
                "training_mode": "interleaved",
                "base_finetuning_ratio": 0.5,
            },
            keeps=False,
            columns=("base_divergence",),
        ),
    )
)
