"""What the adapters below a folder are, without reading their values."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lumina.errors import LuminaError
from lumina.state.adapters.reading import CONFIG, WEIGHTS, open_adapter

DEEPEST = 6
"""Folders below folders that are looked into."""


def described(folder: Path) -> list[dict[str, Any]]:
    """Every adapter at or below a folder, in the order of the paths.

    Returns:
        For each: `folder`, `method`, `rank`, `alpha`, `parameters`, `bytes`, `base`,
        and `problem`: why it cannot be used, or None.

    Raises:
        LuminaError: E104 where there is no such folder.
    """
    if not folder.is_dir():
        raise LuminaError(
            "E104", f"{folder}: there is no such folder", "check the path"
        )
    return [_described(one) for one in sorted(_found(folder))]


def _found(folder: Path) -> Iterator[Path]:
    """Folders with an adapter's settings."""
    top = len(folder.parts)
    for place, inner, files in os.walk(folder):
        if len(Path(place).parts) - top >= DEEPEST:
            inner.clear()
        if CONFIG in files:
            yield Path(place)


def _described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "folder": str(folder), "method": None, "rank": None, "alpha": None,
        "parameters": 0, "bytes": 0, "base": None, "problem": None,
    }  # fmt: skip
    try:
        opened = open_adapter(folder)
        config = opened.config
        found |= {
            "method": opened.method,
            "rank": config.get("init_r") or config.get("r"),
            "alpha": config.get("lora_alpha", config.get("alpha")),
            "base": config.get("base_model_name_or_path"),
        }
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        found["parameters"] = sum(map(math.prod, shapes))
        found["bytes"] = (folder / WEIGHTS).stat().st_size
    except LuminaError as error:
        found["problem"] = error.message
    except (SafetensorError, OSError) as error:
        found["problem"] = f"{WEIGHTS}: {error}"
    return found
