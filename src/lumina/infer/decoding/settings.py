"""What a user may choose about the step of generation."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.errors import LuminaError

GRAPHS = ("auto", "on", "off")
"""Values of `--cuda-graph`."""


@dataclass(frozen=True)
class StepSettings:
    """How the step that gives each row one token is run.

    Attributes:
        graph: whether it is recorded as a CUDA graph: "auto" (on CUDA, unless the model
            waits for the device), "on" (refused where it cannot be), "off".
    """

    graph: str = "auto"

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise LuminaError(
                "E005",
                f"cuda-graph is {self.graph!r}",
                f"choose one of {', '.join(GRAPHS)}",
            )
