"""How large pages are, and how many of them are on a device; without torch."""

from __future__ import annotations

PAGE_BYTES = 256 * 2**20
"""Bytes of states from which on a page is full; the states of one slot are in one page,
however large they are."""

WINDOW = 3
"""Pages on the device at a time: one that is read, one in use, one that is written."""

ALIGNMENT = 4096
"""Bytes of which the size of a page and of its file is a multiple."""

BETWEEN = 64
"""Bytes of which the place of a tensor in its page is a multiple."""
