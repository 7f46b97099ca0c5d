"""Child processes that find other sources first, and all that this process finds."""

from __future__ import annotations

import os
from pathlib import Path


def finding(*folders: str | Path) -> dict[str, str]:
    """The environment of this process, with folders first where Python looks.

    What PYTHONPATH held stays behind them: where torch is found through it alone, a
    child without it finds none.
    """
    before = os.environ.get("PYTHONPATH")
    path = [*map(str, folders), *([before] if before else [])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}
