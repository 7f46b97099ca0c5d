"""`lumina.validate_data_comprehensive`: a verdict for each point of a checklist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lumina.data.quality.assess import assess
from lumina.data.quality.check import Options, Verdict, checks
from lumina.data.tokenizer import Tokenizer

CHECKLIST = (
    "valid_json", "consistent_schema", "encoding_correct", "no_empty_messages",
    "no_truncated_conversations", "roles_consistent", "reasonable_lengths",
    "language_appropriate", "no_toxic_content", "factually_accurate", "diverse_topics",
)  # fmt: skip


def validate_data_comprehensive(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer | str | None = None,
    max_check: int | None = 5000,
    **options: Any,
) -> dict[str, Any]:
    """Check data, and answer each point of a checklist.

    Args:
        files: a path, or several, as `train_data` takes them.
        tokenizer: counts tokens: a `Tokenizer`, or what `--tokenizer` takes.
        max_check: check the first documents only; None: all.
        options: further ones of `lumina.data.quality.check.Options`.

    Returns:
        For each point of `CHECKLIST` "passed", "failed" or "not assessed", where
        nothing here can tell; under "report" all that was found, as JSON values.

    Raises:
        LuminaError: E104 to E107 for paths or the tokenizer.
    """
    paths = [files] if isinstance(files, str | os.PathLike) else list(files)
    if isinstance(tokenizer, str):
        tokenizer = Tokenizer.from_path(tokenizer)
    report = assess(paths, Options(tokenizer, **options), max_check=max_check)
    answers: dict[str, Any] = dict.fromkeys(CHECKLIST, "not assessed")
    for result in report.results:
        for key in checks()[result.name].answers:
            answers[key] = _ANSWERS[result.verdict]
    return {**answers, "report": report.to_dict()}


_ANSWERS: dict[Verdict, str] = {
    "passed": "passed",
    "failed": "failed",
    "found": "failed",
    "information": "not assessed",
    "not assessed": "not assessed",
}
