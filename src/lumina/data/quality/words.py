"""Words of a text as checks compare them, and phrases as numbers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Numbers = NDArray[np.uint64]


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=2**18)
def _number(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.crc32(data[::-1])


def numbers_of(words: Iterable[str]) -> Numbers:
    """A number that stands for each word, the same on every machine."""
    return np.fromiter(map(_number, words), dtype=np.uint64)


def phrases(numbers: Numbers, length: int) -> Numbers:
    """A number for every `length` words in a row; equal phrases have equal ones.

    Args:
        numbers: of the words.
        length: at least 1.
    """
    count = len(numbers) - length + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    found = np.zeros(count, dtype=np.uint64)
    for place in range(length):
        found *= _FACTOR
        found ^= found >> np.uint64(29)
        found += numbers[place : place + count]
    return found


def lengths_of(words: Sequence[str]) -> NDArray[np.int64]:
    """Letters of each word."""
    return np.fromiter(map(len, words), dtype=np.int64, count=len(words))
