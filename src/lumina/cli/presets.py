"""`lumina presets`: every preset with its true size, or one in detail."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any

from lumina.cli.recipes import show_recipes
from lumina.cli.scenarios import show_scenarios
from lumina.cli.text import table
from lumina.config import Config
from lumina.config.presets import ALIASES, PRESETS, Preset, find_preset
from lumina.config.provenance import show
from lumina.errors import LuminaError
from lumina.plan.costs.layout import Layout
from lumina.plan.count import Counts, count_parameters
from lumina.plan.hardware_profiles import GIB, HardwareProfile, find_profile
from lumina.plan.memory import STAYS, estimate
from lumina.plan.memory_text import components
from lumina.plan.shape import resolve_spec
from lumina.quantities import byte_size, count

RECIPES = "recipes"
"""In place of a preset's name: the ready configurations."""

SCENARIOS = "scenarios"
"""In place of a preset's name: uses of weights in few bits."""

_BF16 = 2
_HEAD = (
    "preset", "kind", "total", "active", "bf16", "hidden", "layers", "heads", "kv",
    "context", "experts", "use",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "name",
        nargs="?",
        help="show this preset in detail; recipes: ready configurations; scenarios: "
        "uses of weights in few bits",
    )
    parser.add_argument(
        "recipe", nargs="?", help="after `recipes` or `scenarios`: show this one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the presets."""
    if args.name == SCENARIOS:
        return show_scenarios(args.recipe, args.json)
    if args.name == RECIPES:
        return show_recipes(args.recipe, args.json)
    if args.recipe is not None:
        raise LuminaError(
            "E005",
            f"{args.recipe!r} is one name too many",
            "name one preset",
        )
    if args.name is not None:
        preset = find_preset(args.name)
        facts = _facts(preset)
        print(json.dumps(facts, indent=2) if args.json else _detail(preset))
    elif args.json:
        print(json.dumps([_facts(preset) for preset in PRESETS.values()], indent=2))
    else:
        rows = [_row(preset) for preset in PRESETS.values()]
        print(table(_HEAD, rows, right="total active bf16 hidden layers heads kv"
                    " context experts"))  # fmt: skip
        print(_LEGEND)
    return 0


_LEGEND = """
kind: dense, Mixture of Experts (MoE), of Depths (MoD), of Recursions (MoR), or a
reasoner (HRM, TRM).
total: all weights. active: those one token uses. bf16: bytes of all weights at 2 each.
A bare name that two documents share is the first one's (l1:NAME is the same).
*: a Mixture of Depths or of Recursions; all its weights count as active.
`lumina presets NAME` shows one in detail, `lumina presets recipes` configurations."""


def _counts(preset: Preset) -> tuple[Config, Counts]:
    config = Config(preset=preset.name)
    return config, count_parameters(resolve_spec(config))


def _depth(preset: Preset) -> list[str]:
    return [leaf for leaf in ("use_mod", "use_mor") if preset.values[leaf]]


def _row(preset: Preset) -> list[str]:
    config, counts = _counts(preset)
    model = config.model
    return [
        preset.name + ("*" if _depth(preset) else ""),
        preset.kind,
        count(counts.total),
        count(counts.active),
        byte_size(_BF16 * counts.total),
        str(model.hidden_size),
        str(model.num_layers),
        str(model.num_heads),
        str(model.num_kv_heads),
        str(model.seq_length),
        str(config.moe.num_experts) if config.moe.use_moe else "-",
        preset.use,
    ]


def _on(profile: HardwareProfile, memory: Mapping[str, int]) -> dict[str, Any]:
    """Whether one device holds the training, and how many its states alone fill."""
    has = int(profile.memory_gib * GIB)
    states = sum(memory[part] for part in STAYS)
    return {
        "bytes": has,
        "fits": memory["bound"] <= has,
        "filled_by_states": math.ceil(states / has),
    }


def _documented(facts: Mapping[str, Any]) -> list[str]:
    """What the document says of hardware and adaptive training, and what holds."""
    lines = []
    if facts["hardware"]:
        lines.append(f"  hardware    {facts['hardware']} ({facts['source']})")
    for name, on in facts["on_hardware"].items():
        says = "holds this training"
        if not on["fits"]:
            says = "too small for it; weights and states alone fill "
            says += f"{on['filled_by_states']} of them"
        lines.append(f"    {name:<16}{byte_size(on['bytes'])}: {says}")
    if facts["adaptive"]:
        lines.append(
            f"  adaptive    {facts['adaptive']} ({facts['source']}); --adaptive is the "
            "same at every size"
        )
    return lines


def _facts(preset: Preset) -> dict[str, Any]:
    config, counts = _counts(preset)
    layout = Layout(1, compute_dtype="bfloat16", gradient_checkpointing="full")
    memory = estimate(resolve_spec(config), layout)
    return {
        "name": preset.name,
        "source": preset.source,
        "kind": preset.kind,
        "documented": preset.documented,
        "use": preset.use,
        "note": preset.note,
        "total": counts.total,
        "active": counts.active,
        "experts": counts.experts,
        "active_experts": counts.active_experts,
        "embedding": counts.embedding,
        "bf16_bytes": _BF16 * counts.total,
        "training_bytes": memory,
        "documented_bf16": preset.bf16,
        "hardware": preset.hardware,
        "on_hardware": {
            name: _on(find_profile(name)[1], memory) for name in preset.profiles
        },
        "adaptive": preset.adaptive,
        "depth": _depth(preset),
        "values": preset.values,
    }


def _detail(preset: Preset) -> str:
    facts = _facts(preset)
    names = [preset.name, *(a for a, name in ALIASES.items() if name == preset.name)]
    total, active = facts["total"], facts["active"]
    lines = [
        f"{', '.join(names)}: {preset.use}",
        f"  kind        {preset.kind}",
        f"  documented  {preset.documented} ({preset.source})",
        f"  total       {count(total)} ({total:,} parameters)",
        f"  active      {count(active)} ({active:,}, {active / total:.1%} of the whole "
        "model)",
    ]
    if facts["experts"]:
        share = facts["active_experts"] / facts["experts"]
        lines.append(
            f"  experts     {count(facts['experts'])}, {share:.1%} of them active"
        )
    bf16 = facts["documented_bf16"]
    said = f" (documented: {bf16})" if bf16 else ""
    lines.append(f"  weights     {byte_size(facts['bf16_bytes'])} in bf16{said}")
    memory = facts["training_bytes"]
    lines.append(
        f"  training    at most {byte_size(memory['bound'])} on one device, one row of "
        f"{preset.values['seq_length']} tokens, mixed bf16, full checkpointing:"
    )
    parts = components(memory).items()
    lines += [f"    {name:<16}{byte_size(value)}" for name, value in parts]
    lines += _documented(facts)
    if preset.note:
        lines.append(f"  note        {preset.note}")
    if facts["depth"]:
        lines.append(
            f"  note        {', '.join(facts['depth'])}: a token passes some layers "
            "by, or goes through them again; all weights count as active"
        )
    lines.append("  settings")
    lines += [f"    {leaf:<22}{show(value)}" for leaf, value in preset.values.items()]
    return "\n".join(lines)
