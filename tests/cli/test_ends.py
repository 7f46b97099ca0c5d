"""How the process of a command ends."""

from __future__ import annotations

import gc
import os
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class LeftStandingError(Exception):
    """The process ended with the interpreter left as it was."""


@pytest.fixture
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.parametrize("world_size", ["", "1", "2"])
def test_the_installed_command_ends_a_rank_with_the_interpreter_left_standing(
    world_size: str, monkeypatch: pytest.MonkeyPatch, unfrozen: None
) -> None:
    """Taken down, it can abort a rank that has done all its work (`__main__.end`)."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    command = EntryPoint("lumina", scripts["lumina"], "console_scripts").load()

    def left(code: int) -> None:
        raise LeftStandingError(code)

    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setattr(sys, "argv", ["lumina", "no-such-command"])
    monkeypatch.setattr(os, "_exit", left)
    monkeypatch.setattr("atexit._run_exitfuncs", list)
    ended = LeftStandingError if world_size == "2" else SystemExit
    frozen = gc.get_freeze_count()
    with pytest.raises(ended) as found:
        command()
    assert found.value.args == (2,), "the exit code of the command"
    if world_size != "2":
        assert gc.get_freeze_count() > frozen, "modules are not searched at the end"
