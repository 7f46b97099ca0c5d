"""The parts of a plan in detail: parameters by tensor, memory by what may be chosen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from lumina.model.declared import declared
from lumina.model.spec import ModelSpec
from lumina.plan.checkpointing import AUTOMATIC
from lumina.plan.figures import layout_of
from lumina.plan.layout_choice import MEMORY_SHARE
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Tensors:
    """Tensors that are alike but for the numbers in their names.

    Attributes:
        name: with `*` for these numbers.
        shape: of one.
        role: what they are.
        count: how many there are.
        size: parameters of all of them.
        used: those that one token uses.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    count: int
    size: int
    used: float


def tensors_of(spec: ModelSpec) -> list[Tensors]:
    """Every trained tensor of a model, alike ones together, in the order of its layers.

    Buffers are left out: they hold no parameters.
    """
    groups: dict[tuple[str, tuple[int, ...]], Tensors] = {}
    for one in declared(spec).values():
        if one.role == "buffer":
            continue
        key = (_NUMBER.sub("*", one.name), tuple(one.shape))
        before = groups.get(key, Tensors(*key, one.role, 0, 0, 0.0))
        size = math.prod(one.shape)
        part, parts = one.used
        groups[key] = replace(
            before,
            count=before.count + 1,
            size=before.size + size,
            used=before.used + size * part / parts,
        )
    return list(groups.values())


@dataclass(frozen=True)
class Choice:
    """One way to lay out a step, and what it takes of a device.

    Attributes:
        gradient_checkpointing: what is recomputed.
        micro_batch_size: rows of one forward.
        bound: bytes at most.
        fits: into the part of the device that an automatic choice may fill.
        chosen: whether it is the Plan's.
    """

    gradient_checkpointing: str
    micro_batch_size: int
    bound: int
    fits: bool
    chosen: bool


def choices_of(plan: Plan, memory_bytes: int) -> list[Choice]:
    """What the step could be instead, and the memory of each.

    Args:
        plan: whose step is laid out otherwise; the rows of a step stay.
        memory_bytes: of one device.
    """
    layout = layout_of(plan)
    rows = plan.micro_batch_size * plan.grad_accum
    sizes = [2**i for i in range(rows.bit_length()) if rows % 2**i == 0]
    found = []
    for mode in dict.fromkeys((*AUTOMATIC, plan.gradient_checkpointing)):
        for size in sorted({*sizes, plan.micro_batch_size}, reverse=True):
            other = replace(
                layout,
                gradient_checkpointing=mode,
                micro_batch_size=size,
                grad_accum=rows // size,
            )
            bound = estimate(plan.spec, other)["bound"]
            fits = bound <= memory_bytes * MEMORY_SHARE
            found.append(Choice(mode, size, bound, fits, other == layout))
    return found


LOWERED_BY = {
    "weights": "a smaller preset; --parallel fsdp2 shares them among GPUs",
    "master_weights": "--parallel fsdp2 shares them among GPUs",
    "gradients": "--freeze trains less; --parallel fsdp2 shares them",
    "optimizer": "--optimizer adamw_8bit, adamw_4bit, lion or muon; "
    "--optimizer-states-in host or disk; --parallel fsdp2",
    "ema": "--ema-decay 0",
    "base_weights": "--preserve-base-knowledge 0",
    "activations": "--gradient-checkpointing full; a smaller --batch-size; a shorter "
    "--seq-length",
    "routed": "--gradient-checkpointing full; a lower --moe-top-k; a smaller "
    "--batch-size",
    "logits": "a smaller --loss-chunk-bytes or vocabulary",
    "working": "a smaller --batch-size",
    "communication": "more, smaller layers",
    "overhead": "nothing: libraries and the allocator hold it",
}
"""What makes each part of the memory smaller."""
