"""The text that the architectures learn from: rows of books, as one array each.

    python benchmarks/architectures --prepare classic-books.tar.xz --data FOLDER

Every 18th book (by path) is held out. A byte-level BPE of `VOCABULARY` tokens is
trained on the others. A row is `SEQUENCE` + 1 neighbouring tokens of one book; what is
left at a book's end is dropped.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from shapes import SEQUENCE, VOCABULARY

HELD_OUT = 18


def prepare(archive: Path, folder: Path) -> dict[str, Any]:
    """Write train.npy and held_out.npy [rows, SEQUENCE + 1] uint16, and facts.json."""
    import numpy as np

    from lumina.data.tokenizer import Tokenizer

    books = read(archive)
    names = sorted(books)
    held_out = names[::HELD_OUT]
    seen = [n for n in names if n not in held_out]
    tokenizer = Tokenizer.train((books[n] for n in seen), VOCABULARY)
    assert tokenizer.vocab_size <= VOCABULARY
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"held_out_books": held_out, "books": len(books)}
    for part, chosen in (("train", seen), ("held_out", held_out)):
        rows, size = [], 0
        for name in chosen:
            ids = np.array(tokenizer.encode(books[name]), dtype=np.uint16)
            size += len(ids)
            whole = (len(ids) - 1) // SEQUENCE
            for r in range(whole):
                rows.append(ids[r * SEQUENCE : (r + 1) * SEQUENCE + 1])
        np.save(folder / f"{part}.npy", np.stack(rows))
        facts[f"{part}_rows"], facts[f"{part}_tokens"] = len(rows), size
        facts[f"{part}_bytes"] = sum(len(books[n].encode()) for n in chosen)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def read(archive: Path) -> dict[str, str]:
    """Path -> text of every file in the archive."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                found[member.name] = stream.read().decode("utf-8", errors="replace")
    return found
