"""Options of how several processes exchange gradients and weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class ExchangeSection(Section):
    """When gradients are reduced, and how large messages are."""

    gradients_reduced: Literal["auto", "step", "micro_batch"] = Field(
        "auto",
        description="when zero2 and fsdp2 reduce the gradients of several "
        "micro-batches: once a step, until when each process holds them whole, or "
        "after every micro-batch, which sends more and holds a part; auto: once a step "
        "where there is room",
    )
    overlap_comm: bool = Field(
        True,
        description="zero1: send gradients while the backward pass goes on, and "
        "messages while others are on their way; zero2, fsdp2 and ddp always do",
    )
    reduce_bucket_size: int = Field(
        2**24,
        ge=1,
        description="zero1: elements of the parameters whose gradients travel in one "
        "message; a larger parameter travels by itself",
    )
    allgather_bucket_size: int = Field(
        2**24,
        ge=1,
        description="zero1: likewise, of the weights that processes give each other",
    )
