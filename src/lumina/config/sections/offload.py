"""Options of where the tensors of a run live between their uses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class OffloadSection(Section):
    """What lives in host memory or on disk instead of on the device."""

    optimizer_states_in: Literal["device", "host", "disk"] = Field(
        "device",
        description="where the optimizer's states live between steps: on the device, "
        "in pinned memory of the host, or in files of a fast local disk; a step brings "
        "them to the device page by page, and weights, losses and checkpoints stay the "
        "same",
    )
    optimizer_in_backward: bool = Field(
        False,
        description=(
            "update each weight in the backward pass, as soon as its gradient is "
            "there, and free the gradient; for steps of one forward, without clipping "
            "(max_grad_norm 0)"
        ),
    )
    embedding_in: Literal["device", "host"] = Field(
        "device",
        description="where the frozen table of token vectors lies under adapters: on "
        "the device, or in pinned memory of the host, from which the rows of a batch "
        "are copied; losses and gradients stay the same",
    )
    weights_in: Literal["device", "host", "disk"] = Field(
        "device",
        description="where the weights of blocks live, under adapters and freeze the "
        "frozen ones: on the device, in pinned memory of the host, or in files of a "
        "fast local disk; those of a block are brought ahead of its use, forwards and "
        "backwards, and dropped after it; where they train, gradients leave to the "
        "host; losses and gradients stay the same",
    )
    weights_ahead: int = Field(
        1,
        ge=1,
        le=16,
        description="blocks whose weights are on their way to the device while one "
        "computes, where weights_in is host or disk",
    )
    offload_folder: str | None = Field(
        None,
        description="folder for what lives on disk while a run trains; it should be on "
        "a local NVMe disk, and nothing stays in it after the run; default: offload in "
        "LUMINA_CACHE",
    )
