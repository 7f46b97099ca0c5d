"""How long bytes take between a device and what lies beside it, in one step.

What comes and goes while blocks compute is hidden behind them as far as it takes no
longer than they do. What the optimizer's step brings and takes is not hidden: 989 M
parameters whose AdamW states lie in host memory took 258 ms a step longer on an H200,
and their bytes take 242 at the rate of the link (docs/claims.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lumina.features import find_feature
from lumina.features.crossing import Crossing
from lumina.plan.environment import Environment
from lumina.plan.hardware_profiles import profile_of
from lumina.plan.measured_once import known_number, measured_once
from lumina.plan.plan import Plan
from lumina.quantities import byte_size

GIB = 2**30
CACHE = "links.json"
"""Rates of the present devices, in LUMINA_CACHE."""

DISK = 3e9
"""Bytes a second of a local NVMe disk, of which nothing is known."""

SAME, ALIKE, UNKNOWN_DISK = 1.15, 1.6, 3.0
"""How far seconds may be off: of a link that was measured, of one that was not, and of
a disk."""


@dataclass(frozen=True)
class Link:
    """Rates, in bytes a second.

    Attributes:
        host: between device and host memory, each way while both ways are in use.
        why: where that is from.
        spread: the factor up to which it may be wrong, either way.
        disk: of the disk of the offload folder, reads and writes together.
    """

    host: float
    why: str
    spread: float
    disk: float = DISK


@dataclass(frozen=True)
class LinkTime:
    """Seconds of a step.

    Attributes:
        beside: of what comes and goes while blocks compute.
        after: of what the optimizer's step brings and takes.
        spread: the factor up to which both may be wrong, either way.
        bytes: both ways, in all.
        why: what the rates are from.
    """

    beside: float = 0.0
    after: float = 0.0
    spread: float = 1.0
    bytes: float = 0.0
    why: str = ""


def crossings(spec: Any, layout: Any) -> dict[str, Crossing]:
    """What the features of a layout bring and take in a step, by place."""
    found: dict[str, Crossing] = {}
    for name in layout.features:
        crosses = find_feature(name).crosses
        for place, one in crosses(spec, layout).items() if crosses else ():
            found[place] = found.get(place, Crossing()) + one
    return {place: one for place, one in found.items() if one.whole}


def link_of(machine: Environment) -> Link | None:
    """The rates to count on; None where nothing says how fast the link is.

    Measured ones of the present device, else what a card's table says.
    """
    rate = known_number(CACHE, machine.device_name)
    if rate is not None:
        return _told(rate, "was measured here", SAME)
    profile = profile_of(machine.device_name)
    if profile is None or profile.host_link is None:
        return None
    measured = profile.host_measured
    source = "was measured on such a card" if measured else "is assumed of its PCIe"
    return _told(profile.host_link, source, SAME if measured else ALIKE)


def _told(rate: float, source: str, spread: float) -> Link:
    why = f"{rate / 1e9:.3g} GB/s each way of the link, which {source}"
    return Link(rate, why, spread)


def link_here(machine: Environment) -> None:
    """Measure the link of the present CUDA device once, for this and later plans."""
    if machine.device == "cuda":
        measured_once(CACHE, machine.device_name, _measured)


def link_time(
    plan: Plan, crossing: Mapping[str, Crossing], link: Link | None
) -> LinkTime:
    """How long the bytes of a step take.

    Both ways of the link are in use at a time; a disk reads and writes by turns, and
    what is on it passes the link as well.

    Args:
        plan: whose device it is; the host's own memory needs no link.
        crossing: by place, as of `crossings`.
        link: the rates.
    """
    if plan.device == "cpu":
        link = Link(math.inf, "", SAME)
    if not crossing:
        return LinkTime()
    if link is None:
        why = "how fast the link to host memory is is not known, and not counted"
        return LinkTime(why=why)
    disk = crossing.get("disk", Crossing())
    every = sum(crossing.values(), Crossing())
    rate, disk_rate = link.host, link.disk
    rates = [link.why] if link.why else []
    if disk.whole:
        rates.append(f"{disk_rate / 1e9:.3g} GB/s of the disk, which is assumed")
    told = (
        f"{byte_size(int(every.whole))} of a step come or go at {' and '.join(rates)}"
    )

    def seconds(brought: float, taken: float, on_disk: float) -> float:
        return max(brought / rate, taken / rate, on_disk / disk_rate)

    return LinkTime(
        beside=seconds(every.brought, every.taken, disk.brought + disk.taken),
        after=seconds(
            every.brought_after,
            every.taken_after,
            disk.brought_after + disk.taken_after,
        ),
        spread=UNKNOWN_DISK if disk.whole else link.spread,
        bytes=every.whole,
        why=told,
    )


def _measured() -> float:
    """Bytes a second each way, of pinned copies that go both ways at once."""
    import torch

    host = [torch.empty(GIB // 4, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    here = [torch.empty_like(one, device="cuda") for one in host]
    streams = [torch.cuda.Stream() for _ in range(2)]
    pairs = ((here[0], host[0]), (host[1], here[1]))

    def copied(times: int) -> float:
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for stream, (into, source) in zip(streams, pairs, strict=True):
            stream.wait_event(begin)
            with torch.cuda.stream(stream):
                for _ in range(times):
                    into.copy_(source, non_blocking=True)
            torch.cuda.current_stream().wait_stream(stream)
        end.record()
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1000

    copied(1)
    return 4 * host[0].numel() / copied(4)
