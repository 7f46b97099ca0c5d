"""How much memory a text takes that is compared for near duplicates, in bytes.

Texts of 5,000 invented words are shown to the check `near_duplicates`; what Python
holds more for each of them is counted by tracemalloc, so that no other program changes
the figure. Words themselves are remembered once for all texts, and are not counted.

    python benchmarks/compared_texts.py --texts 10000 --words 60 --out FILE
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from lumina.data.quality.check import Item, Options
from lumina.data.quality.checks.near_duplicates import NearDuplicates
from lumina.data.readers.reader import Document


def measure(texts: int, words: int, seed: int = 0) -> dict[str, Any]:
    """Bytes that the check holds for each text, after the first thousand."""
    drawn = random.Random(seed)
    vocabulary = ["".join(drawn.choices(ascii_lowercase, k=6)) for _ in range(5_000)]
    check = NearDuplicates(Options(near_documents=texts + 1000))
    before = 0
    for number in range(texts + 1000):
        if number == 1000:  # libraries are loaded, all words known, the index made
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
        text = " ".join(drawn.choices(vocabulary, k=words))
        check.see(Item(Document(text, None, "texts.txt", number), text))
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return {
        "texts": texts, "words": words, "compared": check.seen, "bytes": held,
        "bytes_a_text": held / texts,
    }  # fmt: skip


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    found |= measure(asked.texts, asked.words)
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
