"""Options of logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class LoggingSection(Section):
    """What is logged, how much of it, and when files are rotated."""

    log_file: str | None = Field(
        None, description="a file for progress, events and warnings, beside the console"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        description=(
            "least severe events that the console and log_file show; DEBUG also writes "
            "every step into log_file; events.jsonl has all"
        ),
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="lines of log_file: text, or a JSON object each"
    )
    log_rotate_mib: float = Field(
        100.0,
        gt=0,
        description=(
            "size in MiB at which log_file is rotated: what it held is compressed "
            "beside it"
        ),
    )
    log_keep: int = Field(
        5, ge=1, description="compressed files of log_file that are kept"
    )
    metrics_rotate_mib: float | None = Field(
        None,
        gt=0,
        description=(
            "size in MiB at which metrics.jsonl is rotated: what it held is compressed "
            "beside it, kept, and still read; default: it only grows"
        ),
    )
