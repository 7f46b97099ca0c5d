"""Programs that a model writes: looked at, and run with their tests where asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lumina.data.records import BadRecord
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.subject import GREEDY, Subject
from lumina.infer.evaluation_tasks.task import (
    EvaluationTask,
    Example,
    Metric,
    Outcome,
    Shots,
    register_task,
)
from lumina.infer.sampling import Sampling
from lumina.measure.code.pass_at_k import pass_at_k
from lumina.measure.code.problems import Problem, problem_of
from lumina.measure.code.restricted import Limits, check_restricted
from lumina.measure.code.scores import Judge, Judged, efficiency
from lumina.optim.declared import Option

DRAWS = (1, 10, 100)
"""The k of pass@k; those above the number of answers are left out."""


@register_task
class CodeEval(EvaluationTask):
    """Answers are looked at, and run with their tests only where that is asked for."""

    name = "code_eval"
    words = (
        "Python programs: HumanEval, MBPP and problems of that form; they are looked "
        "at, and run in a restricted process only with code_eval.run_code=true"
    )
    source = (
        "Chen et al. 2021 (arXiv:2107.03374, github.com/openai/human-eval), Austin et "
        "al. 2021 (arXiv:2108.07732)"
    )
    record = (
        "prompt, entry_point and test, as in HumanEval, or text (or prompt) and "
        "test_list, as in MBPP; a solution in canonical_solution or code"
    )
    metrics = (
        *(
            Metric(f"pass@{k}", f"chance that one of {k} answers passes its tests")
            for k in DRAWS
        ),
        Metric("syntax_correctness", "share of answers that follow Python's grammar"),
        Metric("compilation_success", "share of answers that compile to byte code"),
        Metric(
            "efficiency_score",
            "processor time of the problem's solution over that of the answer, at "
            "most 1, of answers that pass",
        ),
        Metric("insecure", "share of answers with a careless pattern", False),
    )
    options: ClassVar[Mapping[str, Option]] = {
        "run_code": Option(False),
        "samples": Option(1, least=1),
        "temperature": Option(0.8, least=0.0),
        "seed": Option(1, least=0),
        "tokens": Option(256, least=1),
        "seconds": Option(10.0, least=0.1),
    }

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Problem]:
        """A problem in one of the two forms."""
        try:
            return "", problem_of(record)
        except ValueError as error:
            raise BadRecord("E102", str(error)) from None

    def measure(
        self, examples: Sequence[Example], model: Subject, shots: Shots
    ) -> list[Outcome]:
        """Let the model write, and judge what it wrote.

        Raises:
            LuminaError: E003 where answers are to be run and this system does not
                protect itself.
        """
        given, runs = self.settings, bool(self.settings["run_code"])
        if given["samples"] > 1 and not given["temperature"]:
            raise LuminaError(
                "E005",
                "all samples are the same at temperature 0",
                "give code_eval.temperature=0.8, or leave code_eval.samples out",
            )
        if runs:
            check_restricted()  # before the model has written for hours
        limits = Limits(
            seconds=given["seconds"], cpu_seconds=int(-(-given["seconds"] // 1))
        )
        judge = Judge(runs, limits)
        problems: list[Problem] = [example.content for example in examples]
        rounds = [
            self._answers(model, problems, number) for number in range(given["samples"])
        ]
        found = []
        for problem, answers in zip(problems, zip(*rounds, strict=True), strict=True):
            judged = [judge.judge(problem, answer) for answer in answers]
            found.append(_outcome(problem, judged, judge))
        return found

    def _answers(
        self, model: Subject, problems: Sequence[Problem], number: int
    ) -> list[str]:
        """One answer to each problem: the likeliest; where there are several, drawn."""
        given, sampling = self.settings, GREEDY
        if given["samples"] > 1:
            sampling = Sampling(
                temperature=given["temperature"], top_k=0, top_p=0.95,
                seed=given["seed"] + number,
            )  # fmt: skip
        found = [""] * len(problems)
        for stops in dict.fromkeys(problem.stops for problem in problems):
            places = [at for at, one in enumerate(problems) if one.stops == stops]
            answers = model.answers(
                [problems[at].prompt for at in places],
                max_new_tokens=given["tokens"],
                # In a conversation remarks stand before the code: nothing ends it.
                stop=() if model.chat else stops,
                sampling=sampling,
            )
            for at, answer in zip(places, answers, strict=True):
                found[at] = answer.text
        return found


def _outcome(problem: Problem, judged: Sequence[Judged], judge: Judge) -> Outcome:
    """The figures of one problem, as means over its answers."""
    count = len(judged)
    values = {
        "syntax_correctness": sum(one.looked.parses for one in judged) / count,
        "compilation_success": sum(one.looked.compiles for one in judged) / count,
        "insecure": sum(bool(one.looked.insecure) for one in judged) / count,
    }
    if judge.run:
        passed = sum(bool(one.passed) for one in judged)
        values |= {f"pass@{k}": pass_at_k(count, passed, k) for k in DRAWS
                   if k <= count}  # fmt: skip
        times = [one.cpu_seconds for one in judged if one.cpu_seconds is not None]
        reference = judge.reference_seconds(problem) if times else None
        if reference is not None:
            scores = [efficiency(seconds, reference) for seconds in times]
            values["efficiency_score"] = sum(scores) / len(scores)
    answers = [
        {
            "code": one.code,
            "passed": one.passed,
            "reason": one.reason or one.looked.error,
            "insecure": [f"line {x.line}: {x.name} (CWE-{x.cwe}), {x.text}"
                         for x in one.looked.insecure],
        }
        for one in judged
    ]  # fmt: skip
    return Outcome(values, {"question": problem.prompt, "problem": problem.id,
                            "answers": answers})  # fmt: skip
