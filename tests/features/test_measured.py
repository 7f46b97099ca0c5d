"""Rows of the matrix warn of what is known to differ or fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.features.measured import committed_rows, known_trouble, own_file


def row(*features: str, status: str = "differs", **changes: Any) -> dict[str, Any]:
    found = {
        "features": list(features), "status": status, "options": {}, "code": "",
        "why": "the gradients of the first step: 0.2 off", "date": "2026-11-30",
        "hardware": {"name": "a chip", "device": "cpu", "versions": {"torch": "2.13"}},
    }  # fmt: skip
    return {**found, **changes}


BOTH = {"window_size": 8, "qk_norm": "rms"}
PAIR = ("sliding_window", "qk_norm")


def test_a_pair_that_differs_is_told_of_where_both_are_asked_for() -> None:
    rows = [row(*PAIR)]
    (told,) = known_trouble(Config(**BOTH), rows)
    assert "sliding_window and qk_norm were together found to differ" in told
    assert "(a chip, torch 2.13, 2026-11-30): the gradients" in told
    assert not known_trouble(Config(window_size=8), rows)
    (told,) = known_trouble(Config(**BOTH), [row(*PAIR, status="failed")])
    assert "found to fail" in told


def test_a_later_row_that_is_verified_settles_it() -> None:
    bad, good = row(*PAIR), row(*PAIR, status="verified")
    assert not known_trouble(Config(**BOTH), [bad, good])
    assert known_trouble(Config(**BOTH), [good, bad])
    for status in ("verified", "refused", "untested: absent"):
        assert not known_trouble(Config(**BOTH), [row(*PAIR, status=status)])


def test_a_machine_that_could_not_try_a_pair_does_not_settle_it() -> None:
    absent = row(*PAIR, status="untested: absent")
    assert known_trouble(Config(**BOTH), [row(*PAIR), absent])


def test_only_the_smallest_set_is_named() -> None:
    alone, pair = row("qk_norm"), row(*PAIR)
    (told,) = known_trouble(Config(**BOTH), [pair, alone])
    assert told.startswith("qk_norm was found to differ")
    # A row of a named cell with options of its own says nothing of other runs.
    assert not known_trouble(Config(**BOTH), [row(*PAIR, options={"steps": 1})])


@pytest.mark.covers("CFG-13: warning from the matrix")
def test_the_check_of_a_configuration_warns_from_the_users_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    config = Config(**BOTH)
    words = ["plan", "--window-size", "8", "--qk-norm", "rms", "--device", "cpu"]
    assert not [one for one in config.warnings() if "lumina matrix" in one]
    file = own_file()
    assert file is not None
    file.parent.mkdir()
    file.write_text(json.dumps(row(*PAIR)) + '\n{"torn')
    (told,) = [one for one in config.warnings() if "lumina matrix" in one]
    assert "found to differ" in told
    assert main([*words, "--show", "warnings"]) == 0
    assert "sliding_window and qk_norm were together" in capsys.readouterr().out


@pytest.mark.covers("CFG-13: E002")
def test_what_excludes_each_other_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--ema-decay", "0.9", "--swa-start", "0.5"]) == 2
    assert "E002" in capsys.readouterr().err


def test_rows_that_come_with_lumina_are_whole() -> None:
    for found in committed_rows():
        assert {"cell", "key", "figures", "date", "settles"} <= found.keys()
        assert not any("/" in str(value) for value in found["hardware"].values())
