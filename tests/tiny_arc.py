"""Small ARC tasks with rules that a tiny model can learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rule = Callable[[np.ndarray], np.ndarray]

RULES: dict[str, Rule] = {
    "same": lambda grid: grid,
    "swapped": lambda grid: np.array([0, 2, 1, 3, 4, 5, 6, 7, 8, 9])[grid],
    "flipped": lambda grid: grid[::-1],
}


def task(rule: str, seed: int, pairs: int = 3, tests: int = 1) -> dict[str, Any]:
    """A task of grids of up to 3 x 3 in four colours, test outputs included."""
    random = np.random.default_rng(seed)

    def pair() -> dict[str, Any]:
        grid = random.integers(0, 4, random.integers(1, 4, 2))
        return {"input": grid.tolist(), "output": RULES[rule](grid).tolist()}

    return {
        "train": [pair() for _ in range(pairs)],
        "test": [pair() for _ in range(tests)],
    }


def write(path: Path, tasks: dict[str, Any]) -> Path:
    """One file of many tasks, with their outputs in it."""
    path.write_text(json.dumps(tasks))
    return path
