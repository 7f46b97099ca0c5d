"""The presets with their counted sizes."""

from __future__ import annotations

from lumina.cli.presets import _HEAD, _LEGEND, _row
from lumina.config.presets import PRESETS
from references import code, table

HEAD = """# Presets

A preset is a shape with the settings that suit it: `lumina train --preset b1`.
Its parameters are counted from the shape and equal those of the model that is
built. `lumina presets NAME` shows all of a preset's values and the memory that
training takes.
"""


def page() -> str:
    """The page as Markdown."""
    rows = [[code(row[0]), *row[1:]] for row in map(_row, PRESETS.values())]
    return f"{HEAD}\n{table(_HEAD, rows)}\n{_LEGEND.strip()}\n".replace(
        "*: a", "\\*: a"
    )
