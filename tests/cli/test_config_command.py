"""`lumina config`: effective settings with their sources."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.config.sections import LEAVES


@pytest.mark.covers("CFG-15: effective configuration printed")
def test_explain_prints_every_leaf_with_value_and_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: debug\nlearning_rate: 3e-4\nseed: 5\n")
    words = ["--config-file", str(file), "--lr", "2e-4", "--seq-length", "300"]
    assert main(["config", "explain", *words]) == 0
    printed = capsys.readouterr()
    lines = {line.split()[0]: line for line in printed.out.splitlines() if line}
    assert set(LEAVES) <= set(lines)
    assert re.search(
        rf"0\.0002 +flag, overrides file {file}: 0\.0003$", lines["learning_rate"]
    )
    assert lines["seed"].endswith(f"file {file}")
    assert lines["hidden_size"].split()[1:] == ["128", "preset", "debug"]
    assert "seq_length 300 is not a power of two" in printed.err


def test_verbose_adds_the_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "explain", "--verbose"])
    assert "peak learning rate" in capsys.readouterr().out


def test_shown_settings_are_a_file_that_gives_the_same(tmp_path: Path) -> None:
    words = ["config", "show", "--preset", "b1", "--steps", "7", "--train-data", "a b"]
    done = subprocess.run(
        [sys.executable, "-m", "lumina", *words], capture_output=True, text=True
    )
    assert done.returncode == 0
    file = tmp_path / "shown.yaml"
    file.write_text(done.stdout)
    assert Config.load(file) == Config(preset="b1", steps=7, train_data=["a b"])
