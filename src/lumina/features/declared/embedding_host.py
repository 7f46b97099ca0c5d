"""A frozen embedding that lies in host memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumina.features.crossing import Crossing
from lumina.features.feature import Exclusion, Feature
from lumina.features.needs import memory_beside
from lumina.features.table import register
from lumina.features.trial import FROM_BASE, Trial

_WHOLE = "divides every table over the processes"


def _bytes(spec: Any, layout: Any) -> int:
    """Of the table, in the type in which frozen weights stay."""
    element = 2 if layout.keeps_narrow_weights else 4
    return int(spec.padded_vocab_size * spec.hidden_size * element)


def _crosses(spec: Any, layout: Any) -> Mapping[str, Crossing]:
    """The vectors of a forward's tokens are copied; each at most once a token."""
    size = layout.hidden_states(spec) * layout.grad_accum
    return {"host": Crossing(brought=size)}


register(
    Feature(
        name="embedding_host",
        option="embedding_in",
        summary="a frozen embedding in pinned host memory; rows of a batch are copied",
        without="--embedding-in device",
        change_cost="restart",
        requested=lambda c: c.offload.embedding_in == "host",
        active=lambda p: p.embedding_in == "host",
        switch_on=lambda p: p.replace(embedding_in="host"),
        needs=memory_beside("embeddings"),
        excludes=(
            Exclusion("tied_embeddings", "the head multiplies by the same table"),
            Exclusion("hierarchical_reasoning", "it reads its table in every cycle"),
            Exclusion("registered_backbone", "whether it has a table is not known"),
            Exclusion("fsdp2", _WHOLE),
            Exclusion("zero2", _WHOLE),
        ),
        memory=lambda spec, layout: {"weights": -_bytes(spec, layout)},
        elsewhere=lambda spec, layout: {"host": _bytes(spec, layout)},
        crosses=_crosses,
        build="lumina.model.host_table:keep_table_in_host_memory",
        trial=Trial(
            {"embedding_in": "host"},
            beside=FROM_BASE | {"use_peft": True, "lora_dropout": 0.0},
        ),
    )
)
