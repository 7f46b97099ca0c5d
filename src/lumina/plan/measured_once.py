"""What is measured once on a machine and then read from ``LUMINA_CACHE``."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable

from lumina.cache_root import cache_root
from lumina.durable import changing, write_file
from lumina.errors import LuminaError


def measured_once(name: str, key: str, measure: Callable[[], float]) -> float:
    """A number that is measured by the first call and kept for all later ones.

    Args:
        name: of the file in the cache.
        key: what the number depends on: the processor, versions, threads.
        measure: gives a positive number.
    """
    known = _known(name)
    if key not in known:
        known[key] = measure()
        # A cache that cannot be written costs the measurement again, nothing else.
        with contextlib.suppress(OSError, LuminaError):
            cache_root().mkdir(parents=True, exist_ok=True)
            with changing(file := cache_root() / name):
                # Others may have measured other things meanwhile.
                kept = _known(name) | {key: known[key]}
                content = json.dumps(kept, indent=1, sort_keys=True) + "\n"
                write_file(file, content.encode())
    return float(known[key])


def known_number(name: str, key: str) -> float | None:
    """What `measured_once` would return without measuring; None: nothing is known."""
    return _known(name).get(key)


def known_numbers(name: str) -> dict[str, float]:
    """All that `measured_once` has kept in a file, by key."""
    return _known(name)


def _known(name: str) -> dict[str, float]:
    """What was measured before; a file that is damaged counts as none."""
    try:
        found = json.loads((cache_root() / name).read_bytes())
    except (OSError, ValueError, LuminaError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value) and value > 0
    }
