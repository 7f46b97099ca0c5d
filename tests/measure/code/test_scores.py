"""Answers to programming problems: read, judged, counted."""

import itertools
import random

import pytest

from lumina.errors import LuminaError
from lumina.measure.code import restricted, scores
from lumina.measure.code.pass_at_k import mean_pass_at_k, pass_at_k
from lumina.measure.code.problems import Problem, code_of, problem_of
from lumina.measure.code.restricted import Ended, Limits
from lumina.measure.code.scores import Judge, efficiency, look_at

HUMAN_EVAL = {
    "task_id": "HumanEval/900",
    "prompt": 'import math\n\ndef twice(x):\n    """Two times x."""\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n"
    "    assert candidate(math.inf) == math.inf\n",
}
MBPP = {
    "task_id": 900,
    "text": "Write a function to double a number.",
    "code": "def twice(x):\n    return 2 * x",
    "test_list": ["assert twice(3) == six", "assert twice(0) == 0"],
    "test_setup_code": "six = 6",
    "challenge_test_list": ["assert twice(-1) == -2"],
}


@pytest.fixture(scope="module")
def running() -> Judge:
    try:
        restricted.check_restricted()
    except LuminaError as error:
        pytest.skip(error.message)
    return Judge(run=True)


@pytest.mark.covers("EVL-04: test_passage")
def test_pass_at_k_is_the_share_of_all_draws_with_a_right_answer() -> None:
    chance = random.Random(5)
    for _ in range(30):
        answers = chance.randint(1, 9)
        passed, k = chance.randint(0, answers), chance.randint(1, answers)
        right = [True] * passed + [False] * (answers - passed)
        draws = list(itertools.combinations(right, k))
        share = sum(map(any, draws)) / len(draws)
        assert pass_at_k(answers, passed, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_of_problems_is_their_mean_or_unknown() -> None:
    assert mean_pass_at_k([(4, 1), (4, 4)], 1) == pytest.approx(0.625)
    assert mean_pass_at_k([(4, 1), (2, 2)], 3) is None
    assert mean_pass_at_k([], 1) is None
    assert pass_at_k(5000, 1, 2500) == pytest.approx(0.5)
    for wrong in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError):
            pass_at_k(*wrong)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("    return 2 * x\n\ndef other(): pass", "    return 2 * x\n"),
        ("    return 2 * x\n# next", "    return 2 * x"),
        ("Here:\n```python\n    return x + x\n```\nDone", "    return x + x"),
    ],
)
def test_a_completion_ends_where_its_function_does(answer: str, code: str) -> None:
    assert code_of(problem_of(HUMAN_EVAL), answer) == HUMAN_EVAL["prompt"] + code


@pytest.mark.parametrize(
    ("record", "answer", "passes"),
    [
        (HUMAN_EVAL, HUMAN_EVAL["canonical_solution"], True),
        (HUMAN_EVAL, "```python\ndef twice(x):\n    return x + x\n```", True),
        (HUMAN_EVAL, "    return 3 * x\n", "AssertionError"),
        (HUMAN_EVAL, "    return 2 *\n", "line 5: invalid syntax"),
        (HUMAN_EVAL, "    raise SystemExit(0)\n", "ended before its tests"),
        (HUMAN_EVAL, "    while 1: pass\n", "did not end in time"),
        (MBPP, f"{MBPP['code']}\n[DONE]\n[BEGIN]", True),
        (MBPP, "def twice(x): return abs(2 * x)", "AssertionError"),
    ],
)
@pytest.mark.covers("EVL-04: test_passage")
def test_an_answer_passes_by_its_tests_alone(
    running: Judge, record: dict[str, object], answer: str, passes: bool | str
) -> None:
    judge = Judge(run=True, limits=Limits(seconds=2 if "while" in answer else 60))
    judged = judge.judge(problem_of(record), answer)
    if passes is True:
        assert judged.passed is True and not judged.reason
        assert judged.cpu_seconds is not None and judged.cpu_seconds >= 0
    else:
        assert judged.passed is False and str(passes) in judged.reason


def test_nothing_is_run_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "run_restricted", None)
    judged = Judge().judge(problem_of(MBPP), "def twice(x): return x")
    assert judged.looked.compiles and judged.passed is None
    assert Judge().reference_seconds(problem_of(MBPP)) is None


def test_a_mark_that_is_not_the_last_line_passes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ended(source: str, limits: Limits) -> Ended:
        mark = source.rsplit("'", 2)[1]
        return Ended("ok", 0, f"{mark}\nmore\n", "", 1.0, 0.1, 1)

    monkeypatch.setattr(scores, "run_restricted", ended)
    assert Judge(run=True).judge(problem_of(MBPP), "x = 1").passed is False


@pytest.mark.covers("EVL-04: syntax_correctness", "EVL-04: compilation_success")
def test_what_parses_and_what_compiles() -> None:
    for code, parses, compiles in (
        ("x = 1", True, True),
        ("return 1", True, False),
        ("for x in 1: pass\nbreak", True, False),
        ("def f(a, a): pass", True, False),
        ("x = = 1", False, False),
        ("x = '\0'", False, False),
        ("(" * 9999, False, False),
        ("-" * 90_000 + "1", False, False),
        ("x" * 100_001, False, False),
    ):
        looked = look_at(code)
        assert (looked.parses, looked.compiles) == (parses, compiles), code[:20]
        assert bool(looked.error) != compiles


def test_careless_places_of_an_answer_are_told() -> None:
    assert [one.name for one in look_at("eval(input())").insecure] == ["eval"]
    assert look_at("eval(input())\n)").insecure == ()


@pytest.mark.covers("EVL-04: efficiency_score")
def test_efficiency_is_the_share_of_the_solutions_time() -> None:
    assert efficiency(2.0, 1.0) == 0.5
    assert efficiency(1.0, 2.0) == 1.0
    assert efficiency(0.001, 0.0001) == 1.0, "too short to tell"
    assert efficiency(0.04, 0.0) == 0.25


def test_the_start_of_the_interpreter_is_no_time_of_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ended(source: str, limits: Limits) -> Ended:
        if not source:
            return Ended("ok", 0, "", "", 1.0, 0.25, 1)
        mark = source.rsplit("'", 2)[1]
        return Ended("ok", 0, f"{mark}\n", "", 1.0, 0.75, 1)

    monkeypatch.setattr(scores, "run_restricted", ended)
    judge = Judge(run=True)
    assert judge.reference_seconds(problem_of(MBPP)) == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "'prompt' is None"),
        ({"entry_point": "a b"}, "'entry_point' is 'a b'"),
        ({"test": 3}, "'test' is 3"),
    ],
)
def test_a_record_without_its_fields_is_named(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        problem_of(HUMAN_EVAL | change)


def test_a_record_of_no_form_is_named() -> None:
    for record, said in (
        ({"question": "?"}, "neither the field"),
        (MBPP | {"test_list": []}, "'test_list' is empty"),
        (MBPP | {"test_list": [1]}, "not a list of texts"),
        (MBPP | {"test_setup_code": 1}, "'test_setup_code' is 1"),
    ):
        with pytest.raises(ValueError, match=said):
            problem_of(record)


def test_the_sanitized_form_of_mbpp() -> None:
    record = {
        "task_id": 2, "prompt": "Write it.", "code": "x = 1",
        "test_imports": ["import math"], "test_list": ["assert math.pi > 3"],
    }  # fmt: skip
    problem = problem_of(record)
    assert isinstance(problem, Problem) and problem.before == "import math\n"
    assert "here is your task: Write it. Your code" in problem.prompt
    assert "assert math.pi > 3" in problem.prompt
