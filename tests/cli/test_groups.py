"""Commands that consist of others."""

from __future__ import annotations

import pytest

from lumina.cli.groups import members
from lumina.cli.main import main


@pytest.mark.parametrize("name", members("lumina.cli.data_commands"))
def test_each_sub_command_of_data_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "--help"]) == 0
    assert f"  {name} " in capsys.readouterr().out
    assert main(["data", name, "--help"]) == 0
    assert f"usage: lumina data {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["data"], "E005", "show"),
        (["data", "shwo"], "E004", "lumina data show"),
        (["data", "show", "x.txt", "--indx", "1"], "E004", "--index"),
        (["data", "show"], "E005", "FILE"),
    ],
)
def test_wrong_sub_commands_are_coded(
    words: list[str], code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(code) and says in printed
