"""The loss over chunks of the logits."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Feature
from lumina.features.table import register
from lumina.features.trial import Trial


def _logit_bytes(plan: Any) -> int:
    """Bytes of all float32 logits of one forward."""
    rows, spec = plan.micro_batch_size, plan.spec
    return int(rows * spec.seq_length * spec.padded_vocab_size * 4)


register(
    Feature(
        name="chunked_loss",
        option="loss_chunk_bytes",
        summary="logits and their gradients in chunks of bounded bytes",
        without="--loss-chunk-bytes with more than all logits take",
        requested=lambda c: False,
        active=lambda p: p.loss_chunk_bytes < _logit_bytes(p),
        fallback=lambda p, m: p.replace(loss_chunk_bytes=_logit_bytes(p)),
        claim="exact",
        trial=Trial(
            {"loss_chunk_bytes": 2**16},
            calls=("lumina.ops.cross_entropy.chunked:_forward",),
        ),
    )
)
