"""One file outside the package adds an evaluation task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.asking import generate
from lumina.infer.evaluation_tasks.task import TASKS, EvaluationTask, register_task

TOY = Path(__file__).with_name("toy_evaluation_task.py")
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_page_shows_it() -> None:
    shown = f"# says_it.py\n{TOY.read_text().partition(chr(10) * 2)[2]}```"
    assert shown in PAGE.read_text()


def test_it_is_asked_listed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train(["a cat and a dog went to the hill " * 4], 270)
    run = write_run(
        tmp_path / "run", {1: tiny(tokenizer.vocab_size, seed=3)}, tokenizer
    )
    [answer] = generate(str(run), ["a cat"], max_new_tokens=3, temperature=0)
    data = tmp_path / "asked.jsonl"
    records = [
        {"question": "a cat", "word": answer[:1]},
        {"question": "a cat", "word": "no such word"},
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["evaluate", str(run), "--plugins", str(TOY), "--tasks", f"says_it={data}"]
    assert main([*words, "--task-option", "says_it.tokens=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["says_it"]
    assert found["figures"]["said"]["value"] == 0.5
    assert found["settings"]["tokens"] == 3
    written = json.loads((run / "evaluations" / "0001.json").read_text())
    assert [one["answer"] for one in written["tasks"]["says_it"]["examples"]] == [
        answer,
        answer,
    ]
    assert main(["evaluate", "--plugins", str(TOY), "--list-tasks"]) == 0
    assert "says_it.tokens=8" in capsys.readouterr().out
    assert main([*words, "--task-option", "says_it.tokens=0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_the_name_of_one_of_luminas_tasks_is_refused() -> None:
    with pytest.raises(LuminaError, match="E005"):

        @register_task
        class Mine(EvaluationTask):
            name = "mmlu"

    assert "mmlu" in TASKS.known()
