"""Builds the documentation into build/site, and checks that it needs no network.

    python tools/docs.py

Every link within the site is checked by MkDocs, whose warnings are errors. Then
what was written is searched for anything that a browser would fetch from
elsewhere.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s"'>]+
    |<link\b[^>]*\brel=["']?(?:stylesheet|preload|icon|preconnect)["']?[^>]*
      \bhref=["']?(?:https?:)?//[^\s"'>]+""",
    re.VERBOSE,
)
STYLED = re.compile(r"""(?:@import\s|url\()\s*["']?(?:https?:)?//[^\s"')]+""")


def main() -> int:
    """Build and check; the exit code."""
    begun = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--clean",
    ]
    # Not --quiet: a warning that is not shown does not count as an error.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, check=False, env=environment)
    if built.returncode:
        return built.returncode
    site = ROOT / "build" / "site"
    outside = fetched(site)
    for line in outside:
        print(line, file=sys.stderr)
    files = [path for path in site.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 2**20
    pages = sum(path.suffix == ".html" for path in files)
    seconds = time.monotonic() - begun
    print(f"{site}: {pages} pages, {size:.1f} MiB, {seconds:.0f} s")
    return int(bool(outside))


def fetched(site: Path) -> list[str]:
    """What a browser would load from another machine, by file."""
    found = []
    for path in sorted(site.rglob("*")):
        pattern = {".html": FETCHED, ".css": STYLED}.get(path.suffix)
        if pattern is not None:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path}: {match[0]}" for match in pattern.finditer(text)]
    return found


if __name__ == "__main__":
    sys.exit(main())
