"""Options of how several processes exchange gradients and weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section, number_as_word


class ExchangeSection(Section):
    """When gradients are reduced, and how large messages are."""

    expert_parallel_size: str = Field(
        "1",
        pattern=r"^(auto|[1-9]\d*)$",
        description="processes over which the routed experts of every layer are "
        "divided; rows travel to the process of their expert and back; auto: as many "
        "as leave each 8 experts or more, such as 4 for 32 experts on 8 GPUs",
    )
    expert_placement_policy: Literal["balanced", "memory_optimal"] = Field(
        "memory_optimal",
        description="which process holds which experts: memory_optimal, one after the "
        "other; balanced, so that all get about as many rows, by what each expert was "
        "used when the run was last put together",
    )
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
    stage3_param_persistence_threshold: int = Field(
        0,
        ge=0,
        description="fsdp2: parameters of fewer elements, such as those of norms, stay "
        "whole on every process and are never gathered; 0: all are divided",
    )
    gradient_compression: Literal["none", "powersgd"] = Field(
        "none",
        description="ddp: powersgd exchanges gradients as products of two narrow "
        "matrices, and makes good later what they leave out (error feedback): fewer "
        "bytes between processes for other gradients and a copy of them in memory",
    )
    gradient_compression_rank: int = Field(
        8,
        ge=1,
        le=1024,
        description="columns of the narrow matrices: more are nearer to the gradients, "
        "and more to send",
    )
    gradient_compression_start: int | None = Field(
        None,
        ge=0,
        description="steps before it begins, in which gradients are exchanged whole; "
        "default: a tenth of the steps",
    )

    _expert_parallel_as_word = field_validator("expert_parallel_size", mode="before")(
        number_as_word
    )
