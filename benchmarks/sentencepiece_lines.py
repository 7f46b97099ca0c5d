"""Lines of which a model of SentencePiece gives other ids here than its own program.

Models are trained on the lines themselves, each type with and without a rule that
normalises, and models of a file are added where they are named. Every line of the
translations of the declaration of human rights in UTF-8 (udhr.zip of NLTK) is encoded
by both programs.

    python benchmarks/sentencepiece_lines.py --texts udhr.zip --out FILE
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sentencepiece

from lumina.data.tokenizer import Tokenizer

TRAINED = [
    (kind, rule)
    for kind in ("bpe", "unigram")
    for rule in ("identity", "nfkc", "nmt_nfkc", "nmt_nfkc_cf")
]


def lines_of(archive: Path) -> tuple[int, list[str]]:
    """How many files there are in UTF-8, and their lines that are not blank."""
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if name.endswith("-UTF8")]
        texts = [files.read(name).decode("utf-8", "ignore") for name in names]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return len(names), [line for line in lines if line]


def trained(folder: Path, kind: str, rule: str, lines: list[str]) -> Path:
    """The file of a small model of these lines."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type=kind,
        normalization_rule_name=rule, byte_fallback=True, vocab_size=8000,
        character_coverage=0.9995, hard_vocab_limit=False, minloglevel=2,
        num_threads=1,
    )  # fmt: skip
    path = folder / kind / rule / "tokenizer.model"
    path.parent.mkdir(parents=True)
    path.write_bytes(written.getvalue())
    return path


def compare(path: Path, lines: list[str]) -> dict[str, Any]:
    """How many lines differ, the first of them, and what Lumina says of the model."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mine = Tokenizer.from_path(path)
    other = [line for line in lines if mine.encode(line) != theirs.encode(line)]
    return {"lines": len(lines), "differ": len(other), "first": other[:3],
            "notes": list(mine.notes)}  # fmt: skip


def main() -> None:
    """Print a line for each model, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    files, lines = lines_of(asked.texts)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for kind, rule in TRAINED:
            path = trained(Path(place), kind, rule, lines)
            found[f"{kind}, {rule}"] = compare(path, lines)
        for path in asked.models:
            found[path.name] = compare(path, lines)
    for name, one in found.items():
        print(f"{name:45} {one['differ']:5} of {one['lines']:,}")
    if asked.out:
        result = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "sentencepiece": sentencepiece.__version__,
            "files": files,
            "models": found,
        }
        text = json.dumps(result, indent=1, ensure_ascii=False)
        asked.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
