"""The lists of mutants: what is in them, and how they are read and written."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

HEAD = """\
# For tools/mutants.py, and written by it: drawn by the seed from the lines that quick
# tests reach. `tests` is one that notices the mutant; `reason` says why none can.
# `old` must occur in the file exactly once.
"""


@dataclass(frozen=True)
class Drawn:
    """By what a list was drawn.

    Attributes:
        seed: of the order.
        groups: set of groups of files, equally many from each.
        since: commit; only lines that are not as it had them. Empty: any line.
    """

    seed: int
    groups: str = "rooms"
    since: str = ""


@dataclass(frozen=True)
class Mutant:
    """One change of the source that tests must notice.

    Attributes:
        id: its name on the command line.
        what: it does wrong, for people.
        file: below the root, in src.
        old: occurs in the file exactly once.
        new: takes its place.
        tests: files or node ids, at least one of which must fail.
        reason: why no test can notice it; empty for those that must be noticed.
    """

    id: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    reason: str = ""


def read_list(path: Path, complete: bool = True) -> list[Mutant]:
    """The mutants of a list.

    Args:
        path: of the list.
        complete: whether every mutant must have tests or a reason.

    Raises:
        ValueError: an id occurs twice, or a mutant has neither tests nor a reason.
    """
    found: list[Mutant] = []
    for entry in tomllib.loads(path.read_text())["mutant"]:
        mutant = Mutant(**(entry | {"tests": tuple(entry.get("tests", ()))}))
        if mutant.id in {other.id for other in found}:
            raise ValueError(f"{path.name}: two mutants are named {mutant.id}")
        if (mutant.tests and mutant.reason) or (complete and not settled(mutant)):
            raise ValueError(f"{path.name}: {mutant.id} needs either tests or a reason")
        found.append(mutant)
    return found


def read_drawn(path: Path) -> Drawn:
    """By what a list was drawn."""
    entry = tomllib.loads(path.read_text())
    return Drawn(
        entry["seed"], entry.get("groups", Drawn.groups), entry.get("since", "")
    )


def settled(mutant: Mutant) -> bool:
    """Whether a test that notices it is known, or why there is none."""
    return bool(mutant.tests or mutant.reason)


def change(mutant: Mutant, folder: Path) -> None:
    """Apply a mutant to the copy of src in a folder.

    Raises:
        ValueError: its old text does not occur exactly once, or nothing would change.
    """
    path = folder / mutant.file
    text = path.read_text()
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(
            f"{mutant.id}: its old text occurs {count} times in {mutant.file}"
        )
    if mutant.old == mutant.new:
        raise ValueError(f"{mutant.id} changes nothing")
    path.write_text(text.replace(mutant.old, mutant.new))


def write_list(path: Path, drawn: Drawn, mutants: list[Mutant]) -> None:
    """Write a list that was drawn."""
    lines = [HEAD, f"seed = {drawn.seed}", f"groups = {quoted(drawn.groups)}"]
    if drawn.since:
        lines.append(f"since = {quoted(drawn.since)}")
    lines.append(f"count = {len(mutants)}")
    for mutant in mutants:
        lines.append("\n[[mutant]]")
        for name, value in asdict(mutant).items():
            if value:
                lines.append(f"{name} = {quoted(value)}")
    path.write_text("\n".join(lines) + "\n")


def quoted(value: str | tuple[str, ...]) -> str:
    """A value as TOML."""
    if not isinstance(value, str):
        return f"[{', '.join(quoted(one) for one in value)}]"
    if "\n" in value and "'''" not in value:
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False)
