"""The documents' flags start the commands that do the same here."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from lumina.cli import doctor
from lumina.cli.documented_flags import FLAGS, translated
from lumina.cli.groups import members
from lumina.cli.main import COMMANDS, main
from lumina.cli.parsing import Parser
from lumina.errors import LuminaError
from machines import cpu


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_names_a_command_and_options_that_it_has(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = FLAGS[flag]
    module = importlib.import_module(COMMANDS[name][0])
    command = [name]
    if hasattr(module, "GROUP"):
        assert rest[0] in members(module.GROUP)
        command.append(rest[0])
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    for word in FLAGS[flag][len(command) :]:
        assert not word.startswith("--") or word in text


CASES = {
    "--estimate-time --hardware-profile a100-80gb": (
        "plan --show time --hardware-profile a100-80gb"
    ),
    "train --preset debug --estimate_parameters --detailed": (
        "plan --preset debug --show parameters --detailed"
    ),
    "--estimate-parameters --analyze-memory": ("plan --show parameters --show memory"),
    "doctor --dev-mode": "doctor --dev-mode",
    "train --steps 3": "train --steps 3",
    "generate runs/x --prompt -- --estimate-time": (
        "generate runs/x --prompt -- --estimate-time"
    ),
    "--unknown --steps 3": "--unknown --steps 3",
    "--preset debug --dry-run": "train --preset debug --dry-run",
    "train --dry-run --steps 3": "train --dry-run --steps 3",
}


@pytest.mark.parametrize(("written", "meant"), CASES.items())
def test_words_become_those_of_the_command(written: str, meant: str) -> None:
    assert translated(written.split()) == meant.split()


def test_two_commands_at_once_are_refused_by_name() -> None:
    with pytest.raises(LuminaError, match=r"E002.*--estimate-time.*--check-environ"):
        translated(["--estimate-time", "--check-environment"])


def test_nothing_behind_two_dashes_is_a_flag() -> None:
    words = ["train", "--", "--estimate-time"]
    assert translated(words) == words


@pytest.mark.covers("DIA-01: --check-environment", "DIA-01: --dev-mode")
def test_the_environment_is_checked_by_the_documents_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "probe", cpu)
    assert main(["--check-environment"]) == 0
    checked = capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.split("disk free")[0] in checked
    assert "pyarrow" in checked and "import-linter" not in checked
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert main(["--dev-mode"]) == 0
    more = capsys.readouterr().out
    assert "import-linter" in more and "commit" in more
    line = next(line for line in more.splitlines() if "NCCL_DEBUG" in line)
    assert line.split() == ["NCCL_DEBUG", "INFO"]


@pytest.mark.covers("DIA-09")
def test_data_is_validated_by_the_documents_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chats.jsonl"
    good = {"messages": [{"role": "user", "content": "Hi"}]}
    good["messages"].append({"role": "assistant", "content": "Hello"})
    file.write_text(json.dumps(good) + "\n" + '{"messages": 7}\n')
    assert main(["--validate-data", str(file), "--json"]) == 1
    flagged = json.loads(capsys.readouterr().out)
    assert main(["data", "validate", str(file), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == flagged
    assert flagged["documents"] == 1 and flagged["failed"]


def flags_of_all_commands() -> set[str]:
    """Every flag that some command declares, hyphens for underscores."""
    found: set[str] = set(FLAGS)
    for name, (path, *_) in COMMANDS.items():
        module = importlib.import_module(path)
        inner = [module]
        if hasattr(module, "GROUP"):
            inner = [importlib.import_module(m) for m in members(module.GROUP).values()]
        for one in inner:
            parser = Parser(prog=name)
            parser.add_everywhere()
            one.add_arguments(parser)
            found |= {word for a in parser._actions for word in a.option_strings}
    return {word.replace("_", "-") for word in found}


NOT_TAKEN = {
    "--persistent-workers": "refused with its reason: threads live as long as the run",
    "--dataset-chunk-size": "DAT-30 is open",
    "--num-nodes": "DST-13 is open: torchrun starts several machines",
    "--node-rank": "DST-13",
    "--master-addr": "DST-13",
    "--master-port": "DST-13",
}


@pytest.mark.thorough
def test_flags_that_the_rows_name_are_those_of_some_command() -> None:
    rows = Path(__file__).parents[2] / "docs" / "internal" / "spec_rows.tsv"
    text = rows.read_text()
    named = {
        flag.replace("_", "-") for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)
    }
    assert len(named) > 100
    assert named - flags_of_all_commands() == set(NOT_TAKEN)
