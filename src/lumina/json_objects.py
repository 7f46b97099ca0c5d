"""A JSON object in a file that a person hands over, checked as it is read."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.quantities import byte_size

MOST_BYTES = 256 * 2**20
"""A larger file is no description of anything; it is refused before it is read."""


def read_object(
    path: Path,
    hint: str,
    *,
    absent: str = "check the path",
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        hint: what the user can do about a file that holds something else.
        absent: what the user can do where there is no such file.
        most_bytes: a larger file is refused before anything of it is read.

    Raises:
        LuminaError: E104 for a file that is not there, or is no file; E106 without
            permission; E103 where it is not UTF-8; E101 where it is too large, damaged
            or holds no object.
    """
    try:
        found = path.stat()
        # A pipe or a device would be read for ever.
        if not stat.S_ISREG(found.st_mode):
            raise LuminaError("E104", f"{path} is no file", "name a file")
        if found.st_size > most_bytes:
            raise LuminaError(
                "E101",
                f"{path} is too large: {byte_size(found.st_size)}, and at most "
                f"{byte_size(most_bytes)} are read",
                hint,
            )
        text = path.read_bytes().decode("utf-8")
        values = json.loads(text)
    except FileNotFoundError:
        raise LuminaError("E104", f"{path}: there is no such file", absent) from None
    except PermissionError:
        raise LuminaError(
            "E106", f"{path}: no permission to read", "check its permissions"
        ) from None
    except OSError as error:
        raise LuminaError(
            "E104", f"{path} cannot be read: {error.strerror}", "check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise LuminaError("E103", f"{path} is not UTF-8: {error}", hint) from None
    except (ValueError, RecursionError) as error:
        raise LuminaError("E101", f"{path} is not JSON: {error}", hint) from None
    if not isinstance(values, dict):
        raise LuminaError("E101", f"{path} holds no JSON object", hint)
    return values
