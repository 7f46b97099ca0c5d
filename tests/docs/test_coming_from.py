"""The tables of names: what stands on the left is understood, or answered, here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lumina.config.leaves import canonical, meaning
from lumina.config.names_elsewhere import NAMES
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
TABLES = ("transformers (Trainer)", "axolotl", "LLaMA-Factory", "torchtitan",
          "nanochat")  # fmt: skip
NO_NAMES = {"qlora", "ppo", "rm", "kto", "name", "mode", "enable", "run"}
"""Values of options, and names that each section of torchtitan or a script has."""


def rows() -> list[tuple[str, list[str], str]]:
    """Table, names on the left, and what stands on the right."""
    found, table = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            table = line[3:].strip().split(" (`")[0]
        elif line.startswith("| ") and table:
            left, right = line.strip("| ").split(" | ", 1)
            names = [name_of(text) for text in re.findall(r"`([^`]+)`", left)]
            found.append((table, [name for name in names if name], right))
    return found


def name_of(text: str) -> str:
    """The bare name of an option: of `[training] steps`, `--depth` or `optim="x"`."""
    text = re.sub(r"^\[\w+\] ", "", text).removeprefix("--")
    name = re.split(r"[:=( \[]", text)[0]
    return "" if "." in name else name


def test_every_trainer_has_its_table() -> None:
    assert {table for table, _, _ in rows()} == set(TABLES)
    assert len(rows()) > 70


@pytest.mark.parametrize("table", TABLES)
def test_names_are_taken_or_answered_with_an_option(table: str) -> None:
    for name in (n for t, names, _ in rows() if t == table for n in names):
        if name in NO_NAMES:
            continue
        try:
            canonical(name)
        except LuminaError:
            words = set(re.findall(r"\w+", meaning(name)))
            assert words & {*LEAVES, "lumina", "best"}, f"{name}: {meaning(name)}"


def test_options_on_the_right_are_options() -> None:
    others = {"--best-metric", "--max-seq-len"}
    for _, _, right in rows():
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", right):
            name = flag.removeprefix("--").removeprefix("no-")
            assert flag in others or canonical(name), flag


def test_no_answer_hides_an_option() -> None:
    for name in NAMES:
        with pytest.raises(LuminaError):
            canonical(name)
