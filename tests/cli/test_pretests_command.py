"""`lumina pretests`: what was tried on this machine, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.features import FEATURES
from lumina.guard import pretest
from lumina.guard.history import history, remember, summary
from lumina.guard.pretest import Result

PLUGIN = """
from lumina.features import Feature, register


def broken(machine):
    return "it gives other numbers"


register(Feature(name="sound", summary="it works", pretest=lambda machine: None))
register(Feature(name="unsound", summary="it does not", pretest=broken))
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own; what the plug-in registers is gone afterwards."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    before = dict(FEATURES)
    yield
    FEATURES.clear()
    FEATURES.update(before)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "two_features.py"
    file.write_text(PLUGIN)
    return str(file)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["pretests", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.covers("DIA-14")
def test_pretests_are_summed_up_and_their_history_is_kept(
    plugin: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretests", "summary"]) == 0
    assert "nothing was tried" in capsys.readouterr().out
    problems = {"sound": "", "unsound": "it gives other numbers"}

    def tried(name: str, plugins: Any, *, device: str) -> Result:
        assert list(plugins) == [plugin]
        problem = problems.get(name, "")  # a pretest that comes with Lumina works
        return Result(name, not problem, problem, 0.5)

    monkeypatch.setattr(pretest, "run_pretest", tried)
    words = ["pretests", "run", "--plugins", plugin, "--device", "cpu"]
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "sound  works" in text and "unsound  fails: it gives other numbers" in text
    problems["unsound"] = ""
    assert main([*words, "unsound"]) == 0
    capsys.readouterr()
    found = {one["last"]["feature"]: one for one in shown(capsys, "summary")}
    assert (found["sound"]["tries"], found["sound"]["failures"]) == (1, 0)
    assert (found["unsound"]["tries"], found["unsound"]["failures"]) == (2, 1)
    assert found["unsound"]["last"]["passed"]
    assert [one["passed"] for one in shown(capsys, "history", "unsound")] == [0, 1]
    made = [one["feature"] for one in shown(capsys, "history")]
    assert [one for one in made if one in problems] == ["sound", "unsound", "unsound"]
    assert len(shown(capsys, "history", "--last", "1")) == 1
    assert main(["pretests", "history"]) == 0
    assert "fails: it gives other numbers" in capsys.readouterr().out
    assert main(["pretests", "run", "compile"]) == 2
    assert "no pretest" in capsys.readouterr().err


def test_lines_of_other_versions_do_not_count(tmp_path: Path) -> None:
    tried = remember(Result("one", True, "", 1.0), "a device")
    remember(Result("one", False, "why", 1.0), "another device")
    with open(tmp_path / "cache" / "pretests.jsonl", "a") as file:
        file.write('{"feature": "one"}\n[1]\n{"feat')
    assert history()[0] == tried and len(history("one")) == 2
    assert history("two") == []
    assert [(one.last.device, one.tries) for one in summary()] == [
        ("a device", 1),
        ("another device", 1),
    ]


@pytest.mark.thorough
def test_features_are_really_tried_in_processes_of_their_own(
    plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretests", "run", "--plugins", plugin, "--device", "cpu"]) == 1
    capsys.readouterr()
    last = [one["last"] for one in shown(capsys, "summary")]
    found = {one["feature"]: one for one in last}
    assert found["sound"]["passed"] and not found["unsound"]["passed"]
    assert found["unsound"]["problem"] == "it gives other numbers"
