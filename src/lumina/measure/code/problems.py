"""Problems in the forms of HumanEval and MBPP, and programs made of answers to them.

HumanEval: Chen et al. 2021 (arXiv:2107.03374), fields `task_id`, `prompt`,
`entry_point`, `test` and `canonical_solution`. MBPP: Austin et al. 2021
(arXiv:2108.07732), fields `task_id`, `text` (in the sanitized file `prompt`), `code`,
`test_list` and `test_setup_code` (there `test_imports`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(
    r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.S | re.I
)

STOPS_OF_COMPLETIONS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n```")
"""Where the completion of a function has ended (section 2.2 of Chen et al. 2021)."""

STOPS_OF_ANSWERS = ("[DONE]",)
"""Where an answer in the form of MBPP has ended (Austin et al. 2021, figure 1)."""


@dataclass(frozen=True)
class Problem:
    """A problem with its tests.

    Attributes:
        id: as the file calls it.
        prompt: what the model reads.
        completes: an answer goes on with the prompt, which is the beginning of the
            program; else it is a program itself.
        before: lines that the program begins with.
        tests: lines that follow it and fail where it is wrong.
        solution: a right answer in the form of answers; empty where there is none.
        stops: texts before which an answer ends.
    """

    id: str
    prompt: str
    completes: bool
    before: str
    tests: str
    solution: str
    stops: tuple[str, ...]


def problem_of(record: Mapping[str, Any]) -> Problem:
    """The problem of a record in one of the two forms.

    Raises:
        ValueError: a field is missing or has another type; says which.
    """
    if "entry_point" in record:
        return _human_eval(record)
    if "test_list" in record:
        return _mbpp(record)
    raise ValueError(
        "it has neither the field 'entry_point' of HumanEval nor 'test_list' of MBPP"
    )


def _human_eval(record: Mapping[str, Any]) -> Problem:
    prompt, test = _text(record, "prompt"), _text(record, "test")
    entry = _text(record, "entry_point")
    if not entry.isidentifier():
        raise ValueError(f"the field 'entry_point' is {entry!r}, not a name")
    solution = record.get("canonical_solution", "")
    return Problem(
        str(record.get("task_id", "")), prompt, True, "", f"{test}\ncheck({entry})\n",
        solution if isinstance(solution, str) else "", STOPS_OF_COMPLETIONS,
    )  # fmt: skip


def _mbpp(record: Mapping[str, Any]) -> Problem:
    text = _text(record, "prompt" if "prompt" in record else "text")
    tests = _lines(record, "test_list")
    if not tests:
        raise ValueError("the field 'test_list' is empty")
    setup = record.get("test_setup_code") or ""
    if not isinstance(setup, str):
        raise ValueError(f"the field 'test_setup_code' is {setup!r}, not a text")
    before = [*_lines(record, "test_imports"), *filter(None, [setup])]
    begin = "".join(f"{one}\n" for one in before)
    shown = "\n".join(tests)
    prompt = (
        f"You are an expert Python programmer, and here is your task: {text} Your code "
        f"should pass these tests:\n\n{shown}\n[BEGIN]\n"
    )
    solution = record.get("code", "")
    more = _lines(record, "challenge_test_list")
    return Problem(
        str(record.get("task_id", "")), prompt, False, begin,
        "\n".join([*tests, *more]) + "\n",
        solution if isinstance(solution, str) else "", STOPS_OF_ANSWERS,
    )  # fmt: skip


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the field {name!r} is {value!r}, not a text")
    return value


def _lines(record: Mapping[str, Any], name: str) -> list[str]:
    value = record.get(name) or []
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise ValueError(f"the field {name!r} is {value!r}, not a list of texts")
    return value


def code_of(problem: Problem, answer: str) -> str:
    """The program in an answer, without tests.

    The first block between ``` marks, where there is one: then the answer is a whole
    program, unless it only goes on with the prompt's function. Else all of it up to
    what ends an answer.
    """
    fenced = _FENCE.search(answer)
    if fenced is not None:
        answer = fenced[1]
    for stop in problem.stops:
        at = answer.find(stop)
        if fenced is None and at >= 0:
            answer = answer[:at]
    if not problem.completes:
        return answer
    whole = fenced is not None and not answer[:1].isspace()
    # The imports and helpers of the prompt stand before a whole function too.
    return (
        f"{problem.prompt}\n    pass\n\n{answer}" if whole else problem.prompt + answer
    )


def with_tests(problem: Problem, code: str, mark: str) -> str:
    """A program that ends with exit code 0, and prints a mark, if its tests pass.

    Args:
        problem: gives the tests.
        code: of the answer, as `code_of` gives it.
        mark: a text that the code cannot guess, so that one which only ends early has
            not passed.
    """
    return f"{problem.before}{code}\n\n{problem.tests}\nprint({mark!r})\n"
