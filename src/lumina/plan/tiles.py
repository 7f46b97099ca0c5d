"""Tiles of Triton's attention kernel, and whether they fit on the chip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

LEAVES = {
    "queries": "triton_block_q",
    "keys": "triton_block_kv",
    "warps": "triton_num_warps",
    "stages": "triton_num_stages",
}
BLACKWELL = {"queries": 128, "keys": 64, "warps": 8, "stages": 3}
USUAL = {"queries": 128, "keys": 128, "warps": 8, "stages": 2}

SHARED_BYTES = {
    (7, 5): 64 * 1024,
    (8, 0): 163 * 1024,
    (8, 6): 99 * 1024,
    (8, 9): 99 * 1024,
    (9, 0): 227 * 1024,
    (10, 0): 227 * 1024,
    (12, 0): 99 * 1024,
}
"""Shared memory that a thread block may have, by compute capability: the CUDA C++
Programming Guide, "Technical Specifications per Compute Capability"."""


def decide_tiles(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Decide `Plan.attention_tiles`: what is named over what the device suits.

    Raises:
        LuminaError: E003 for tiles without a GPU, and for those that do not fit into
            the shared memory of this one.
    """
    kernels = config.kernels
    named = {
        part: value
        for part, leaf in LEAVES.items()
        if (value := getattr(kernels, leaf)) is not None
    }
    if named and machine.device != "cuda":
        leaf = LEAVES[next(iter(named))]
        raise LuminaError(
            "E003",
            f"{leaf} is of kernels of a CUDA device; the run is on {machine.device}",
            f"leave {leaf} out",
        )
    tiles: dict[str, int] = dict(BLACKWELL) if _tuned(config, machine) else {}
    tiles |= named
    if tiles:
        _check_fits(tiles, machine, spec)
    why = ", ".join(f"{LEAVES[p]} {source_of(config, LEAVES[p])}" for p in named)
    decisions.decide("attention_tiles", tiles, why or "the kernel's own")


def _tuned(config: Config, machine: Environment) -> bool:
    named = config.kernels.experimental_blackwell_tuning
    return bool(named) and (machine.capability or (0, 0)) >= (10, 0)


def _check_fits(tiles: dict[str, int], machine: Environment, spec: ModelSpec) -> None:
    size = USUAL | tiles
    width = max(16, 1 << (spec.head_dim - 1).bit_length())
    needed = 2 * width * (size["queries"] + size["stages"] * size["keys"])
    version = machine.capability or (0, 0)
    known = [one for one in SHARED_BYTES if one <= version]
    room = SHARED_BYTES[max(known)] if known else min(SHARED_BYTES.values())
    if needed > room:
        fewer = " and ".join(f"--{LEAVES[part].replace('_', '-')}" for part in tiles)
        raise LuminaError(
            "E003",
            f"tiles of {size['queries']} queries and {size['stages']} x {size['keys']} "
            f"keys of {width} channels take {needed // 1024} KiB of shared memory, and "
            f"a block of {machine.device_name} has {room // 1024} KiB",
            f"lower {fewer}" if tiles else "leave them out",
        )
