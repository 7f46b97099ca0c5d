"""docs/codes.md, made of what `lumina explain` prints.

    python tools/codes.py [--write]

Without `--write` it ends with exit code 1 where the page is not up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lumina.errors import CODES
from lumina.observe.advice import Explained, explained

PAGE = Path(__file__).resolve().parents[1] / "docs" / "codes.md"

HEAD = """\
# Codes, and what to do

Every failure that Lumina foresees has a code, says what happened and what to do. The
exit code is 2 where the command or its settings were wrong (E0..), 1 where the work
failed.
`lumina explain E201` prints what stands here; `lumina explain memory` the advice below.

This page is made by `python tools/codes.py --write`.
"""


def page() -> str:
    """The whole page."""
    entries = explained().values()
    codes = [entry for entry in entries if entry.name in CODES]
    topics = [entry for entry in entries if entry.name not in CODES]
    parts = [HEAD, "## Codes\n", *map(_entry, codes)]
    parts += ["## Common troubles\n", *map(_entry, topics)]
    return "\n".join(parts)


def _entry(one: Explained) -> str:
    title = one.title[0].upper() + one.title[1:]
    lines = [f"### {one.name}: {title}", ""]
    if one.means:
        lines += [one.means, ""]
    causes = "Usual causes" if one.means else "Signs"
    for heading, items in (
        (causes, one.causes),
        ("Where to look", one.look),
        ("What to do", one.do),
    ):
        if items:
            lines += [f"{heading}:", "", *(f"- {item}" for item in items), ""]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or say whether it is up to date."""
    if "--write" in arguments:
        PAGE.write_text(page())
        return 0
    if PAGE.is_file() and PAGE.read_text() == page():
        return 0
    print("docs/codes.md is not up to date: python tools/codes.py --write")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
