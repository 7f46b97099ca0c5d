"""What is said of generated code: syntax, compilation, care, tests, efficiency."""

from __future__ import annotations

import ast
import secrets
import warnings
from dataclasses import dataclass, field

from lumina.measure.code.patterns import Found, insecure_patterns
from lumina.measure.code.problems import Problem, code_of, with_tests
from lumina.measure.code.restricted import Ended, Limits, run_restricted

MOST_CHARACTERS = 100_000
"""Of a program that is looked at; a longer one counts as none."""

LEAST_SECONDS = 0.01
"""Processor times below it are taken for it: they are mostly chance."""


@dataclass(frozen=True)
class Looked:
    """What can be said of a Python program without running it.

    Attributes:
        parses: it follows the grammar (`ast.parse`).
        compiles: it can also be translated to byte code (`compile`), which refuses
            such things as `return` outside of a function.
        error: the first reason why not; empty for none.
        insecure: its careless places; none are looked for where it does not parse.
    """

    parses: bool
    compiles: bool
    error: str = ""
    insecure: tuple[Found, ...] = ()


def look_at(code: str) -> Looked:
    """Parse and compile a program; nothing of it is run."""
    if len(code) > MOST_CHARACTERS:
        return Looked(False, False, f"it has more than {MOST_CHARACTERS:,} characters")
    failures = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of doubtful escapes and comparisons
        try:
            tree = ast.parse(code)
            found = tuple(insecure_patterns(tree))
        except failures as error:
            return Looked(False, False, _words(error))
        try:
            compile(code, "<answer>", "exec", dont_inherit=True)
        except failures as error:
            return Looked(True, False, _words(error), found)
    return Looked(True, True, "", found)


def _words(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Judged:
    """What one answer to a problem came to.

    Attributes:
        code: the program in it.
        looked: what can be said without running it.
        passed: its tests pass; None where it was not run.
        reason: why not; empty where they do, and where it was not run.
        cpu_seconds: that it took, less those of an empty program; None where it did
            not pass or was not run.
    """

    code: str
    looked: Looked
    passed: bool | None = None
    reason: str = ""
    cpu_seconds: float | None = None


@dataclass
class Judge:
    """Judges answers to problems.

    Attributes:
        run: whether to run them; else `passed` stays None.
        limits: of each run.
    """

    run: bool = False
    limits: Limits = field(default_factory=Limits)
    _start: float | None = None

    def judge(self, problem: Problem, answer: str) -> Judged:
        """Look at an answer, and run it with the problem's tests if that is wanted.

        Raises:
            LuminaError: E003 where it is to be run and the system does not protect
                itself (`run_restricted`).
        """
        code = code_of(problem, answer)
        looked = look_at(f"{problem.before}{code}")
        if not self.run:
            return Judged(code, looked)
        if not looked.compiles:
            return Judged(code, looked, False, looked.error)
        mark = secrets.token_hex(16)
        ended = run_restricted(with_tests(problem, code, mark), self.limits)
        passed = _passed(ended, mark)
        if passed:
            return Judged(code, looked, True, "", self._net(ended))
        early = ended.status == "ok"
        reason = "it ended before its tests did" if early else ended.reason
        return Judged(code, looked, False, reason)

    def reference_seconds(self, problem: Problem) -> float | None:
        """The processor time of the problem's own solution.

        Returns:
            None where nothing is run, where there is no solution, or where it fails.
        """
        if not (self.run and problem.solution):
            return None
        return self.judge(problem, problem.solution).cpu_seconds

    def _net(self, ended: Ended) -> float:
        if self._start is None:
            self._start = run_restricted("", self.limits).cpu_seconds or 0.0
        return max((ended.cpu_seconds or 0.0) - self._start, 0.0)


def _passed(ended: Ended, mark: str) -> bool:
    """The mark is the last line, and the program ended well."""
    return ended.status == "ok" and ended.stdout.splitlines()[-1:] == [mark]


def efficiency(seconds: float, reference: float) -> float:
    """How fast a program is beside the problem's own solution: 1 is as fast or faster.

    Args:
        seconds: of the processor, of the program with its tests.
        reference: of the solution with the same tests.

    Returns:
        reference / seconds, at most 1; both are at least `LEAST_SECONDS`.
    """
    return min(1.0, max(reference, LEAST_SECONDS) / max(seconds, LEAST_SECONDS))
