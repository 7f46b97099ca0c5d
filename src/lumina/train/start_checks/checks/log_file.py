"""The log file can be written."""

from __future__ import annotations

from pathlib import Path

from lumina.observe.run_log import refuse_unwritable
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("log_file", "settings", here=True)
def check_log_file(beginning: Beginning) -> None:
    """Refuse a log file that cannot be written, on the rank that writes it.

    Raises:
        LuminaError: E104 or E106.
    """
    file = beginning.config.logging.log_file
    if file is not None and beginning.ranks.main:
        refuse_unwritable(Path(file))
