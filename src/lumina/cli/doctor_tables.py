"""`lumina doctor --capabilities` and `--tiers`: what devices can do, as tables."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from typing import TYPE_CHECKING

from lumina.cli.text import table
from lumina.plan.capabilities import HEADS, capabilities, capability_facts
from lumina.plan.environment import probe
from lumina.quantities import byte_size, count

if TYPE_CHECKING:
    from lumina.plan.environment import Environment
    from lumina.plan.tiers import TierAdvice


def run(args: argparse.Namespace) -> int:
    """Print the tables that are asked for."""
    facts: dict[str, object] = {}
    told: list[str] = []
    if args.capabilities:
        machine = _machine(args.hardware_profile)
        facts["capabilities"] = capability_facts(machine)
        told.append(_capabilities(machine))
    if args.tiers:
        from lumina.plan.tiers import tier_advice

        advice = list(tier_advice(probe("cpu")))
        facts["tiers"] = [dataclasses.asdict(one) for one in advice]
        told.append(_tiers(advice))
    print(json.dumps(facts, indent=2) if args.json else "\n\n".join(told))
    return 0


def _machine(profile: str | None) -> Environment:
    """This machine, or the one that a profile describes."""
    if profile is None:
        return probe()
    from lumina.plan.hardware_profiles import find_profile

    _, found = find_profile(profile)
    return found.machine(probe("cpu"))


def _capabilities(machine: Environment) -> str:
    """A table for each section; what this device has is marked."""
    blocks = [f"{machine.device_name}, {byte_size(machine.memory_bytes)}"]
    lines = capabilities(machine)
    for section, group in itertools.groupby(lines, key=lambda line: line.section):
        rows = [["*" if one.here else "", one.name, *one.says] for one in group]
        blocks.append(table(("", *HEADS[section]), rows))
    blocks.append("*: of this device, or works on it")
    return "\n\n".join(blocks)


def _tiers(advice: list[TierAdvice]) -> str:
    rows = [
        [
            one.tier.name,
            f"{one.tier.devices} x {one.tier.profile}",
            byte_size(one.memory_bytes),
            one.precision,
            one.largest,
            count(one.parameters) if one.parameters else "-",
            one.tier.use,
        ]
        for one in advice
    ]
    head = ("tier", "devices", "memory", "precision", "largest preset", "size", "use")
    return table(head, rows, right="memory size") + (
        "\n\nlargest preset: whole training with AdamW and one row on each device, as "
        "`lumina plan`\nestimates it; nothing of it was measured."
    )
