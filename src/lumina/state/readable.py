"""Whether this user may read a file, asked of the system itself."""

from __future__ import annotations

from pathlib import Path

from lumina.errors import LuminaError, shell_path


def require_readable(path: Path) -> None:
    """Open and close a file before a library does.

    safetensors reports a file without read permission as one that is not there, so
    its message cannot tell a person what is wrong.

    Raises:
        LuminaError: E106 for a file that this user may not read.
    """
    try:
        with path.open("rb"):
            pass
    except PermissionError as error:
        raise LuminaError(
            "E106",
            f"{path}: no permission to read",
            f"its owner can allow it: chmod a+r {shell_path(path)}",
        ) from error
    except OSError:
        return  # the caller opens it again and says what else is wrong
