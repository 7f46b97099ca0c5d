"""Situations that users of other trainers report, tried here.

docs/internal/field-cases.md lists them all, with where each was reported. Those that
have a place of their own are tested there; these are the others.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from foreign_tokenizers import foreign_tokenizer
from infer.networks import tiny, write_run
from lumina.batch import IGNORE
from lumina.cli.main import main
from lumina.config import Config
from lumina.data.packed_stream import BatchStream
from lumina.data.prepare import prepare
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError, shell_path
from tiny_runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox and the lazy dog"] * 4, 320)


def next_words(printed: str) -> list[str]:
    """The command that the end of a run proposes, as a shell understands it."""
    (line,) = [x for x in printed.splitlines() if x.split()[:1] == ["next"]]
    return shlex.split(line)[1:]


def test_a_run_named_like_an_option_has_a_hint_that_can_be_copied(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    made = runs.train(run_dir="-first", steps=1)
    words = next_words(made.printed)
    assert words[:3] == ["lumina", "generate", "./-first"]
    assert main([*words[1:], "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.startswith("Once")


@pytest.mark.parametrize("message", ["", "  \n"])
def test_an_empty_message_is_no_answered_one(
    tmp_path: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
    message: str,
) -> None:
    """It comes of a variable that the shell does not know; nothing was said to it."""
    tokenizer = tokenizer.with_chat()
    network = tiny(tokenizer.vocab_size)
    run = str(write_run(tmp_path / "run", {1: network}, tokenizer))
    assert main(["chat", run, "--message", message]) == 1
    assert "E105" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "word"),
    [("a/b", "a/b"), ("a b", "'a b'"), ("-a", "./-a"), (Path("it's"), "'it'\"'\"'s'")],
)
def test_paths_in_advice_are_words_of_a_shell(path: Any, word: str) -> None:
    assert shell_path(path) == word


def test_the_hints_of_import_can_be_copied(
    tmp_path: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "run", {1: tiny(tokenizer.vocab_size)}, tokenizer)
    assert main(["export", str(run), "their model"]) == 0
    capsys.readouterr()
    assert main(["import", "their model", "my run"]) == 0
    said = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line.removeprefix("next:")) for line in said[-2:]]
    assert commands[0][:3] == ["lumina", "generate", "my run"]
    assert commands[1][:4] == ["lumina", "train", "--init-from", "my run"]


def test_a_seed_that_generation_would_refuse_is_refused_at_once() -> None:
    """It was, but only when the trained model was to speak at the end."""
    assert Config(seed=2**63 - 1).train.seed == 2**63 - 1
    with pytest.raises(LuminaError, match="E005") as caught:
        Config(seed=2**63)
    assert "seed" in caught.value.message


def test_one_row_is_said_to_be_one(runs: Runs) -> None:
    runs.data.write_text("Only one document, and it is short.")
    made = runs.train(steps=1)
    said = " ".join(made.printed.split())
    assert "the data is 1 row, less than the 4 of one step" in said


def test_a_run_that_holds_nothing_out_promises_no_evaluation(runs: Runs) -> None:
    held_out = runs.train(steps=1)
    nothing = runs.train(steps=1, eval_fraction=0.0, eval_every_n_batches=1)
    (kept,) = [x for x in nothing.printed.splitlines() if x.split()[:1] == ["keeps"]]
    assert "no evaluation" in kept
    assert "no evaluation" not in held_out.printed and held_out.column("eval_loss")
    assert not nothing.column("eval_loss")


def test_a_training_may_run_in_a_thread(runs: Runs) -> None:
    """Notebooks and web pages start one there, where no signal can be heeded."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(runs.train(steps=2)))
    thread.start()
    thread.join(120)
    assert made and len(made[0].rows) == 2


def test_a_learning_rate_named_on_resume_is_obeyed(runs: Runs) -> None:
    """Others load the schedule with the optimizer, and the new rate does nothing."""
    first = runs.train(steps=2, learning_rate=3e-3)
    again = runs.train(
        resume=str(first.folder), run_dir=None, steps=4, learning_rate=1e-4
    )
    assert again.column("learning_rate") == pytest.approx([3e-3, 3e-3, 1e-4, 1e-4])


def test_how_often_is_evaluated_does_not_change_the_training(runs: Runs) -> None:
    """Where both draw from one source of random numbers, it does."""
    options = {"dropout": 0.2, "steps": 4, "save_every_n_batches": 2}
    often = runs.train(eval_every_n_batches=1, **options)
    never = runs.train(eval_every_n_batches=0, **options)
    assert len(often.column("eval_loss")) == 4
    assert often.column("loss") == never.column("loss")


def test_lost_checkpoints_are_missed(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older one, or a fresh start, took their place without a word."""
    options = {"steps": 4, "save_every_n_batches": 2, "eval_every_n_batches": 0}
    whole = runs.train(**options).folder
    lost = whole / "checkpoints" / "step-00000004"
    shutil.rmtree(lost)
    assert main(["generate", str(whole), "--prompt", "a", "--max-new-tokens", "1"]) == 0
    assert "step-00000004, the newest checkpoint, is not" in capsys.readouterr().err
    assert main(["generate", str(whole), "--best", "--prompt", "a"]) == 1
    assert "the best checkpoint of" in capsys.readouterr().err
    again = runs.train(resume=str(whole), run_dir=None, steps=5)
    told = [e for e in again.events if e["kind"] == "checkpoint_refused"]
    assert [e["severity"] for e in told] == ["warning"]
    shutil.rmtree(whole / "checkpoints")
    rows = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(LuminaError, match="E303") as caught:
        runs.train(run_dir=str(whole), auto_resume=True, **options)
    assert "had checkpoints, the last of step 5" in caught.value.message
    assert (whole / "metrics.jsonl").read_bytes() == rows


@pytest.mark.parametrize("padded_with_end", [True, False])
def test_the_end_of_a_text_is_learned_where_it_also_pads(
    tmp_path: Path, padded_with_end: bool
) -> None:
    """Others leave every padding token out of the loss: a model that never stops."""
    folder = foreign_tokenizer("never", tmp_path / "tokenizer")
    names = folder / "tokenizer_config.json"
    pad = "</s>" if padded_with_end else "<unk>"
    names.write_text(json.dumps(json.loads(names.read_text()) | {"pad_token": pad}))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"text": "text {n}"}}\n' for n in range(5)))
    config = Config(train_data=[data], tokenizer=str(folder), eval_fraction=0.0)
    prepared = prepare(config)
    stream = BatchStream(
        prepared.train, seq_length=64, global_batch_size=4, seed=0, epochs=1
    )
    step = stream.step(stream.start, micro_batch_size=4)
    assert step is not None
    labels = torch.cat([batch.labels.flatten() for batch in step.micro_batches])
    (end,) = prepared.tokenizer.stop_ids
    assert int((labels == end).sum()) == 5 and bool((labels == IGNORE).any())


def test_generation_leaves_torch_as_it_was(tokenizer: Tokenizer) -> None:
    """Its random numbers and its gradients: a training may go on around it."""
    model = (tiny(tokenizer.vocab_size), tokenizer)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    lumina.generate(model, "the", max_new_tokens=3, seed=1)
    lumina.generate(model, "the", max_new_tokens=3)
    assert torch.equal(torch.rand(4), expected) and torch.is_grad_enabled()


def test_the_tests_that_the_list_names_are_there() -> None:
    tests = Path(__file__).parents[1]
    listed = (tests.parent / "docs/internal/field-cases.md").read_text()
    named = re.findall(r"`((?:\w+/)+\w+\.py)(?:::(\w+))?`", listed)
    assert len(named) > 80
    for file, name in named:
        assert f"def {name}" in (tests / file).read_text(), f"{file}::{name}"
