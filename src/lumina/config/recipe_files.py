"""Ready configurations for common tasks: the files of `config/recipes/`.

The first line of a file says what it is for, the second what it was planned for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean

FOLDER = Path(__file__).with_name("recipes")


@dataclass(frozen=True)
class Recipe:
    """One configuration.

    Attributes:
        name: on the command line.
        use: what it is for.
        devices: how many devices it was planned for.
        hardware: the hardware profile of these.
        path: its file.
    """

    name: str
    use: str
    devices: int
    hardware: str
    path: Path

    @property
    def text(self) -> str:
        """The file, to be copied and changed."""
        return self.path.read_text(encoding="utf-8")


def recipes() -> dict[str, Recipe]:
    """All of them, by name."""
    return {path.stem: _recipe(path) for path in sorted(FOLDER.glob("*.yaml"))}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; hyphens do not matter.

    Raises:
        LuminaError: E001, naming the nearest.
    """
    known = recipes()
    key = name.strip().lower().replace("-", "_")
    if key in known:
        return known[key]
    raise LuminaError(
        "E001",
        f"there is no recipe {name!r}",
        did_you_mean(key, known) + "`lumina presets recipes` lists them all",
    )


def _recipe(path: Path) -> Recipe:
    use, planned = path.read_text(encoding="utf-8").splitlines()[:2]
    devices, _, hardware = planned.partition(":")[2].partition(" x ")
    return Recipe(
        path.stem, use.removeprefix("# "), int(devices), hardware.strip(), path
    )
