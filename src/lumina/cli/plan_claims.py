"""`lumina plan --claims` and `--least`: an earlier estimator's numbers, and ours."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from lumina.cli.text import table
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment
    from lumina.plan.plan import Plan

SIZES = ("dense_125m", "dense_350m", "dense_1b", "dense_3b", "dense_8b")
"""Presets that `--least` shows where it names none."""

VOCABULARY = 32_000
"""Tokens, where no option says how many."""


def show_claims(plan: Plan, as_json: bool) -> None:
    """Print each factor beside what is counted for a plan, and the gates by tier."""
    from lumina.plan.claimed_factors import FACTORS, GATES
    from lumina.plan.figures import layout_of

    layout = layout_of(plan)
    counted = [(one, one.counted(plan.spec, layout)) for one in FACTORS]
    if as_json:
        factors = [
            {"name": one.name, "claim": one.claim, "counted": n, "how": one.how}
            for one, n in counted
        ]
        gates = [asdict(one) for one in GATES]
        print(json.dumps({"factors": factors, "gates": gates}, indent=2))
        return
    rows = [
        [one.name, f"{one.claim:.3g}", "-" if n is None else f"{n:.3g}", one.how]
        for one, n in counted
    ]
    print(table(("factor", "claim", "counted", "how"), rows, right="claim counted"))
    print()
    named = [[one.what, str(one.tier), one.here] for one in GATES]
    print(table(("technique", "from tier", "here"), named, right="from tier"))


def show_least(
    names: list[str], config: Config, machine: Environment | None, as_json: bool
) -> None:
    """Print what each way of training presets needs of a device.

    Args:
        names: of presets; none: those of `SIZES`.
        config: row length and vocabulary, where they are set.
        machine: to plan for; None: the present one.
        as_json: print JSON.
    """
    from lumina.config import Config as Settings
    from lumina.plan.environment import probe
    from lumina.plan.least_memory import least_memory

    machine = machine or probe()
    length = config.model.seq_length
    vocabulary = VOCABULARY
    if config.provenance["vocab_size"].kind == "flag":
        vocabulary = config.model.vocab_size or VOCABULARY
    found = {}
    for name in names or SIZES:
        shape = Settings.resolve(preset=name).replace(seq_length=length)
        found[name] = least_memory(shape, machine, vocabulary)
    if as_json:
        facts = {name: [asdict(one) for one in each] for name, each in found.items()}
        print(json.dumps(facts, indent=2))
        return
    row = f"one row of {length:,} tokens"
    print(f"{machine.device_name}, {row}, {vocabulary:,} tokens in the vocabulary\n")
    rows = [
        [name, one.mode, byte_size(one.bound), one.largest.replace("_", " ")]
        for name, each in found.items()
        for one in each
    ]
    head = ("preset", "training", "smallest device", "most of it")
    print(table(head, rows, right="smallest device"))
