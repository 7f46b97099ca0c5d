"""Advice for every code and for common troubles, whose options and commands exist."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from lumina.cli.groups import members
from lumina.cli.main import COMMANDS, main
from lumina.config.sections import LEAVES
from lumina.errors import CODES
from lumina.observe.advice import FILE, Explained, as_asked, explained

ROOT = Path(__file__).resolve().parents[2]
THEIRS = {"--help", "--detailed", "--show", "--config-file", "--hardware-profile"}


def test_no_code_is_missing_and_none_is_invented() -> None:
    with open(FILE, "rb") as file:
        assert list(tomllib.load(file)["codes"]) == list(CODES)


@pytest.mark.parametrize("entry", explained().values(), ids=lambda one: one.name)
def test_every_option_and_command_that_is_named_exists(entry: Explained) -> None:
    text = "\n".join([entry.means, *entry.causes, *entry.look, *entry.do])
    for option in re.findall(r"--[a-z][a-z0-9-]*", text):
        leaf = option.removeprefix("--").replace("-", "_")
        assert leaf in LEAVES or option in THEIRS, option
    for command, rest in re.findall(r"`lumina ([a-z]+) ?([a-z]*)", text):
        if command in COMMANDS:
            module = importlib.import_module(COMMANDS[command][0])
            if hasattr(module, "GROUP"):
                assert rest in members(module.GROUP), (command, rest)
        else:
            assert command == "COMMAND", command
    for leaf_value in re.findall(r"`(adamw[a-z0-9_]*|lion)`", text):
        assert importlib.util.find_spec(f"lumina.optim.methods.{leaf_value}")
    assert entry.do and entry.causes


@pytest.mark.covers("DIA-13")
def test_troubles_of_every_kind_are_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = {
        "memory": "--gradient-checkpointing",
        "instability": "--learning-rate",
        "data": "lumina data validate",
        "speed": "--compile",
        "moe": "--load-balancing-weight",
    }
    for topic, advice in expected.items():
        assert main(["explain", topic]) == 0
        text = capsys.readouterr().out
        assert advice in text and "signs:" in text and "what to do:" in text
    assert main(["explain", "e201", "E303"]) == 0
    text = capsys.readouterr().out
    assert "E201: out of GPU memory" in text and "checkpoints verify" in text
    assert main(["explain", "E999"]) == 2
    assert "instability" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "topic"),
    [
        ("Divergence", "instability"),
        ("NaN", "instability"),
        ("oom", "memory"),
        ("dead_experts", "moe"),
        ("out-of-memory", "memory"),
    ],
)
def test_a_trouble_is_found_by_the_words_that_people_use(
    said: str, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", said]) == 0
    assert capsys.readouterr().out.startswith(f"{topic}: ")


def test_a_run_that_is_not_there_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(tmp_path / "nothing")]) == 1
    text = capsys.readouterr().err
    assert text.startswith("E304") and "there is no run" in text


def test_no_two_topics_have_a_name_in_common() -> None:
    names = [as_asked(n) for key, one in explained().items() for n in (key, *one.also)]
    assert len(names) == len(set(names))


def test_the_page_of_codes_says_the_same() -> None:
    path = ROOT / "tools" / "codes.py"
    spec = importlib.util.spec_from_file_location("codes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page()
