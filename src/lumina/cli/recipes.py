"""`lumina presets recipes`: ready configurations for common tasks."""

from __future__ import annotations

import json

from lumina.cli.text import table
from lumina.config.recipe_files import Recipe, find_recipe, recipes


def show_recipes(name: str | None, as_json: bool) -> int:
    """Print the recipes, or the file of one, which is to be copied and changed."""
    if name is None:
        found = list(recipes().values())
        print(json.dumps([_facts(one) for one in found], indent=2) if as_json
              else _listed(found))  # fmt: skip
    else:
        one = find_recipe(name)
        print(json.dumps(_facts(one), indent=2) if as_json else one.text, end="")
        if as_json:
            print()
    return 0


def _facts(one: Recipe) -> dict[str, object]:
    return {
        "name": one.name,
        "use": one.use,
        "devices": one.devices,
        "hardware_profile": one.hardware,
        "text": one.text,
    }


def _listed(found: list[Recipe]) -> str:
    rows = [[one.name, f"{one.devices} x {one.hardware}", one.use] for one in found]
    return table(("recipe", "planned for", "use"), rows) + (
        "\n\n`lumina presets recipes NAME > run.yaml` writes one to change, and "
        "`lumina train\n--config-file run.yaml` trains it; `lumina plan --config-file "
        "run.yaml\n--hardware-profile NAME --devices N` says what it takes."
    )
