"""Where the experience store is."""

from __future__ import annotations

import os
from pathlib import Path

from lumina.cache_root import cache_root
from lumina.state.experience.store import FILE, ExperienceStore

OFF = "off"
"""Stands for no store at all."""


def store_at(setting: str | None) -> ExperienceStore | None:
    """The store that an option names; None where it is off.

    Args:
        setting: a file, "off", or None for what LUMINA_EXPERIENCE says in the same way,
            and without it the file in LUMINA_CACHE.

    Raises:
        LuminaError: E104 for a user without a home.
    """
    setting = setting or os.environ.get("LUMINA_EXPERIENCE")
    if setting == OFF:
        return None
    named = Path(setting).expanduser() if setting else cache_root() / FILE
    return ExperienceStore(named)
