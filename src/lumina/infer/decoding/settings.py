"""What a user may choose about the step of generation."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.errors import LuminaError

GRAPHS = ("auto", "on", "off")
"""Values of `--cuda-graph`."""


KERNELS = ("auto", "fused", "plain")
"""Values of `--step-kernels`."""


MOST_GUESSES = 32
"""Most tokens guessed in a step."""


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
        flash: attention may use the flash kernel where it fits; without, the efficient
            and the plain one.
        speculate: tokens that are guessed behind that of a step, from what the row has
            said before, and kept as far as they are right; 0: none.
        compile: blocks are compiled by torch.compile (`lumina.infer.decoding.compiled`)
            wherever the plain kernels compute them: prompts, and steps that no fused
            kernels take.

    Raises:
        LuminaError: E005 for a value out of range; E002 for guesses or compiled blocks
            that would have to be batch-invariant.
    """

    graph: str = "auto"
    kernels: str = "auto"
    batch_invariant: bool = False
    speculate: int = 0
    flash: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        if self.kernels not in KERNELS:
            raise LuminaError(
                "E005",
                f"step-kernels is {self.kernels!r}",
                f"choose one of {', '.join(KERNELS)}",
            )
        if not 0 <= self.speculate <= MOST_GUESSES:
            raise LuminaError(
                "E005",
                f"speculate is {self.speculate}",
                f"give a number from 0 (none) to {MOST_GUESSES}",
            )
        if self.speculate and self.batch_invariant:
            raise LuminaError(
                "E002",
                "--speculate reads several tokens of a row at a time, which adds up in "
                "another order than one at a time",
                "leave --speculate or --batch-invariant out",
            )
        if self.compile and self.batch_invariant:
            raise LuminaError(
                "E002",
                "--compile adds up in an order that may depend on how many rows there "
                "are",
                "leave --compile or --batch-invariant out",
            )
        if self.graph not in GRAPHS:
            raise LuminaError(
                "E005",
                f"cuda-graph is {self.graph!r}",
                f"choose one of {', '.join(GRAPHS)}",
            )
