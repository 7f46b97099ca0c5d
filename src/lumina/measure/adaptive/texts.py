"""The texts of the benchmark: pieces for training, held-out text, and what spoils them.

Tokens are bytes, so that a step of a run is a known piece of its text.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.measure.adaptive.scenario import BUDGET, LENGTH, ROWS, SEED, STEPS, Scenario

END = "<|endoftext|>"
VOCABULARY = 257
"""The bytes and `END`."""

BAD_LOSS, SPOILT = "\u00a7", "\u00b6"
"""Signs that a clean text lacks: the loss of a batch with the first is made not a
number; the second marks where other spoilt text begins, and does nothing."""

BAD_LOSS_ID, SPOILT_ID = BAD_LOSS.encode()[1], SPOILT.encode()[1]
"""Bytes, and so tokens, that tell them."""

DOCUMENT = ROWS * LENGTH - 1
"""Bytes of a document: with its end one step of the competent batch."""

EVALUATED = 32 * LENGTH
"""Bytes of held-out text that an evaluation reads."""

SPARE = 1.6
"""Text over the budget, for runs that leave some out."""

_PARTS = {"development": (0.0, 0.45, 0.9), "held-out": (0.45, 0.9, 0.95)}
"""Of the text: where a half's training text begins and ends, and its held-out text."""


def synthetic(length: int = 1_200_000, seed: int = SEED) -> str:
    """A text of invented words, of which each has few that may follow it."""
    draw = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = sorted(
        {"".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(600)}
    )
    draw.shuffle(words)
    next_words = {word: draw.choices(words, k=8) for word in words}
    weights = [1 / (rank + 1) for rank in range(8)]
    text: list[str] = []
    size, word = 0, words[0]
    while size < length:
        sentence = []
        for _ in range(draw.randint(4, 14)):
            word = draw.choices(next_words[word], weights)[0]
            sentence.append(word)
        line = " ".join(sentence).capitalize() + draw.choice(
            [".", ".", "?", ",\n", ".\n"]
        )
        text.append(line)
        size += len(line) + 1
    return " ".join(text)


def source(file: Path | None) -> str:
    """The text that all pieces are cut from: ASCII.

    Raises:
        LuminaError: E101 where the file is missing or too short.
    """
    if file is None:
        return synthetic()
    try:
        text = file.read_text(encoding="utf-8", errors="ignore")
    except OSError as error:
        raise LuminaError("E101", f"cannot read {file}", "name a text file") from error
    text = text.encode("ascii", "ignore").decode()
    least = int(BUDGET * SPARE / 0.4)
    if len(text) < least:
        raise LuminaError(
            "E101", f"{file} has {len(text):,} bytes", f"name one of {least:,} and more"
        )
    return text


def held_out_text(text: str, half: str) -> str:
    """Documents that no run of the half trains on."""
    first = int(len(text) * _PARTS[half][2])
    return END.join(_documents(text[first : first + EVALUATED]))


def training_text(text: str, scenario: Scenario) -> str:
    """The piece of a scenario, in the order in which it is read, with its faults."""
    low, high, _ = _PARTS[scenario.half]
    length = int(BUDGET * SPARE)
    room = int(len(text) * (high - low)) - length
    first = int(len(text) * low) + int(room * scenario.text_at)
    documents = _documents(text[first : first + length])
    for fault in scenario.faults:
        spoil = SPOILERS.get(fault["kind"])
        if spoil is None:
            continue
        at = round(fault["at"] * STEPS)
        draw = random.Random(f"{scenario.seed} {scenario.id}")
        for place in range(at, min(at + fault["steps"], len(documents))):
            documents[place] = spoil(documents[place], documents[at - 1], draw)
    return END.join(documents)


def _documents(text: str) -> list[str]:
    return [
        text[n : n + DOCUMENT] for n in range(0, len(text) - DOCUMENT + 1, DOCUMENT)
    ]


def _fill(unit: str) -> str:
    return (unit * (DOCUMENT // max(1, len(unit)) + 1))[: DOCUMENT - 2]


SPOILERS: Mapping[str, Callable[[str, str, random.Random], str]] = {
    "nan_batch": lambda document, before, draw: BAD_LOSS + document[2:],
    "repeated_words": lambda document, before, draw: SPOILT + _fill("of the end "),
    "noise": lambda document, before, draw: (
        SPOILT + "".join(draw.choices(string.printable[:94], k=DOCUMENT - 2))
    ),
    "same_document": lambda document, before, draw: (
        SPOILT + before.strip(SPOILT)[: DOCUMENT - 2]
    ),
    "other_text": lambda document, before, draw: SPOILT + document[2:].upper(),
}
"""Kind of fault -> what it makes of a document; the others act on the run."""


def tokenizer() -> dict[str, Any]:
    """A tokenizer.json of which each token is a byte, numbered as the byte is."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    byte_level = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
        "use_regex": False,
    }  # fmt: skip
    end = {
        "id": 256, "content": END, "single_word": False, "lstrip": False,
        "rstrip": False, "normalized": False, "special": True,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False,
            "vocab": {names[byte]: byte for byte in range(256)} | {END: 256},
            "merges": [],
        },
    }  # fmt: skip


def write_texts(folder: Path, text: str, scenario: Scenario) -> None:
    """Write train.txt, held-out.txt and tokenizer.json of a scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "train.txt", training_text(text, scenario).encode())
    write_file(folder / "held-out.txt", held_out_text(text, scenario.half).encode())
    write_file(folder / "tokenizer.json", json.dumps(tokenizer()).encode())
