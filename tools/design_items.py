"""The table of the 44 numbered items of the design of tiered context.

    python tools/design_items.py            print it
    python tools/design_items.py --write    put it into docs/memory.md
    python tools/design_items.py --check    fail where the page has another

What stands in it is in design_items.toml; its figures are read from the files of
benchmarks/results that it names, so that a table cannot say what was not measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(__file__).with_name("design_items.toml")
PAGE = ROOT / "docs" / "memory.md"
CLAIMS = ROOT / "docs" / "claims.md"
BEGIN, END = "<!-- made by tools/design_items.py -->", "<!-- end of what is made -->"

SCALES = {"bytes": 2**-30}
"""Units that are shown in others: bytes as GiB."""


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        number: as the design numbers it.
        name: as the design calls it.
        options: where it is here.
        saved: what it saved, with its figures.
        source: the results or the claim that say so; "" where nothing was measured.
        reason: why nothing is shown, or what it is for.
    """

    number: int
    name: str
    options: tuple[str, ...] = ()
    saved: str = ""
    source: str = ""
    reason: str = ""


def items(text: str | None = None) -> list[Item]:
    """All of them.

    Args:
        text: of the data file; None reads it.

    Raises:
        ValueError: for an item that says neither what was measured nor why not, or
            that names figures or claims that there are not.
    """
    declared = tomllib.loads(DATA.read_text("utf-8") if text is None else text)
    return [_item(one) for one in declared["item"]]


def _item(one: dict[str, Any]) -> Item:
    number, saved, source = one["number"], one.get("saved", ""), ""
    if figures := one.get("figures"):
        files = {figure["of"].partition(":")[0] for figure in figures}
        source = ", ".join(sorted(files))
        saved = saved.format(*(shown(f["of"], f["as"]) for f in figures))
    elif claim := one.get("claim"):
        if claim not in CLAIMS.read_text("utf-8"):
            raise ValueError(f"item {number}: docs/claims.md does not say {claim!r}")
        source = "claims"
    if bool(saved) != bool(source):
        raise ValueError(f"item {number}: what it saved needs figures or a claim")
    if not saved and not one.get("reason"):
        raise ValueError(f"item {number}: neither measured nor a reason")
    return Item(
        number, one["name"], tuple(one.get("options", ())), saved, source,
        one.get("reason", ""),
    )  # fmt: skip


def shown(where: str, unit: str) -> str:
    """A number of a results file, in three digits.

    Args:
        where: FILE:PATH, as in the data file.
        unit: of the number.

    Raises:
        ValueError: where there is no such number.
    """
    file, _, path = where.partition(":")
    try:
        value = _found(_read(RESULTS / file), path)
    except (KeyError, OSError, StopIteration) as error:
        raise ValueError(f"{where} is not there") from error
    if not isinstance(value, (int, float)):
        raise ValueError(f"{where} is no number")
    return f"{value * SCALES.get(unit, 1):.3g}"


def _read(file: Path) -> Any:
    text = file.read_text("utf-8")
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def _found(value: Any, path: str) -> Any:
    """What a path such as `cases[case=125M].memory.bound` leads to."""
    for key, wanted in re.findall(r"([^.\[\]]+)|\[([^\]]+)\]", path):
        if key:
            value = value[key]
            continue
        pairs = [pair.split("=", 1) for pair in wanted.split(",")]
        value = next(
            one
            for one in value
            if all(_told(one.get(name)) == said for name, said in pairs)
        )
    return value


def _told(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def table(all_items: list[Item]) -> str:
    """The table as Markdown."""
    lines = ["| No. | Item | Where it is here | What it saved, or why nothing |"]
    lines.append("|---|---|---|---|")
    for one in all_items:
        where = ", ".join(f"`{_command(option)}`" for option in one.options)
        said = one.saved or one.reason
        if one.source == "claims":
            said += " ([claims](claims.md))"
        elif one.source:
            names = ", ".join(f"`{name}`" for name in one.source.split(", "))
            said += f" ({names})"
        lines.append(f"| {one.number} | {one.name} | {where or 'not there'} | {said} |")
    return "\n".join(lines)


def _command(option: str) -> str:
    """An option as it is written: of training by its flag, others by their command."""
    if option == "lr-range":
        return "lumina lr-range"
    if " " in option:
        return f"lumina {option}"
    return "--" + option.replace("_", "-")


def main() -> int:
    """Print, write or check the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--write", action="store_true")
    choice.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    made = table(items())
    if not asked.write and not asked.check:
        print(made)
        return 0
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}\n{made}\n{END}{after}"
    if asked.check:
        if new != page:
            print(f"{PAGE.name} has another table: run {sys.argv[0]} --write")
            return 1
        return 0
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
