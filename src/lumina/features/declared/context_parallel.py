"""Each row over several processes, whose keys go round (ring attention)."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import Trial

_CHOOSES = "chooses among the tokens of a whole row"
_WHOLE = "whether code of a plug-in looks at other tokens of a row is not known"
_CARRIES = "its states go through whole rows"
_PLUGINS = ("block", "attention", "feedforward", "backbone", "objective")


def _ring(spec: Any, layout: Any) -> dict[str, int]:
    """Bytes of a layer's way back: keys that arrive, and gradients that go round.

    Another rank's keys and values are there while the next ones arrive. Of the float32
    gradients of keys, this rank's share, the sum that arrived and the one that leaves
    are there together, one of which attention block by block has as well; and a
    float32 gradient of the queries.
    """
    element = 4 if layout.compute_dtype == "float32" else 2
    tokens = layout.micro_batch_size * layout.forward_spec(spec).seq_length
    keys = tokens * spec.num_kv_heads * (spec.head_dim + spec.value_dim)
    queries = tokens * spec.num_heads * spec.head_dim
    return {"working": int(2 * element * keys + 2 * 4 * keys + 4 * queries)}


register(
    Feature(
        name="context_parallel",
        option="context_parallel",
        summary="each row is shared by several processes, whose keys go round",
        without="--context-parallel 1",
        change_cost="restart",
        requested=lambda c: (c.long_rows.context_parallel or 1) > 1,
        refused=lambda c: c.long_rows.context_parallel == 1,
        active=lambda p: p.context_parallel > 1,
        memory=_ring,
        excludes=(
            Exclusion("mixture_of_depths", _CHOOSES),
            Exclusion("mixture_of_recursions", _CHOOSES),
            Exclusion("hierarchical_reasoning", _CARRIES),
            *(Exclusion(f"registered_{kind}", _WHOLE) for kind in _PLUGINS),
            Exclusion(
                "moe_capacity",
                "places of experts are shared out among the tokens of a whole row",
                "use --moe-dispatch dropless",
            ),
            Exclusion(
                "chunked_training",
                "a chunk attends to the keys that one process holds",
                "leave one of the two out; each shortens what a process computes at a "
                "time",
            ),
            Exclusion(
                "preserve_base_outputs", "the base model's scores are those of rows"
            ),
            Exclusion(
                "compile",
                "the compiler may move exchanges, whose order all processes share",
                "use --no-compile",
            ),
            Exclusion(
                "expert_parallelism",
                "rows of experts travel among processes that train rows of their own",
                "use --expert-parallel-size 1",
            ),
            Exclusion(
                "gradient_compression",
                "its errors are those of processes that train rows of their own",
                "use --gradient-compression none",
            ),
            Exclusion("qk_clip", "the largest scores are looked for in whole rows"),
            Exclusion("several_tasks", "the rows of a task are told apart on one rank"),
        ),
        trial=Trial(
            {"context_parallel": 2},
            beside={"parallel": "ddp", "batch_size": 2, "compile": False},
            calls=("lumina.ops.attention.ring.passes:forward",),
            ranks=2,
            figures=("ranks",),
            redraws=True,
        ),
    )
)
