"""Builds the documentation into build/site, and checks that it needs no network.

    python tools/docs.py
    python tools/docs.py --out FILE     and write what was counted, as JSON

Every link within the site is checked by MkDocs, whose warnings are errors. Then
what was written is searched for anything that a browser would fetch from
elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
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
    size = sum(path.stat().st_size for path in files)
    pages = sum(path.suffix == ".html" for path in files)
    seconds = time.monotonic() - begun
    print(f"{site}: {pages} pages, {size / 2**20:.1f} MiB, {seconds:.0f} s")
    if asked.out:
        made = datetime.now(UTC).isoformat(timespec="seconds")
        found = {"date": made, "pages": pages, "bytes": size, "fetched": outside}
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
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
