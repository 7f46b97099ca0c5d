"""What was measured of a lever, as plain values: nothing is judged here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Numbers:
    """Gradients and losses at one shape, on several batches.

    Attributes:
        shape: rows and length of a batch, in words.
        slopes: by batch: slope of all gradients of the lever on the reference's, over
            the same of the baseline.
        tensor_slopes: the same of each tensor.
        errors: by tensor: error of the lever, and of the baseline, relative to the
            norm of the reference's gradient.
        losses: by batch: of the reference, the baseline and the lever.
        broken: what is not finite with the lever and is without it; "" for nothing.
    """

    shape: str
    slopes: list[float] = field(default_factory=list)
    tensor_slopes: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    losses: list[tuple[float, float, float]] = field(default_factory=list)
    broken: str = ""


@dataclass
class Findings:
    """Everything that was measured of a lever.

    Attributes:
        lever: its name, or those of a bundle with + between them.
        claim: a key of `lumina.guard.judge.SLOPES`.
        faster: whether it claims to be faster.
        numbers: one entry for each shape.
        paired: losses of the paired steps: reference, baseline, lever.
        held: bytes that the last of these steps left behind so far, of the baseline and
            of the lever.
        reloaded: largest relative difference of losses and gradients after saving and
            loading; None: not measured.
        ratios: by block of timing, time of the baseline over that of the lever.
        step_seconds: median step of the baseline and of the lever.
        start_seconds: what the first passes of the lever took longer than the
            baseline's: compiling.
        steps: steps of the run over which the start is charged.
        failure: why measuring ended early: an error, in words; "" for none.
    """

    lever: str
    claim: str
    faster: bool
    steps: int = 1
    numbers: list[Numbers] = field(default_factory=list)
    paired: list[tuple[float, float, float]] = field(default_factory=list)
    held: list[tuple[int, int]] = field(default_factory=list)
    reloaded: float | None = None
    ratios: list[float] = field(default_factory=list)
    step_seconds: tuple[float, float] = (0.0, 0.0)
    start_seconds: float = 0.0
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Findings:
        """The inverse of `to_dict`, also after a way through JSON."""
        values = dict(values)
        values["numbers"] = [
            Numbers(
                **one
                | {
                    "errors": {k: tuple(v) for k, v in one["errors"].items()},
                    "losses": [tuple(x) for x in one["losses"]],
                }
            )
            for one in values["numbers"]
        ]
        for name in ("paired", "held"):
            values[name] = [tuple(x) for x in values[name]]
        values["step_seconds"] = tuple(values["step_seconds"])
        return Findings(**values)
