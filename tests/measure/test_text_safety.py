"""Figures of generated texts: what is counted, and what a judge changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lumina
from lumina.errors import LuminaError
from lumina.measure.text_safety import judges
from lumina.measure.text_safety.figures import (
    LEAST_MENTIONS,
    bias_score,
    figures_of,
    toxic_rate,
    unsupported_rate,
)
from lumina.measure.text_safety.words import read_words

OWN = read_words(None)


@pytest.fixture(autouse=True)
def no_judge() -> Iterator[None]:
    """Words count, whatever plug-in was imported before; and afterwards it counts."""
    held = dict(judges.JUDGES)
    judges.JUDGES.clear()
    yield
    judges.JUDGES.clear()
    judges.JUDGES.update(held)


def texts(*written: str) -> list[tuple[str, str]]:
    return [("", one) for one in written]


def test_whole_phrases_are_found_in_any_case_and_across_lines() -> None:
    found = toxic_rate(
        texts("Shut\nUP!", "they shut upstairs windows", "", "I hate you"), OWN
    )
    assert (found.count, found.of, found.places) == (2, 4, (0, 3))
    assert toxic_rate([], OWN).value is None


def test_groups_are_compared_by_their_unfavourable_sentences() -> None:
    women = ["She is lazy."] * 4 + ["She sings."] * 6
    men = ["He is lazy!"] * 1 + ["His hat\nis on him."] * 9
    found = bias_score(texts(" ".join(women), *men), OWN)
    assert found.axis == "gender" and found.between == ("women", "men")
    assert found.groups["women"] == (4, 10) and found.groups["men"] == (1, 19)
    assert found.value == pytest.approx(4 / 10 - 1 / 19)


def test_a_sentence_about_both_groups_and_one_about_few_says_nothing() -> None:
    both = texts(*["She and he are lazy."] * 20, *["He sings."] * 20)
    assert bias_score(both, OWN).value is None
    few = texts(*["She is lazy."] * (LEAST_MENTIONS - 1), *["He sings."] * 20)
    assert bias_score(few, OWN).value is None
    assert bias_score([*few, ("", "She is lazy.")], OWN).value == 1.0


def test_details_are_those_that_the_prompt_does_not_have() -> None:
    found = unsupported_rate(
        [
            (
                "Ada has 3,5 kg of 12 apples",
                "and 12 pears of Ada, or 5 from John Smith",
            ),
            ("", "Nothing is named here. The end."),
        ]
    )
    assert (found.count, found.of, found.places) == (2, 4, (0,))
    assert unsupported_rate(texts("Nothing here")).value is None


def test_only_what_is_wanted_is_measured() -> None:
    found = figures_of(texts("I hate you"), OWN, bias=False, unsupported=False)
    assert set(found.to_dict()) == {"texts", "toxic_rate", "judges"}


def test_a_judge_takes_the_place_of_the_words() -> None:
    @lumina.register_text_judge("toxic")
    def long(pairs):  # type: ignore[no-untyped-def]
        return [None if not text else len(text) > 5 for _, text in pairs]

    found = figures_of(texts("I hate you", "short", ""), OWN, bias=False)
    rate = found.toxic_rate
    assert rate is not None and (rate.count, rate.of, rate.places) == (1, 2, (0,))
    assert found.judges == {"toxic": long.__qualname__}

    @lumina.register_text_judge("unfavourable")
    def of_men(pairs):  # type: ignore[no-untyped-def]
        return ["He" in text for _, text in pairs]

    lines = texts(*["She is lazy."] * 10, *["He is kind."] * 10)
    assert bias_score(lines, OWN).between == ("men", "women")

    @lumina.register_text_judge("unsupported")
    def few(pairs):  # type: ignore[no-untyped-def]
        return []

    with pytest.raises(LuminaError, match="gave 0 answers for 1 texts"):
        unsupported_rate(texts("3 apples"))
    with pytest.raises(LuminaError, match="nothing judges 'kind'"):
        lumina.register_text_judge("kind")  # type: ignore[arg-type]
    with pytest.raises(LuminaError, match="already judges 'toxic'"):
        lumina.register_text_judge("toxic")(few)


def test_a_part_of_the_lists_can_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[groups.age]\nyoung = ["young"]\nold = ["old", "aged"]\n')
    read = read_words(file)
    assert read.groups == {"age": {"young": ("young",), "old": ("old", "aged")}}
    assert read.toxic == OWN.toxic and read.source == str(file)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (b"toxic = [", "E101", "TOML"),
        (b"toxic = ['\xff']", "E103", "UTF-8"),
        (b"rude = ['x']", "E102", "'rude' is no part"),
        (b"toxic = 'x'", "E102", "toxic is not a list"),
        (b"toxic = [' ']", "E105", "toxic has no words"),
        (b"[groups]\nwomen = ['she']", "E102", "groups is not a table"),
        (b"[groups.x]\nwomen = ['she']", "E102", "groups is not a table"),
        (b"[groups.x]\nwomen = ['she']\nmen = 3", "E102", "groups.x.men is not"),
    ],
)
def test_a_file_that_is_no_list_is_refused(
    tmp_path: Path, text: bytes, code: str, said: str
) -> None:
    file = tmp_path / "own.toml"
    file.write_bytes(text)
    with pytest.raises(LuminaError) as caught:
        read_words(file)
    assert caught.value.code == code and said in str(caught.value)
