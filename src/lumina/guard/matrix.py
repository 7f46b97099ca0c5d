"""The validation matrix: what pretests have found, by optimisation, size and kind.

It has no entry that no pretest made: a lever that was not tried on a device for models
of a size is EXPERIMENTAL there, and one that the device cannot have is N/A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lumina.features import FEATURES
from lumina.guard import pretest_logs
from lumina.plan.environment import Environment

SIZES = {"100M": 1e8, "250M": 2.5e8, "500M": 5e8, "1B": 1e9}
"""Columns of the matrix, and parameters."""

NEAR = 1.6
"""A model belongs to the size that it is nearest to, within this factor."""

UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


@dataclass(frozen=True)
class Cell:
    """What is known of a lever for models of a size and kind on a device.

    Attributes:
        lever: its name.
        size: a key of `SIZES`, or a size as it was tried.
        architecture: the kind of model.
        device: the chip's name.
        status: PASS, FAIL, EXPERIMENTAL or N/A.
        date: of the newest pretest; "" where there is none.
        text: what it found, or why there is none.
    """

    lever: str
    size: str
    architecture: str
    device: str
    status: str
    date: str = ""
    text: str = ""


def matrix(machine: Environment, architectures: Sequence[str] = ()) -> list[Cell]:
    """A cell for each lever, size and kind, here and where else one was tried.

    Args:
        machine: this one, whose name its entries have.
        architectures: kinds to list beside those that were tried; none: "dense".
    """
    newest: dict[tuple[str, str, str, str], Cell] = {}
    for entry in pretest_logs.entries():
        if "+" in str(entry.get("lever", "+")):
            continue
        size = column_of(str(entry["model_size"]))
        place = (entry["lever"], size, entry["architecture"],
                 entry["identity"]["device"])  # fmt: skip
        newest[place] = Cell(*place, entry["status"], entry["date"], str(entry["text"]))
    here = machine.device_name
    kinds = dict.fromkeys(
        [*architectures, *(place[2] for place in newest)] or ["dense"]
    )
    sizes = dict.fromkeys([*SIZES, *(place[1] for place in newest)])
    for lever, feature in FEATURES.items():
        if not feature.claim:
            continue
        problem = feature.problem(machine)
        for size in sizes:
            for kind in kinds:
                place = (lever, size, kind, here)
                if place in newest or size not in SIZES:
                    continue
                status = "N/A" if problem else "EXPERIMENTAL"
                text = problem or "not tried here"
                newest[place] = Cell(*place, status, "", text)
    order = list(sizes)
    return sorted(
        newest.values(),
        key=lambda one: (
            one.device != here, one.device, one.lever, one.architecture,
            order.index(one.size),
        ),
    )  # fmt: skip


def column_of(size: str) -> str:
    """The size of the table that a model such as "124M" belongs to, or its own."""
    count = float(size.rstrip("KMB")) * UNITS.get(size[-1], 1.0)
    nearest = min(SIZES, key=lambda name: abs(math.log(SIZES[name] / max(count, 1.0))))
    ratio = count / SIZES[nearest]
    return nearest if 1 / NEAR <= ratio <= NEAR else size


def as_markdown(cells: Sequence[Cell]) -> str:
    """A table for each device: lines of levers and kinds, columns of sizes."""
    parts = []
    for device in dict.fromkeys(cell.device for cell in cells):
        mine = [cell for cell in cells if cell.device == device]
        sizes = [size for size in dict.fromkeys([*SIZES, *(c.size for c in mine)])]
        head = ["Optimisation", "Model", *sizes]
        rows = [head, ["---"] * len(head)]
        for lever, kind in dict.fromkeys((c.lever, c.architecture) for c in mine):
            known = {
                c.size: c for c in mine if (c.lever, c.architecture) == (lever, kind)
            }
            shown = [_shown(known[size]) if size in known else "" for size in sizes]
            rows.append([lever, kind, *shown])
        lines = [f"| {' | '.join(row)} |" for row in rows]
        parts.append("\n".join([f"### {device}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _shown(cell: Cell) -> str:
    return f"{cell.status} ({cell.date})" if cell.date else cell.status
