"""The tables of docs/metrics.md, from `lumina.observe.metric_table` and the checks.

python tools/metrics.py            print them
python tools/metrics.py --write    put them into docs/metrics.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from lumina.observe.metric_table import as_markdown
from lumina.train.health.check import CHECKS
from lumina.train.health.watching import OWN  # registers the checks

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- made by tools/metrics.py -->", "<!-- end of what is made -->"


def tables() -> str:
    """All that is made: the metrics, and the health checks."""
    assert OWN
    lines = ["## Health checks", "", "| Check | Penalty | Raised by |", "|---|---|---|"]
    lines += [f"| `{x.name}` | {x.penalty} | {x.rule} |" for x in CHECKS.values()]
    return as_markdown() + "\n" + "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables as they are now."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(tables())
