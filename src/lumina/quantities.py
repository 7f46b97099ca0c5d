"""Numbers as a person reads them; an unknown one is a dash, never a guess."""

from __future__ import annotations

import math
import re

UNKNOWN = "—"


def known(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def count(value: object) -> str:
    """1234 -> 1,234; 12345678 -> 12.35M."""
    number = known(value)
    if number is None:
        return UNKNOWN
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:,.0f}"


def counted(number: int, noun: str) -> str:
    """1, run -> 1 run; 2, run -> 2 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def byte_size(value: object) -> str:
    """Bytes in binary units: 1536 -> 1.5 KiB."""
    number = known(value)
    if number is None:
        return UNKNOWN
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number:.0f} B"


def clock(value: object) -> str:
    """Seconds as a clock shows them: 75 -> 1:15, 90061 -> 1d 1:01:01."""
    number = known(value)
    if number is None or number < 0:
        return UNKNOWN
    days, rest = divmod(round(number), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}d {hours}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def duration(value: object) -> str:
    """Seconds in words: 12000 -> 3 h 20 min."""
    number = known(value)
    if number is None or number < 0:
        return UNKNOWN
    minutes, hours, days = number / 60, number / 3600, number / 86400
    if minutes < 2:
        return f"{number:.0f} s"
    if hours < 2:
        return f"{minutes:.0f} min"
    if days < 2:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{days:.1f} days"


def rate(value: object) -> str:
    """Tokens a second: 12345.6 -> 12.3k."""
    number = known(value)
    if number is None:
        return UNKNOWN
    if number >= 1e6:
        return f"{number / 1e6:.2f}M"
    return f"{number / 1e3:.1f}k" if number >= 1e3 else f"{number:.0f}"


def share(value: object) -> str:
    """0.4321 -> 43.2%."""
    number = known(value)
    return UNKNOWN if number is None else f"{number * 100:.1f}%"


def decimal(value: object, digits: int = 4) -> str:
    """A fixed number of decimals: 2.5 -> 2.5000."""
    number = known(value)
    if number is None:
        return UNKNOWN
    return f"{number:.{digits}f}" if abs(number) < 1e6 else f"{number:.3e}"


def scientific(value: object) -> str:
    """0.0003 -> 3.00e-04."""
    number = known(value)
    return UNKNOWN if number is None else f"{number:.2e}"


def perplexity(loss: object) -> str:
    """exp(loss), as long as that says anything."""
    number = known(loss)
    if number is None:
        return UNKNOWN
    return f"{math.exp(number):,.2f}" if number < 20 else "> 1e8"


def bytes_of(text: str) -> int | None:
    """The number of bytes that a size such as "8 GB" or "500 MiB" names.

    Sizes of memory are binary whichever way they are written, as cards are sold: 8 GB
    is 8 GiB. Returns None for a text that is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)i?B)", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
