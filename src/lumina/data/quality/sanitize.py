"""`lumina.sanitize_dataset`: a copy of data without what is not wanted in it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.data.quality.assess import read_word_list, reading_whole
from lumina.data.quality.check import Check, Options, Result, checks
from lumina.data.quality.writing import write_mended

if TYPE_CHECKING:
    from lumina.config.sections.data import DataSection

LISTS = {"remove_toxic": "toxic", "remove_nsfw": "nsfw"}
"""Option → the name of its list of words."""


def sanitize_dataset(
    input: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    remove_pii: bool = True,
    remove_toxic: str | bool = False,
    remove_nsfw: str | bool = False,
    remove_duplicates: bool = False,
    check_bias: bool = False,
    check_factuality: bool = False,
    generate_report: bool = True,
    data: DataSection | None = None,
) -> dict[str, Any]:
    """Write a copy of data without personal data that patterns find, and more.

    Nothing is overwritten: the new file, the one with every change and the report must
    not exist.

    Args:
        input: a path, or several, as `train_data` takes them.
        output: the new file, .jsonl or .txt.
        remove_pii: replace emails, IBANs, cards, IP addresses and telephone numbers,
            as patterns find them, by the name of their kind: [EMAIL].
        remove_toxic: file with words, one on each line: documents with one of them are
            left out. True without a list changes nothing: it is "not assessed".
        remove_nsfw: the same, for another list.
        remove_duplicates: leave exact copies of earlier documents out.
        check_bias: say what is known of bias: it is "not assessed" without a model.
        check_factuality: the same, for facts.
        generate_report: write what was done beside the new file, as JSON.
        data: how files and records are read; None: as `train` does by default.

    Returns:
        What was read, written, changed and left out, by check; for each wish that
        could not be fulfilled, why, under "not assessed".

    Raises:
        LuminaError: E002, E005, E101 and E104 to E106, as `write_mended`.
    """
    paths = [input] if isinstance(input, str | os.PathLike) else list(input)
    given = {"remove_toxic": remove_toxic, "remove_nsfw": remove_nsfw}
    lists = {
        LISTS[name]: read_word_list(value)
        for name, value in given.items()
        if isinstance(value, str)
    }
    options = Options(word_lists=lists)
    wanted = {
        "duplicates": remove_duplicates,
        "word_lists": bool(lists),
        "pii": remove_pii,
    }
    mending: list[Check] = [
        checks()[name](options) for name, asked in wanted.items() if asked
    ]
    refused = {
        name: "no list of words is given"
        for name, value in given.items()
        if value is True
    }
    for name, asked in (("bias", check_bias), ("factuality", check_factuality)):
        if asked:
            result: Result = checks()[name](options).result()
            refused[f"check_{name}"] = result.message
    target = Path(output).expanduser()
    written = write_mended(paths, target, mending, how=reading_whole(data))
    found = {**written.to_dict(), "output": str(target), "not_assessed": refused}
    if generate_report:
        report = target.with_name(target.name + ".report.json")
        with open(report, "x", encoding="utf-8") as handle:
            handle.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        found["report"] = str(report)
    return found
