"""How fast earlier runs on this machine were, for the estimate of later ones.

A run that ends appends one line to ``LUMINA_CACHE/speeds.jsonl``; remove the file, and
nothing is known of earlier runs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lumina.data.cache_lines import add_line, last_lines
from lumina.model.kinds.table import kinds_of
from lumina.plan.plan import Plan

FILE = "speeds.jsonl"
"""In the cache."""

ALIKE = 4.0
"""The factor in size up to which a run tells something of another one."""


@dataclass(frozen=True)
class Speed:
    """How fast the steps of one run were.

    Attributes:
        device_name: of the device it ran on.
        devices: how many of them.
        arithmetic: the compute type, or "tf32".
        compile: whether its blocks were compiled.
        kinds: what kinds of model it was, and what lived beside the device.
        flops_per_token: by `lumina.plan.flops.CONVENTION`.
        tokens: of one forward of a device, padding included.
        rate: operations a second of one device, of the run's median step; recomputed
            ones are counted too.
        threads: of the processor; 0 on a GPU.
    """

    device_name: str
    devices: int
    arithmetic: str
    compile: bool
    kinds: str
    flops_per_token: float
    tokens: int
    rate: float
    threads: int = 0

    @property
    def work(self) -> float:
        """Operations of one forward and backward of a device."""
        return self.flops_per_token * self.tokens

    def tells_of(self, other: Speed) -> bool:
        """Whether another run on such hardware is of a like size and form."""
        same = ("device_name", "devices", "arithmetic", "compile", "kinds", "threads")
        if any(getattr(self, name) != getattr(other, name) for name in same):
            return False
        return (
            abs(math.log(self.flops_per_token / other.flops_per_token))
            <= math.log(ALIKE)
            and abs(math.log(self.tokens / other.tokens)) <= math.log(ALIKE)
        )  # fmt: skip

    def distance(self, other: Speed) -> float:
        """How far the work of two runs lies apart, as a logarithm."""
        return abs(math.log(self.work / other.work))


def speed_of(plan: Plan, device_name: str, rate: float = 0.0) -> Speed:
    """What is recorded of a run with this Plan."""
    return Speed(
        device_name=device_name,
        devices=plan.world_size,
        arithmetic=arithmetic_of(plan),
        compile=plan.compile,
        kinds="+".join((_kinds(plan), *_beside(plan))),
        flops_per_token=plan.flops_per_token,
        tokens=plan.micro_batch_size * plan.spec.seq_length,
        rate=rate,
        threads=_threads() if plan.device == "cpu" else 0,
    )


def _kinds(plan: Plan) -> str:
    return "+".join(kind.name for kind in kinds_of(plan.spec)) or "dense"


def _beside(plan: Plan) -> list[str]:
    """What lived beside the device, whose time on the link is in a step's."""
    places = ("weights_in", "optimizer_states_in", "activations_in", "embedding_in")
    return [
        f"{name}={place}"
        for name in places
        if (place := getattr(plan, name)) not in ("", "device")
    ]


def arithmetic_of(plan: Plan) -> str:
    """The type whose peak rate counts."""
    return "tf32" if plan.tf32 else plan.compute_dtype


def remember(speed: Speed) -> None:
    """Record a run's speed."""
    if math.isfinite(speed.rate) and speed.rate > 0:
        add_line(FILE, asdict(speed))


def comparable(plan: Plan, device_name: str) -> list[Speed]:
    """Speeds of earlier runs here that tell something of this Plan, nearest first."""
    mine = speed_of(plan, device_name)
    found = [speed for speed in _known() if speed.tells_of(mine)]
    return sorted(reversed(found), key=mine.distance)


def _known() -> list[Speed]:
    """What the file holds; lines that are not of a run count as none."""
    found = [_read(values) for values in last_lines(FILE)]
    return [speed for speed in found if speed is not None]


def _read(values: dict[str, Any]) -> Speed | None:
    """One line; None where it is not one of ours."""
    try:
        speed = Speed(**values)
        numbers = (speed.flops_per_token, speed.tokens, speed.rate)
        whole = all(math.isfinite(n) and n > 0 for n in numbers)
    except TypeError:
        return None
    return speed if whole else None


def _threads() -> int:
    import torch

    return torch.get_num_threads()
