"""Records to check, most of them without a fault, and the report of their file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lumina.data.quality import assess as assessing
from lumina.data.quality.assess import Report
from lumina.data.quality.check import Options


def turns(*contents: str, roles: str = "ua") -> dict[str, Any]:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    turns = [
        {"role": names[roles[n % len(roles)]], "content": text}
        for n, text in enumerate(contents)
    ]
    return {"messages": turns}


def prose(seed: int, words: int = 120) -> str:
    letters = random.Random(seed)
    known = [
        "".join(letters.choices("abcdefghij", k=letters.randint(3, 8)))
        for _ in range(400)
    ]
    return " ".join(letters.choices(known, k=words))


CLEAN = [{"text": prose(n)} for n in range(20)]
CLEAN_TALK = [turns(f"What is {n}?", f"The number {n} it is.") for n in range(20)]


def assess(paths: list[Path], options: Options, **named: Any) -> Report:
    """The report of some files; by default near duplicates are looked for too."""
    if "only" not in named:
        pytest.importorskip("datasketch", reason="needs datasketch")
    return assessing.assess(paths, options, **named)


def write(path: Path, records: list[Any]) -> Path:
    path.write_text(
        "".join(
            (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False))
            + "\n"
            for one in records
        )
    )
    return path
