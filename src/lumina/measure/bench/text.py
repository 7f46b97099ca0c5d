"""Generated text of any size, and the files that measurements of data read."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

DOCUMENT_BYTES = 2000
"""Of a document of a generated file, about; a web page's text is of this size."""

_SYLLABLES = (
    *("an", "be", "co", "de", "el", "fi", "ga", "ho", "in", "ju"),
    *("ka", "lo", "mi", "no", "or", "pe", "qua", "ri", "so", "ti"),
)


def generated_texts(
    seed: int = 0, document_bytes: int = DOCUMENT_BYTES
) -> Iterator[str]:
    """Documents without end, of invented words that occur as often as words do."""
    chance = random.Random(seed)
    words = [
        "".join(chance.choice(_SYLLABLES) for _ in range(chance.randint(1, 4)))
        for _ in range(20_000)
    ]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    pool = chance.choices(words, weights, k=400_000)
    while True:
        text, size = [], 0
        while size < document_bytes:
            at = chance.randrange(len(pool) - 12)
            sentence = " ".join(pool[at : at + 12]).capitalize() + ". "
            text.append(sentence)
            size += len(sentence)
        yield "".join(text)


def write_json_lines(path: Path, size: int) -> int:
    """Write a file of about `size` bytes; how many documents it has.

    A large file repeats a megabyte of text, with a number of its own in each document,
    so that no two are equal and writing is as fast as the disk.
    """
    texts, some = generated_texts(), 0
    parts: list[str] = []
    while some < min(size, 2**20):
        parts.append(next(texts))
        some += len(parts[-1])
    count = done = 0
    with open(path, "wb", buffering=2**22) as file:
        while done < size:
            line = json.dumps({"text": f"{count} {parts[count % len(parts)]}"}) + "\n"
            done += file.write(line.encode())
            count += 1
    return count


def write_archive(path: Path, files: int, file_bytes: int = 500) -> None:
    """Write a .tar of many small texts in a thousand folders."""
    texts = generated_texts(document_bytes=file_bytes)
    with tarfile.open(path, "w") as archive:
        for number in range(files):
            content = next(texts).encode()
            member = tarfile.TarInfo(f"{number % 1000:03}/{number:07}.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
