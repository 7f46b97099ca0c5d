"""`lumina features`: what can be switched, and what it is on this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from lumina.cli.options import add_config_options, config_from_args
from lumina.config import Config
from lumina.features import FEATURES, Feature, Machine, find_feature
from lumina.plan.decisions import source_of
from lumina.plan.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A feature's name, and the options of the run that is asked about."""
    parser.add_argument("name", nargs="?", help="show this feature only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan a run of these options here, and print what each feature is in it."""
    from lumina.guard.history import known_failures
    from lumina.model.registry import load_plugins
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan

    config = config_from_args(args)
    load_plugins(config.parts.plugins)
    if config.train.steps is None:
        config = config.replace(steps=1)  # without data, epochs have no length
    names = list(FEATURES) if args.name is None else [find_feature(args.name).name]
    machine = probe(config)
    waiting = [name for name, one in FEATURES.items() if not one.tries_first]
    failed = known_failures(machine.device_name, waiting)
    machine = replace(machine, failed_pretests=machine.failed_pretests | failed)
    plan = make_plan(
        config,
        machine,
        tokenizer_vocab_size=None,
        rows_per_epoch=None,
        world_size=config.processes,
    )
    machine = machine.on_cpu() if config.system.device == "cpu" else machine
    rows = [_row(FEATURES[name], config, plan, machine) for name in names]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(_described(row) for row in rows))
    return 0


def _row(
    feature: Feature, config: Config, plan: Plan, machine: Machine
) -> dict[str, Any]:
    """One feature as plain JSON values.

    `state` is what the feature is in the planned run; `auto` is whether the plan
    decided about it, because no option does.
    """
    named = feature.is_requested(config) or feature.is_refused(config)
    decided = feature.chosen_by_itself or feature.refused is not None
    option = "--features " + feature.name
    if feature.option is not None:
        option = "--" + feature.option.replace("_", "-")
    return {
        "name": feature.name,
        "summary": feature.summary,
        "state": "on" if feature.is_active(plan) else "off",
        "auto": decided and not named,
        "reason": _reason(feature, config, plan, machine),
        "option": option,
        "without": feature.way_out,
        "change_cost": feature.change_cost,
        "excludes": {other.feature: other.reason for other in feature.excludes},
        "pretest": feature.pretest is not None,
        "tries_first": feature.tries_first,
    }


def _reason(feature: Feature, config: Config, plan: Plan, machine: Machine) -> str:
    """Why the feature is on or off in this Plan, or is not available at all."""
    problem = feature.problem(machine)
    if problem and not feature.is_active(plan):
        return f"not available here: {problem}"
    told = plan.reasons.get(feature.reason_key)
    return told or source_of(config, feature.option or "features")


def _described(row: dict[str, Any]) -> str:
    here = f"{row['state']} (auto)" if row["auto"] else row["state"]
    lines = [
        f"{row['name']}: {row['summary']}",
        f"  here      {here}: {row['reason']}",
        f"  option    {row['option']} (left out by {row['without']})",
        f"  changing  {_COSTS[row['change_cost']]}",
    ]
    lines += [f"  excludes  {name}: {why}" for name, why in row["excludes"].items()]
    if row["pretest"]:
        when = "before a run that has it"
        if not row["tries_first"]:
            when = f"by `lumina pretests run {row['name']}`; the newest result holds"
        lines.append(f"  pretest   tried on this machine {when}")
    return "\n".join(lines)


_COSTS = {
    "live": "while a run trains, from one step to the next",
    "reassemble": "while a run trains, which is then assembled again",
    "restart": "only when a run starts",
}
