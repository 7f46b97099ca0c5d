"""Nothing is dead: every option, run with two values, changes the work of a run.

Each option has an entry in `option_effects`, which trains with two values or more and
looks at a tensor, a loss, a rate, a number of steps, a file, a kernel or a refusal.
What a plan, a banner or a saved configuration says does not count.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from lumina.config.sections import LEAVES
from option_effects import EFFECTS
from tiny_runs import Runs

for room in ("model", "moe", "data", "training", "running", "system"):
    importlib.import_module(f"option_effects.{room}")


def test_every_option_has_an_entry() -> None:
    assert sorted(EFFECTS) == sorted(LEAVES)


@pytest.mark.parametrize(
    "leaves",
    [
        pytest.param([x for x in EFFECTS if EFFECTS[x] is effect], id=effect.__name__)
        for effect in dict.fromkeys(EFFECTS.values())
    ],
)
def test_option_changes_the_work(
    leaves: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EFFECTS[leaves[0]](Runs(tmp_path, monkeypatch))
