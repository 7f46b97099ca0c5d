"""What may be changed while a run goes on."""

from __future__ import annotations

from lumina.train.controls.table import control_named, known_controls
from references import code, table

HEAD = """# Controls

A control is something that can be changed while a run goes on: from
[Python](../python.md), by a rule, or by a rule of your own
([extending](../extending.md)). Every change is entered in the journal of the run
with its reason and outcome, is told in the [report](../report.md), and holds
after a resume. Every [feature](features.md) that can be switched while a run goes
on is a control, too. `--pin NAME` keeps rules from changing it.
"""


def page() -> str:
    """The page as Markdown."""
    rows = []
    for name in known_controls():
        control = control_named(name)
        undo = f"no: {control.final}" if control.final else "yes"
        options = ", ".join(
            code("--" + leaf.replace("_", "-")) for leaf in control.settings
        )
        about = (type(control).__doc__ or "").strip().partition("\n")[0]
        rows.append((code(name), about, control.allowed, undo, options))
    head = (
        "control",
        "what it changes",
        "values",
        "can be undone",
        "set at the start by",
    )
    return f"{HEAD}\n{table(head, rows)}"
