"""Several tasks on one backbone."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

register(
    Feature(
        name="several_tasks",
        option="tasks",
        summary="several kinds of data, a head for each on one backbone",
        without="--train-data in place of --tasks",
        change_cost="restart",
        requested=lambda c: bool(c.data.tasks),
        of_shape=lambda spec: spec.tasks is not None,
        lacks={
            "float32_alone": "computes in float64",
            "label_smoothing": "the tasks' losses are balanced by their plain values",
            "loading_of_text": "the data is that of several tasks",
            "long_contexts": "it has several heads",
            "measured_batch": "tasks do not train on rows of text alone",
            "rate_transfer": "no rule is known for several heads",
            "row_order": "tasks is set",
            "samples": "several tasks share the model",
        },
        excludes=(
            Exclusion(
                "tied_embeddings",
                "every task has a head of its own",
                "use --no-tie-embeddings",
            ),
            Exclusion("hierarchical_reasoning", "a reasoner has one task"),
            Exclusion(
                "registered_objective", "every task has a head and a cross entropy"
            ),
            Exclusion("named_expert", "an expert trains on one task"),
        ),
        trial=Trial(
            {"tasks": ("one={data}", "two={more}"), "train_data": ()},
            keeps=False,
            columns=("task.one.loss", "task.two.loss"),
        ),
    )
)
