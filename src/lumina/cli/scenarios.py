"""`lumina presets scenarios`: uses of weights in few bits, and their commands."""

from __future__ import annotations

import json

from lumina.cli.text import table
from lumina.config.bundles import SCENARIOS, Scenario
from lumina.config.provenance import show
from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean


def show_scenarios(name: str | None, as_json: bool) -> int:
    """Print all, or what one stands for.

    Raises:
        LuminaError: E001 for a name that there is not, with the nearest.
    """
    chosen = SCENARIOS
    if name is not None:
        key = name.strip().lower().replace("-", "_")
        if key not in SCENARIOS:
            raise LuminaError(
                "E001",
                f"there is no scenario {name!r}",
                did_you_mean(key, SCENARIOS) + f"there are {', '.join(SCENARIOS)}",
            )
        chosen = {key: SCENARIOS[key]}
    facts = [_facts(key, one) for key, one in chosen.items()]
    if as_json:
        print(json.dumps(facts if name is None else facts[0], indent=2))
        return 0
    rows = [[str(one["name"]), str(one["use"]), _options(chosen[str(one["name"])])]
            for one in facts]  # fmt: skip
    print(table(("scenario", "use", "stands for"), rows))
    print("\n" + "\n".join(str(one["command"]) for one in facts))
    print(
        "\nAn option that is named apart holds. The learning rates are those of the "
        "specification;\nadapters often take 1e-4 to 2e-4: name --learning-rate."
    )
    return 0


def _facts(name: str, one: Scenario) -> dict[str, object]:
    return {
        "name": name,
        "use": one.use,
        "options": dict(one.values),
        "command": one.command.format(name),
    }


def _options(one: Scenario) -> str:
    """What it stands for, as one writes it."""
    if one.export:
        return " ".join(one.export)
    return ", ".join(f"{leaf} {show(value)}" for leaf, value in one.values.items())
