"""What can be switched: what it does, costs, needs, and does not go together with."""

from __future__ import annotations

from lumina.features import FEATURES
from references import cell, code, table

HEAD = """# Features

A feature is an optimisation or a behaviour that can be switched. Where no option
names one, the plan chooses and says why; `lumina features` shows what each is on
this machine, and `--dry-run` what it is in a run. How a feature of your own is
declared is in [extending](../extending.md).
"""

CHANGES = {
    "live": "while a run goes on, at the next step",
    "reassemble": "while a run goes on; the program is assembled again",
    "restart": "at the next start of the run",
}


def page() -> str:
    """The page as Markdown."""
    rows = []
    for feature in FEATURES.values():
        excluded = ", ".join(code(one.feature) for one in feature.excludes)
        rows.append(
            (
                code(feature.name),
                cell(feature.summary),
                CHANGES[feature.change_cost],
                excluded,
            )
        )
    head = ("feature", "what it does", "can be switched", "not together with")
    return f"{HEAD}\n{table(head, rows)}"
