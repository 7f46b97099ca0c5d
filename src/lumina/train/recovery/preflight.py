"""A test of the device before a run: products, memory, and sums over the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.assemble.ranks import Ranks
from lumina.errors import LuminaError
from lumina.memory_shortage import shortage_code, shortage_text
from lumina.plan.plan import Plan
from lumina.quantities import byte_size

SHAPES = ((64, 64, 64), (257, 512, 129), (512, 1024, 512))
"""Rows, inner size and columns of the products; those of one fill no whole tiles."""

ERRORS = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 2e-2, "float16": 3e-3}
"""Largest error of a product over the norms of its row and column, by arithmetic."""

PATTERNS = (0x55, 0xAA)
"""Bytes whose bits are each other's opposites."""

SHARE, MOST = 0.25, 2**30
"""Share of the free memory that is tested, and the most bytes."""


def preflight(plan: Plan, ranks: Ranks) -> str:
    """Test the device of every rank; all ranks call it together.

    Args:
        plan: of the run.
        ranks: this process's place.

    Returns:
        What was tested, in words.

    Raises:
        LuminaError: on every rank, E306 where a test fails on one of them, E201 or E202
            where one of them has no room for it.
    """
    device = ranks.device(plan.device)
    tests = (
        lambda: _products(device, plan),
        lambda: _memory(device, plan),
        lambda: _sums(device, ranks),
    )
    found = [one for one in map(_tried, tests) if one is not None]
    told: list[Any] = [found]
    if ranks.world_size > 1:
        told = [None] * ranks.world_size
        dist.all_gather_object(told, found)
    wrong = [
        (code, f"rank {rank}: {said}" if ranks.world_size > 1 else said)
        for rank, one in enumerate(told)
        for code, said in one
    ]
    if wrong:
        raise _refusal(wrong)
    text = f"{len(SHAPES)} products and {byte_size(_tested_bytes(device))} of memory"
    if ranks.world_size > 1:
        text += f" on each of {ranks.world_size} ranks, and a sum over them"
    return text


def tested(plan: Plan, ranks: Ranks) -> dict[str, Any]:
    """The event of a device that passed; arguments and errors as of `preflight`."""
    found = preflight(plan, ranks)
    return {
        "kind": "preflight",
        "severity": "info",
        "code": None,
        "message": f"the device passed its test: {found}",
    }


def _tried(test: Callable[[], str | None]) -> tuple[str, str] | None:
    """What a test found, and its code; an error of the device is what it found."""
    try:
        said = test()
    except RuntimeError as error:  # a kernel that cannot run, too
        if (code := shortage_code(error)) is not None:
            return code, shortage_text(error)
        said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None if said is None else ("E306", said)


def _refusal(wrong: list[tuple[str, str]]) -> LuminaError:
    """What stops the run: a fault, if there is one, comes before a want of memory."""
    faults = [said for code, said in wrong if code == "E306"]
    if faults:
        return LuminaError(
            "E306",
            f"the device failed its test: {'; '.join(faults)}",
            "run `lumina doctor`, look at the system's log for errors of the memory, "
            "and leave this device out: --cuda-ids, --device",
        )
    return LuminaError(
        wrong[0][0],
        f"no room to test the device: {'; '.join(said for _, said in wrong)}",
        "end other programs that use its memory (nvidia-smi lists those of a GPU), or "
        "leave --preflight out",
    )


def _products(device: torch.device, plan: Plan) -> str | None:
    """Matrix products against the same in float64 on the processor."""
    kinds = {"float32", plan.compute_dtype}
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in SHAPES:
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        for name in sorted(kinds):
            dtype = getattr(torch, name)
            a, b = left.to(dtype), right.to(dtype)
            wanted = a.double() @ b.double()
            scale = a.double().norm(dim=1)[:, None] * b.double().norm(dim=0)
            got = (a.to(device) @ b.to(device)).double().cpu()
            error = float(((got - wanted).abs() / scale).max())
            limit = ERRORS["tf32" if name == "float32" and plan.tf32 else name]
            if not error <= limit:
                return (
                    f"a product of {rows} x {inner} x {columns} in {name} is off by "
                    f"{error:.2g} of its norms, where {limit:g} is allowed"
                )
    return None


def _memory(device: torch.device, plan: Plan) -> str | None:
    """Patterns that are written into memory and read again."""
    block = torch.empty(_tested_bytes(device), dtype=torch.uint8, device=device)
    wrong = 0
    for pattern in PATTERNS:
        block.fill_(pattern)
        wrong += int(_wrong_bytes(block, pattern))
    del block
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return f"{wrong:,} bytes of memory do not keep what is written" if wrong else None


def _wrong_bytes(block: Tensor, pattern: int) -> Tensor:
    return (block != pattern).sum()


def _tested_bytes(device: torch.device) -> int:
    """How much memory is tested."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(MOST, math.floor(SHARE * free)))
    return 2**24  # of the processor: its memory is not tested from a program


def _sums(device: torch.device, ranks: Ranks) -> str | None:
    """A sum over the ranks whose result is known exactly."""
    if ranks.world_size == 1:
        return None
    places = torch.arange(4096, device=device, dtype=torch.float32) % 64
    total = places * (ranks.rank + 1)
    dist.all_reduce(total)
    factor = ranks.world_size * (ranks.world_size + 1) // 2
    wrong = int((total != places * factor).sum())
    return f"{wrong:,} of 4,096 sums over the ranks are wrong" if wrong else None
