"""The error that ends some work is not replaced by what closing says after it."""

from __future__ import annotations

import gc
import weakref

import pytest

from lumina.cli.failures import report
from lumina.ending import at_end, closed_after, noted_on, take_all
from lumina.errors import LuminaError, OtherRankError


def fail(error: BaseException) -> None:
    raise error


GIVEN_UP = LuminaError("E303", "step-2 was not finished", "look at the events")


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (LuminaError("E005", "no such rate", "name another"), 2),
        (OtherRankError(1, "E106", "part.bin may not be read"), 1),
        (FileNotFoundError(2, "No such file or directory", "part.bin"), 1),
        (KeyError("unforeseen"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=["refusal", "other rank", "a file's", "unforeseen", "interrupted"],
)
def test_the_cause_is_told_and_what_closing_said_beside_it(
    cause: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = (lambda: fail(GIVEN_UP), lambda: fail(ValueError("of closing\nand more")))
    with pytest.raises(type(cause)) as found, closed_after(*steps):
        raise cause
    assert found.value is cause
    assert report(cause, debug=False, verbose=False) == code
    said = capsys.readouterr().err
    assert said.index("E303") > 0
    assert "  besides: E303 (damaged checkpoint): step-2 was not finished\n" in said
    assert "  besides: ValueError: of closing\n" in said
    assert "look at the events" not in said


def test_an_error_that_is_its_own_cause_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `raise coded(error) from error` makes one of an error that has a code."""
    error, other = LuminaError("E303", "not finished"), ValueError("before")
    error.__cause__, other.__cause__ = error, other
    assert report(error, debug=False, verbose=True) == 1
    assert capsys.readouterr().err.count("not finished") == 1
    error.__cause__ = other
    assert report(error, debug=False, verbose=True) == 1
    assert capsys.readouterr().err.count("because: ValueError: before") == 1


def test_without_another_error_closing_raises_its_own() -> None:
    done: list[int] = []
    with (
        pytest.raises(LuminaError, match="step-2") as found,
        closed_after(
            lambda: fail(LuminaError("E303", "step-2 was not finished")),
            lambda: fail(ValueError("second")),
            lambda: done.append(1),
        ),
    ):
        pass
    assert done == [1], "every step is taken"
    assert found.value.__notes__ == ["ValueError: second"]


def test_an_interruption_while_closing_comes_first_and_the_rest_is_closed() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        take_all(
            lambda: fail(ValueError()),
            lambda: fail(KeyboardInterrupt()),
            lambda: done.append(1),
        )
    with (
        pytest.raises(KeyboardInterrupt),
        closed_after(lambda: fail(KeyboardInterrupt())),
    ):
        raise ValueError
    assert done == [1]


def test_the_end_is_told_its_own_error_and_not_one_handled_around_it() -> None:
    told: list[BaseException | None] = []
    try:
        raise ValueError("handled by the caller")
    except ValueError:
        with at_end(told.append):
            pass
    cause = KeyError()
    with pytest.raises(KeyError), at_end(told.append):
        raise cause
    assert told == [None, cause]


def test_an_error_that_is_raised_again_is_no_note_on_itself() -> None:
    cause = ValueError()
    with noted_on(cause):
        raise cause
    assert not hasattr(cause, "__notes__")


def test_what_a_failed_step_held_is_freed_with_its_error() -> None:
    class Large:
        pass

    def failing() -> None:
        large = Large()
        held.append(weakref.ref(large))
        raise ValueError

    held: list[weakref.ref[Large]] = []
    gc.disable()
    try:
        with pytest.raises(ValueError) as found:
            take_all(failing)
        del found
        assert held[0]() is None, "nothing but a search of cycles would free it"
    finally:
        gc.enable()
