"""Which of the packages that are not always there are installed."""

from __future__ import annotations

from importlib.util import find_spec


def installed(module: str) -> bool:
    """Whether a top-level module can be found. It is not imported.

    Args:
        module: as it is imported, "triton" say; a package may have another name.
    """
    return find_spec(module) is not None
