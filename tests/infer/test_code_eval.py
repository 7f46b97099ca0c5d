"""The task `code_eval`: what is said of programs that a model writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.known import code_eval
from lumina.infer.evaluation_tasks.records import read_questions
from lumina.infer.evaluation_tasks.results import TaskResult, result_of
from lumina.infer.evaluation_tasks.running import checked_options
from lumina.infer.evaluation_tasks.task import Shots
from lumina.measure.code import restricted
from tiny_runs import story

TWICE = {
    "task_id": "HumanEval/900",
    "prompt": "def twice(x):\n",
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
THREE = {
    "task_id": 3,
    "text": "Write a function that gives three.",
    "code": "def three():\n    return 3",
    "test_list": ["assert three() == 3"],
}


class Writer:
    """Stands in for a model: writes given answers, and notes what it was asked."""

    chat = False

    def __init__(self, *rounds: Sequence[str]) -> None:
        self.rounds = {number: list(each) for number, each in enumerate(rounds)}
        self.asked: list[dict[str, Any]] = []

    def answers(self, prompts: Sequence[str], **how: Any) -> list[SimpleNamespace]:
        self.asked.append({"prompts": list(prompts), **how})
        seed = how["sampling"].seed
        texts = self.rounds[0 if seed is None else seed - 1]
        return [SimpleNamespace(text=texts.pop(0)) for _ in prompts]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (TWICE, THREE)))
    return path


def judged(file: Path, model: Writer, **options: Any) -> TaskResult:
    task = code_eval.CodeEval(checked_options("code_eval", options))
    examples = read_questions(task, [str(file)]).examples
    return result_of(task, examples, task.measure(examples, model, Shots()))  # type: ignore[arg-type]


def values(result: TaskResult) -> dict[str, float]:
    return {name: figure.value for name, figure in result.figures.items()}


@pytest.mark.covers(
    "EVL-08", "EVL-04: compilation_success", "EVL-04: syntax_correctness"
)
def test_what_is_written_is_looked_at_and_not_run(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lumina.measure.code.scores.run_restricted", None)
    model = Writer(["    return eval(x)\n", "return 3"])
    result = judged(file, model)
    assert values(result) == {
        "syntax_correctness": 1.0,
        "compilation_success": 0.5,
        "insecure": 0.5,
    }
    first, second = (one["answers"][0] for one in result.examples)
    assert first["code"] == "def twice(x):\n    return eval(x)\n"
    assert first["insecure"] == [
        "line 2: eval (CWE-95), text is run as code by eval or exec"
    ]
    assert second["passed"] is None and "outside function" in second["reason"]
    stops = [asked["stop"] for asked in model.asked]
    assert stops[0][1] == "\ndef " and stops[1] == ("[DONE]",)
    assert all(asked["sampling"].greedy for asked in model.asked)


@pytest.mark.covers(
    "EVL-06: code execution tests in a restricted process",
    "EVL-04: test_passage",
    "EVL-04: efficiency_score",
)
def test_with_run_code_tests_decide(file: Path) -> None:
    try:
        restricted.check_restricted()
    except LuminaError as error:
        pytest.skip(error.message)
    right, wrong = "    return x + x\n", "    return x\n"
    model = Writer([right, "def three(): return 4"], [wrong, "def three(: 3"])
    result = judged(file, model, run_code="true", samples=2, seconds=60)
    found = values(result)
    assert 0 < found.pop("efficiency_score") <= 1
    assert found == {
        "pass@1": 0.25,
        "syntax_correctness": 0.75,
        "compilation_success": 0.75,
        "insecure": 0.0,
    }
    passed = [[a["passed"] for a in one["answers"]] for one in result.examples]
    assert passed == [[True, False], [False, False]]
    seeds = [asked["sampling"].seed for asked in model.asked]
    assert seeds == [1, 1, 2, 2], "another draw each time"


def test_a_system_that_does_not_protect_itself_is_refused_before_the_model_writes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restricted.sys, "platform", "darwin")
    model = Writer(["", ""])
    with pytest.raises(LuminaError, match="generated code is not run"):
        judged(file, model, run_code=True)
    assert not model.asked


def test_samples_that_are_all_the_same_are_refused(file: Path) -> None:
    with pytest.raises(LuminaError, match="same at temperature 0"):
        judged(file, Writer(), samples=2, temperature=0)


@pytest.mark.covers("EVL-02: code_eval")
def test_the_command_judges_what_a_model_writes(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a model of a run to the figures, with nothing in between replaced."""
    tokenizer = Tokenizer.train([story()], 300)
    network = tiny(tokenizer.vocab_size, seq_length=512).eval()
    run = write_run(tmp_path / "run", {1: network}, tokenizer)
    words = ["evaluate", str(run), "--tasks", f"code_eval={file}", "--json"]
    assert main([*words, "--task-option", "code_eval.tokens=4"]) == 0
    figures = json.loads(capsys.readouterr().out)["tasks"]["code_eval"]["figures"]
    assert set(figures) == {"syntax_correctness", "compilation_success", "insecure"}
    file.write_text(json.dumps(TWICE | {"test": 3}))
    assert main(words) != 0
    assert "'test' is 3, not a text" in capsys.readouterr().err
