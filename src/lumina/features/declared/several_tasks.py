"""Several tasks on one backbone."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register

register(
    Feature(
        name="several_tasks",
        option="tasks",
        summary="several kinds of data, a head for each on one backbone",
        without="--train-data in place of --tasks",
        change_cost="restart",
        requested=lambda c: bool(c.data.tasks),
        active=lambda p: p.spec.tasks is not None,
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
    )
)
