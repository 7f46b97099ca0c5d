"""Nothing is dead: every option, run with two values, changes the work of a run.

Each option has an entry in `option_effects`, which trains with two values or more and
looks at a tensor, a loss, a rate, a number of steps, a file, a kernel or a refusal.
What a plan, a banner or a saved configuration says does not count. An entry that shows
a clause of the specification carries its own `covers` mark, which its test takes over.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import option_effects
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from option_effects import EFFECTS
from tiny_runs import Runs

for room in sorted(pkgutil.iter_modules(option_effects.__path__)):
    importlib.import_module(f"option_effects.{room.name}")


def test_every_option_has_an_entry() -> None:
    assert sorted(EFFECTS) == sorted(LEAVES)


@pytest.mark.parametrize(
    "leaves",
    [
        pytest.param(
            [leaf for leaf in EFFECTS if EFFECTS[leaf] is effect],
            id=effect.__name__,
            marks=getattr(effect, "pytestmark", ()),
        )
        for effect in dict.fromkeys(EFFECTS.values())
    ],
)
def test_option_changes_the_work(
    leaves: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EFFECTS[leaves[0]](Runs(tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize(
    # Two settings of blocks that do not exist yet are only refused with their block.
    "leaf",
    [leaf for leaf in EFFECTS if leaf not in ("mod_capacity_factor", "mor_recursions")],
)
def test_an_ignored_option_would_be_found(
    leaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, LuminaError, pytest.fail.Exception)):
        EFFECTS[leaf](Runs(tmp_path, monkeypatch, ignored=leaf))
