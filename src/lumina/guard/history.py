"""What pretests found on this machine: ``LUMINA_CACHE/pretests.jsonl``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from lumina.data.cache_lines import add_line, last_lines
from lumina.guard.pretest import Result

FILE = "pretests.jsonl"


@dataclass(frozen=True)
class Tried:
    """One pretest.

    Attributes:
        feature: what was tried.
        passed: whether it works.
        problem: why not; "" where it works.
        seconds: what the test took.
        device: where it was tried.
        torch: PyTorch's version then.
        time: in seconds since 1970.
    """

    feature: str
    passed: bool
    problem: str
    seconds: float
    device: str
    torch: str
    time: float


def remember(result: Result, device: str) -> Tried:
    """Record what a pretest found.

    Args:
        result: what it found.
        device: the name of the device it ran on.
    """
    import torch

    tried = Tried(
        **asdict(result), device=device, torch=torch.__version__, time=time.time()
    )
    add_line(FILE, asdict(tried))
    return tried


def history(feature: str | None = None) -> list[Tried]:
    """All that is recorded, the newest last.

    Args:
        feature: of this one alone.
    """
    found = []
    for values in last_lines(FILE):
        try:
            found.append(Tried(**values))
        except TypeError:
            continue  # a line of another version
    return [one for one in found if feature in (None, one.feature)]


def known_failures(device: str, names: Iterable[str]) -> dict[str, str]:
    """Feature -> why its newest pretest on a device failed, for those that failed.

    Args:
        device: its name.
        names: the features asked about.
    """
    wanted, found = set(names), {}
    for one in history():
        if one.feature in wanted and one.device == device:
            found[one.feature] = one.problem if not one.passed else ""
    return {name: problem for name, problem in found.items() if problem}


@dataclass(frozen=True)
class Summary:
    """What is known of a feature on a device.

    Attributes:
        last: the newest pretest.
        tries: how many there were.
        failures: how many of them failed.
    """

    last: Tried
    tries: int
    failures: int


def summary() -> list[Summary]:
    """The newest result of every feature on every device, by name."""
    groups: dict[tuple[str, str], list[Tried]] = {}
    for tried in history():
        groups.setdefault((tried.feature, tried.device), []).append(tried)
    return [
        Summary(group[-1], len(group), sum(not one.passed for one in group))
        for _, group in sorted(groups.items())
    ]
