"""What `lumina bench data` measures: each part by its name."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from lumina.cache_root import cache_in
from lumina.data.cache import require_space
from lumina.data.tokenizer import Tokenizer
from lumina.measure.bench.streaming import measure_memory, measure_start
from lumina.measure.bench.text import (
    generated_texts,
    write_archive,
    write_json_lines,
)
from lumina.measure.bench.tokens import measure_tokens, measure_work

TRAINED_ON = 2000
"""Generated documents that a tokenizer is trained on where none is named."""


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        file: JSON lines to tokenise; None: generated ones.
        tokenizer: its folder or file; None: one is trained.
        megabytes: of the generated text whose tokens a second are measured.
        gigabytes: of the file whose streaming is watched.
        window_megabytes: of it are tokenised.
        files: members of the archive of small files.
        rounds: turns of each way of making tokens.
        cores: threads or processes.
        folder: for generated files, which are removed.
    """

    file: str | None = None
    tokenizer: str | None = None
    megabytes: float = 16
    gigabytes: float = 10
    window_megabytes: float = 64
    files: int = 200_000
    rounds: int = 5
    cores: int = 0
    folder: str | None = None


def measure(parts: tuple[str, ...], amounts: Amounts) -> dict[str, Any]:
    """The named parts, measured one after the other.

    Raises:
        LuminaError: E204 where generated files do not fit onto the disk.
    """
    cores = amounts.cores or os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(dir=amounts.folder) as name,
        cache_in(os.path.join(name, "cache")),
    ):
        folder = Path(name)
        tokenizer = _tokenizer(amounts)
        found: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": platform.processor() or platform.machine(),
            "cores": cores,
            "load_before": list(os.getloadavg()),
            "tokenizer_size": tokenizer.vocab_size,
        }
        for part in parts:
            found[part] = PARTS[part](folder, tokenizer, amounts, cores)
    found["load_after"] = list(os.getloadavg())
    return found


def _tokenizer(amounts: Amounts) -> Tokenizer:
    if amounts.tokenizer is not None:
        return Tokenizer.from_path(amounts.tokenizer)
    return Tokenizer.train(islice(generated_texts(1), TRAINED_ON), 8192)


def _tokens(folder: Path, tokenizer: Tokenizer, amounts: Amounts, cores: int) -> Any:
    file = _text(folder, amounts)
    return measure_tokens(file, tokenizer, cores=cores, rounds=amounts.rounds)


def _work(folder: Path, tokenizer: Tokenizer, amounts: Amounts, cores: int) -> Any:
    return measure_work(_text(folder, amounts), tokenizer, folder)


def _text(folder: Path, amounts: Amounts) -> Path:
    """The JSON lines whose tokens a second are measured."""
    file = folder / "tokens.jsonl"
    if amounts.file is None:
        write_json_lines(file, int(amounts.megabytes * 1e6))
    else:
        _beginning(Path(amounts.file), file, int(amounts.megabytes * 1e6))
    return file


def _beginning(source: Path, target: Path, size: int) -> None:
    """Copy whole lines, about this many bytes of them."""
    with open(source, "rb") as reading, open(target, "wb") as writing:
        for line in reading:
            if writing.tell() >= size:
                return
            writing.write(line)


def _memory(folder: Path, tokenizer: Tokenizer, amounts: Amounts, cores: int) -> Any:
    file, size = folder / "large.jsonl", int(amounts.gigabytes * 1e9)
    require_space(folder, size, "the generated file")
    write_json_lines(file, size)
    try:
        return measure_memory(
            file, tokenizer, cores=cores, text_bytes=int(amounts.window_megabytes * 1e6)
        )
    finally:
        file.unlink(missing_ok=True)


def _files(folder: Path, tokenizer: Tokenizer, amounts: Amounts, cores: int) -> Any:
    archive = folder / "small.tar"
    require_space(folder, 2048 * amounts.files, "the generated archive")
    write_archive(archive, amounts.files)
    try:
        found = measure_start(archive, tokenizer, cores=cores)
    finally:
        archive.unlink(missing_ok=True)
    return {"files": amounts.files, **found}


PARTS: dict[str, Callable[[Path, Tokenizer, Amounts, int], Any]] = {
    "tokens": _tokens,
    "work": _work,
    "memory": _memory,
    "files": _files,
}
"""Name of a part -> what measures it."""
