"""Needles in a haystack: a fact in a long text, and a question for it at the end.

The fact is a number of a name, drawn at random, so nothing but the text can tell it
(Kamradt, 2023; the passkey of Mohtashami and Jaggi, 2023, arXiv:2305.16300). Texts to
train on hold several facts and questions; a test holds one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Encode = Callable[[str], list[int]]

NAMES = (
    "owl", "fox", "hen", "cat", "dog", "bee", "elk", "ant", "cow", "bat", "eel", "yak",
)  # fmt: skip

FILLER = (
    "The grass is green and the sky is blue.",
    "A boat went down the river to the sea.",
    "In the evening the lamps were lit again.",
    "Nobody came along the road that day.",
    "The wind was cold but the house was warm.",
    "They had bread and cheese under the tree.",
)
"""Of haystacks that no data is named for."""

DIGITS = 4


def fact(name: str, number: str) -> str:
    """A sentence that tells a number."""
    return f"The secret number of the {name} is {number}."


def question(name: str) -> str:
    """The beginning of the same sentence, which the number continues."""
    return f"The secret number of the {name} is"


def _number(draw: random.Random) -> str:
    return "".join(draw.choice("0123456789") for _ in range(DIGITS))


def training_turns(
    count: int, words: int, facts: int, seed: int, asked: int = 1
) -> Iterator[list[tuple[str, str]]]:
    """Texts that are solved by looking back, as what is given and what answers it.

    Args:
        count: of texts.
        words: of a text, about.
        facts: of a text, which are asked for at its end, in another order.
        seed: of names, numbers, places and filler.
        asked: times that each of them is.

    Yields:
        (what comes before a number that is asked for, the number), in their order; one
        after the other they are the text.
    """
    draw = random.Random(seed)
    for _ in range(count):
        told = [(name, _number(draw)) for name in draw.sample(NAMES, facts)]
        sentences: list[str] = []
        left = words - 8 * facts * (1 + asked)
        while left > 0:
            sentences.append(draw.choice(FILLER))
            left -= len(sentences[-1].split())
        for name, number in told:
            sentences.insert(draw.randint(0, len(sentences)), fact(name, number))
        questions = told * asked
        draw.shuffle(questions)
        before = " ".join(sentences)
        turns = []
        for name, number in questions:
            turns.append((f"{before} {question(name)}", f" {number}."))
            before = ""
        yield turns


def training_texts(
    count: int, words: int, facts: int, seed: int, asked: int = 1
) -> Iterator[str]:
    """The same as whole texts; see `training_turns`."""
    for turns in training_turns(count, words, facts, seed, asked):
        yield "".join(part for turn in turns for part in turn)


@dataclass(frozen=True)
class Needle:
    """A row of a test.

    Attributes:
        ids: tokens of the haystack with its fact, the question, and the answer but for
            its last token.
        answer: the tokens of the number, which the last `len(answer)` places predict.
        depth: share of the haystack before the fact.
    """

    ids: list[int]
    answer: list[int]
    depth: float


def needle(
    encode: Encode,
    begin: Sequence[int],
    hay: Sequence[int],
    length: int,
    depth: float,
    seed: int,
) -> Needle | None:
    """One row with a fact at a depth; None where the row is too short for it.

    Args:
        encode: text to tokens, without what begins a text.
        begin: tokens that begin every text.
        hay: tokens of the haystack, which is taken from its beginning.
        length: tokens of the row.
        depth: share of the haystack before the fact.
        seed: of the name and the number.
    """
    draw = random.Random(seed)
    name, number = draw.choice(NAMES), _number(draw)
    told = encode(f" {fact(name, number)}")
    asked, whole = encode(f" {question(name)}"), encode(f" {question(name)} {number}")
    same = 0  # the number may change how the question's end is divided
    while same < len(asked) and asked[same] == whole[same]:
        same += 1
    room = length - len(begin) - len(told) - len(whole) + 1
    if room < 0 or room > len(hay):
        return None
    before = round(depth * room)
    ids = [*begin, *hay[:before], *told, *hay[before:room], *whole[:-1]]
    return Needle(ids, whole[same:], depth)


def filler(encode: Encode, tokens: int, seed: int) -> list[int]:
    """A haystack of invented sentences, of this many tokens."""
    draw, hay = random.Random(seed), list[int]()
    while len(hay) < tokens:
        hay += encode(f" {draw.choice(FILLER)}")
    return hay[:tokens]
