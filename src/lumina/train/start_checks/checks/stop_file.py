"""The file that ends the run is not there yet."""

from __future__ import annotations

import os

from lumina.errors import LuminaError
from lumina.train.start_checks.declared import Beginning, register_check


@register_check("stop_file", "settings", here=True)
def check_stop_file(beginning: Beginning) -> None:
    """Refuse a run that would end after its first step.

    Raises:
        LuminaError: E002.
    """
    file = beginning.config.loading.stop_file
    if file is not None and os.path.exists(file):
        raise LuminaError(
            "E002",
            f"stop_file {file} is there already, so that the run would end after its "
            "first step",
            "remove the file, or name another",
        )
