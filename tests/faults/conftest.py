"""The undisturbed run, the killed one, and the rule that nothing is left running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import training
from fault_runs import FLAGS, Faulty, killed_at, saved
from training import Trainings


@pytest.fixture(scope="session")
def faulty_runs(
    tmp_path_factory: pytest.TempPathFactory, lumina_cache: Path, tiny_corpus: Path
) -> tuple[Path, Path]:
    """The run that nothing happened to, and the one that was killed in step 7."""
    made = Trainings(tmp_path_factory.mktemp("undisturbed"), tiny_corpus)
    whole = made.train("whole", *FLAGS)
    killed = made.start("half", *FLAGS, before=killed_at(7))
    assert killed.wait() == -9, killed.output
    half = made.folder / "half"
    assert saved(half) == [2, 4, 6]
    return whole, half


@pytest.fixture
def faulty(tmp_path: Path, tiny_corpus: Path, faulty_runs: tuple[Path, Path]) -> Faulty:
    """Runs of this test alone."""
    return Faulty(Trainings(tmp_path / "runs", tiny_corpus), *faulty_runs)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A process that outlives its test hangs."""
    yield
    left = [p.pid for p in training._started if p.exitcode is None]
    assert not left, f"processes {left} still run"
