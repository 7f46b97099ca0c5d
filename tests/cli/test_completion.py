"""The completion of a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lumina.cli.command_words import all_commands
from lumina.cli.completion import SHELLS
from lumina.cli.main import COMMANDS, main
from lumina.config.leaves import choices
from lumina.config.sections import LEAVES


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "lumina.bash"
    path.write_text(SHELLS["bash"](all_commands()))
    return path


def completed(script: Path, folder: Path, *typed: str) -> list[str]:
    """What bash offers for the last of the words that were typed."""
    words = " ".join(f"'{word}'" for word in ("lumina", *typed))
    asked = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _lumina; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], cwd=folder, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "command not found" not in done.stderr, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_values_and_files(
    script: Path, tmp_path: Path
) -> None:
    (tmp_path / "story.txt").write_text("once")

    def offers(*typed: str) -> list[str]:
        return completed(script, tmp_path, *typed)

    assert set(offers("")) == set(COMMANDS)
    beginning = {name for name in COMMANDS if name.startswith("exp")}
    assert set(offers("exp")) == beginning
    assert offers("che") == ["checkpoints"]
    assert "rollback" in offers("checkpoints", "")
    assert offers("checkpoints", "rol") == ["rollback"]
    assert offers("config", "sch") == ["schema"]
    wanted = "--" + "learning_rate".replace("_", "-")
    assert wanted in offers("train", "--learning")
    assert set(offers("train", "--precision", "")) == set(choices("precision"))
    assert offers("train", "--precision", "=", "fp3") == ["fp32"]
    assert offers("train", "--train-data", "sto") == ["story.txt"]
    assert offers("--verbose", "train", "--train-data", "sto") == ["story.txt"]
    assert "--rebuild" in offers("runs", "list", "--re")
    assert "--rebuild" in offers("runs", "--re")
    assert offers("completion", "z") == ["zsh"]


def test_every_option_of_every_command_is_in_the_scripts(script: Path) -> None:
    train = next(one for one in all_commands() if one.words == ("train",))
    for leaf in LEAVES:
        assert f"--{leaf.replace('_', '-')}" in train.options, leaf
    text = SHELLS["fish"](all_commands())
    for leaf in ("learning_rate", "use_moe"):
        line = next(
            line
            for line in text.splitlines()
            if f"-l {leaf.replace('_', '-')} " in line and " train" in line
        )
        assert "-d '" in line
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_can_read_theirs(shell: str, tmp_path: Path, capsys) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "script"
    path.write_text(text)
    assert (
        "lumina" in text and "--learning-rate" in text
    ) or "-l learning-rate" in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", path], check=False).returncode == 0


def test_another_shell_is_refused(capsys) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "bash" in capsys.readouterr().err
