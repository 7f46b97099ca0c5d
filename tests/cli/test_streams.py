"""Commands that are started without some of the standard streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from infer.networks import tiny, write_run
from lumina.data.tokenizer import Tokenizer
from lumina.state.run_directory import RunDirectory
from training import DENSE, Trainings, start, words

CLOSE = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}


def lumina(folder, closing: str, *arguments: str):
    """A command in a shell that closes streams before the program starts."""
    script = f'exec "$@" {closing}'
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "lumina", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("closed", ["stdout", "stdin stdout stderr"])
def test_training_needs_no_standard_stream(tmp_path, tiny_corpus, closed):
    trainings = Trainings(tmp_path, tiny_corpus)
    run = trainings.train("r", *DENSE, "--steps", "3", CLOSED=closed)
    assert RunDirectory(run).finished
    assert "Traceback" not in trainings.output("r")


def test_a_closed_stderr_puts_no_remark_among_the_answers(tmp_path):
    tokenizer = Tokenizer.train(["the quick brown fox"] * 4, 320)
    network = tiny(tokenizer.vocab_size)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    wanted = words("--prompt the --max-new-tokens 2 --json")
    done = start(["generate", run, *wanted], tmp_path / "log", CLOSED="stderr")
    assert done.wait() == 0
    assert [json.loads(line)["prompt"] for line in done.output.splitlines()] == ["the"]


@pytest.mark.parametrize("name", CLOSE)
def test_small_commands_need_no_standard_stream(tmp_path, name):
    done = lumina(tmp_path, CLOSE[name], "presets")
    assert (done.returncode, done.stderr) == (0, "")
    failed = lumina(tmp_path, CLOSE[name], "nonsense")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr


def test_a_run_that_fails_while_it_is_built_is_marked_failed(
    tmp_path, lumina_cache, tiny_corpus, monkeypatch
):
    from lumina import ConfigPresets, Trainer
    from lumina.train import job

    def fails(*_):
        raise RuntimeError("no program")

    monkeypatch.setattr(job, "begin", fails)
    config = ConfigPresets.debug().replace(
        train_data=[str(tiny_corpus)], steps=1, run_dir=str(tmp_path / "r")
    )
    with pytest.raises(RuntimeError, match="no program"):
        Trainer(config).train()
    status = RunDirectory(tmp_path / "r").status()
    assert status is not None and status["status"] == "failed"
