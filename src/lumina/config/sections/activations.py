"""Options of what is kept of the activations, and where."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section, number_as_word


class ActivationsSection(Section):
    """What is kept of the activations for the backward pass, and where."""

    activation_budget: int | None = Field(
        None,
        ge=2**20,
        description="with gradient_checkpointing budget: most bytes of activations "
        "that are kept for the backward pass; default: what the memory leaves",
    )
    activations_in: Literal["device", "host", "disk"] = Field(
        "device",
        description="where the inputs of blocks that are computed again wait for the "
        "backward pass: on the device, in pinned memory of the host, or in files of "
        "offload_folder; losses and gradients stay the same",
    )
    activation_bits: Literal["8", "4"] | None = Field(
        None,
        description="keep what the backward pass needs of the activations in 8 or 4 "
        "bits: the inputs of blocks that are computed again, and all that other "
        "blocks keep; gradients are rounded by it",
    )
    feedforward_tile: int = Field(
        0,
        ge=0,
        description="tokens that go through a feed-forward or the experts at a time in "
        "forwards of more tokens; the backward pass computes each tile again; 0: all "
        "of them; about 32,768 for long rows",
    )
    attention_head_groups: int = Field(
        1,
        ge=1,
        description=(
            "beside feedforward_tile: compute the backward pass of attention in this "
            "many groups of heads, one after the other, so that the gradients of only "
            "one group are held at a time; must divide num_kv_heads; attention is "
            "computed once more"
        ),
    )

    _bits = field_validator("activation_bits", mode="before")(number_as_word)
