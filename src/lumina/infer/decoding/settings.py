"""What a user may choose about the step of generation."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.errors import LuminaError

GRAPHS = ("auto", "on", "off")
"""Values of `--cuda-graph`."""


KERNELS = ("auto", "fused", "plain")
"""Values of `--step-kernels`."""


@dataclass(frozen=True)
class StepSettings:
    """How the step that gives each row one token is run.

    Attributes:
        graph: whether it is recorded as a CUDA graph: "auto" (on CUDA, unless the model
            waits for the device), "on" (refused where it cannot be), "off".
        kernels: what computes the network: "fused" kernels that take a norm, a product
            and what follows together (refused for models they do not fit), "plain"
            ones, or "auto", the fused ones where they fit.
        batch_invariant: what a row gives does not depend, to the last bit, on how many
            others are beside it: prompts are read one by one, and a step runs fused
            kernels in tiles of one size, or row by row.
    """

    graph: str = "auto"
    kernels: str = "auto"
    batch_invariant: bool = False

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise LuminaError(
                "E005",
                f"step-kernels is {self.kernels!r}",
                f"choose one of {', '.join(KERNELS)}",
            )
        if self.graph not in GRAPHS:
            raise LuminaError(
                "E005",
                f"cuda-graph is {self.graph!r}",
                f"choose one of {', '.join(GRAPHS)}",
            )
