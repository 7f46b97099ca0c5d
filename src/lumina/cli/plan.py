"""`lumina plan`: parameters, memory and time of a run, on hardware present or not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.cli.options import add_config_options, config_from_args
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment
    from lumina.plan.hardware_profiles import HardwareProfile
    from lumina.plan.plan import Plan
    from lumina.plan.time_estimate import TimeEstimate

PARTS = (
    "model", "parameters", "memory", "storage", "generation", "data", "time",
    "decisions", "warnings",
)  # fmt: skip
ALWAYS = ("warnings",)

STEPS = 1000
"""Steps of a plan whose length nothing names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of a configuration, and what to plan for."""
    group = parser.add_argument_group("plan")
    group.add_argument(
        "--show",
        nargs="+",
        action="extend",
        choices=PARTS,
        metavar="PART",
        help=f"of {', '.join(PARTS)}; default: all",
    )
    group.add_argument(
        "--analyze-memory",
        dest="show",
        action="append_const",
        const="memory",
        help="the same as --show memory: the bytes of each part of a step",
    )
    group.add_argument(
        "--detailed",
        action="store_true",
        help="also every tensor, and the memory of other ways to lay out a step",
    )
    group.add_argument(
        "--hardware-profile",
        metavar="NAME",
        help="plan for this hardware, which need not be present, or for any card of a "
        'size, such as "8 GB"; list: shows all',
    )
    group.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="devices that train together; default: --nproc, or one",
    )
    group.add_argument(
        "--efficiency",
        type=float,
        metavar="SHARE",
        help="count on this share of the peak rate, whatever is known or assumed",
    )
    group.add_argument(
        "--fit",
        action="store_true",
        help="whether it fits, the longest row and the most rows of a forward",
    )
    group.add_argument(
        "--tiers",
        action="store_true",
        help="what each tier of context lengths takes, and the highest that fits",
    )
    group.add_argument(
        "--claims",
        action="store_true",
        help="constants of an earlier estimator of memory beside what is counted",
    )
    group.add_argument(
        "--least",
        nargs="*",
        metavar="PRESET",
        help="the smallest device that trains each preset in several ways",
    )
    group.add_argument(
        "--trace",
        action="store_true",
        help="follow the memory of a step through the model, on tensors that have "
        "none, and print it beside the estimate; no device is needed",
    )
    group.add_argument(
        "--measure",
        action="store_true",
        help="take two steps on the present device and print what they took beside "
        "the estimate; it is remembered for later plans",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan and print; nothing is trained."""
    if args.hardware_profile == "list":
        print(json.dumps(_profile_facts(), indent=2) if args.json else _profiles())
        return 0
    _check(args)
    from lumina.cli.plan_claims import show_claims, show_least
    from lumina.cli.plan_reach import show_reach
    from lumina.cli.plan_trace import look
    from lumina.plan.environment import probe
    from lumina.plan.hardware_profiles import find_profile
    from lumina.train import Trainer

    config = _with_length(config_from_args(args))
    profile, machine = None, None
    devices = args.devices or config.processes
    if args.hardware_profile is not None:
        name, profile = find_profile(args.hardware_profile)
        machine = profile.machine(probe("cpu"), devices)
        print_to = f"planned for {devices} x {name} ({machine.device_name})"
    if args.devices is not None:
        config = config.replace(nproc=args.devices, num_nodes=1)
    if args.fit or args.tiers:
        return show_reach(args, config, machine)
    if args.least is not None:
        show_least(args.least, config, machine, args.json)
        return 0
    trainer = Trainer(config)
    plan, environment, rows = trainer.explain(machine)
    if args.claims:
        show_claims(plan, args.json)
        return 0
    marks = trainer.begins_and_ends
    looked = look(args, plan, environment, config.parts.plugins)
    wanted = "time" in (args.show or PARTS)
    time = _time(args, plan, environment, profile) if wanted else None
    if args.json:
        facts = _facts(args, plan, environment, time) | looked.facts()
        print(json.dumps({**facts, "begins_and_ends": dict(marks)}, indent=2))
        return 0
    if profile is not None:
        print(f"{print_to}\n")
    print(_text(args, plan, environment, rows, time, marks))
    if told := looked.text():
        print(f"\n{told}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.devices is not None and args.devices < 1:
        raise LuminaError("E005", f"devices is {args.devices}", "give 1 or more")
    if args.efficiency is not None and not 0 < args.efficiency <= 1:
        raise LuminaError(
            "E005",
            f"efficiency is {args.efficiency:g}",
            "give a share of the peak: above 0, at most 1",
        )


def _with_length(config: Config) -> Config:
    """A length for a plan of a model alone, where none is named."""
    from lumina.config import Source
    from lumina.data.kinds import names_data

    goes_on = config.run.resume or config.run.auto_resume
    if config.train.steps is not None or names_data(config) or goes_on:
        return config
    why = Source("decided", "no length and no data are named")
    return config.override({"steps": STEPS}, why)


def _time(
    args: argparse.Namespace,
    plan: Plan,
    machine: Environment,
    profile: HardwareProfile | None,
) -> TimeEstimate | None:
    """The estimate; on this machine's processor from the rate of its products."""
    from lumina.plan.peak import peak_here
    from lumina.plan.time_estimate import estimate_time

    peak = None
    if profile is None or not profile.device_name:
        peak = peak_here(plan, machine)
    found = estimate_time(
        plan, machine, efficiency=args.efficiency, peak=peak, profile=profile
    )
    if found is None and args.efficiency is not None:
        raise LuminaError(
            "E003",
            f"the peak rate of {machine.device_name} is not known, so that a share of "
            "it is no rate",
            "leave --efficiency out, or choose another --hardware-profile",
        )
    return found


def _text(
    args: argparse.Namespace,
    plan: Plan,
    machine: Environment,
    rows: int | None,
    time: TimeEstimate | None,
    marks: Mapping[str, str],
) -> str:
    from lumina.plan.explain import explain

    wanted = {*(args.show or PARTS), *ALWAYS}
    sections = {"work" if part == "time" else part for part in wanted}
    lines = time.lines() if time else []
    told = [
        explain(
            plan,
            machine,
            rows_per_epoch=rows,
            stats=marks,
            time=lines,
            sections=sections,
        )
    ]
    if args.detailed and "parameters" in wanted:
        told.append("Tensors\n" + _tensors(plan))
    if args.detailed and "memory" in wanted:
        told.append("What takes memory, and what lowers it\n" + _lowered(plan))
        told.append("Other ways to lay out a step\n" + _choices(plan, machine))
    return "\n\n".join(told)


def _tensors(plan: Plan) -> str:
    from lumina.cli.text import table
    from lumina.plan.detail import tensors_of

    found = tensors_of(plan.spec)
    total = sum(one.size for one in found)
    rows = [
        [
            f"  {one.name}",
            " x ".join(map(str, one.shape)),
            one.role,
            str(one.count),
            f"{one.size:,}",
            f"{one.size / total:.1%}",
            f"{one.used:,.0f}",
        ]
        for one in found
    ]
    head = ("  tensor", "shape", "role", "count", "parameters", "share", "used")
    return table(head, rows, right="count parameters share used")


def _lowered(plan: Plan) -> str:
    from lumina.cli.text import table
    from lumina.plan.detail import LOWERED_BY
    from lumina.plan.memory_text import components
    from lumina.quantities import byte_size

    parts = sorted(components(plan.memory).items(), key=lambda part: -part[1])
    rows = [
        [f"  {name.replace('_', ' ')}", byte_size(size), LOWERED_BY[name]]
        for name, size in parts
    ]
    return table(("  part", "bytes", "what lowers it"), rows, right="bytes")


def _choices(plan: Plan, machine: Environment) -> str:
    from lumina.cli.text import table
    from lumina.plan.detail import choices_of
    from lumina.quantities import byte_size

    rows = [
        [
            f"  {one.gradient_checkpointing}",
            str(one.micro_batch_size),
            byte_size(one.bound),
            "yes" if one.fits else "no",
            "chosen" if one.chosen else "",
        ]
        for one in choices_of(plan, machine.memory_bytes)
    ]
    head = ("  gradient checkpointing", "batch size", "bytes", "fits", "")
    return table(head, rows, right="bytes")


def _facts(
    args: argparse.Namespace,
    plan: Plan,
    machine: Environment,
    time: TimeEstimate | None,
) -> dict[str, Any]:
    """The same as plain values."""
    import dataclasses

    from lumina.plan.count import count_parameters
    from lumina.plan.detail import choices_of, tensors_of

    facts: dict[str, Any] = {
        "machine": dataclasses.asdict(machine),
        "parameters": dataclasses.asdict(count_parameters(plan.spec)),
        "memory": plan.memory,
        "time": dataclasses.asdict(time) if time else None,
        "plan": plan.to_dict(),
    }
    if args.detailed:
        choices = choices_of(plan, machine.memory_bytes)
        facts["tensors"] = [dataclasses.asdict(one) for one in tensors_of(plan.spec)]
        facts["choices"] = [dataclasses.asdict(one) for one in choices]
    return facts


def _profile_facts() -> list[dict[str, Any]]:
    import dataclasses

    from lumina.plan.hardware import DTYPES, peak_flops
    from lumina.plan.hardware_profiles import PROFILES

    return [
        {"name": name}
        | dataclasses.asdict(one)
        | {"peak_flops": {d: peak_flops(one.device_name, d) for d in DTYPES}}
        for name, one in PROFILES.items()
    ]


def _profiles() -> str:
    from lumina.cli.text import table

    def rate(value: float | None, unit: float) -> str:
        return "-" if value is None else f"{value / unit:,.4g}"

    rows = [
        [
            one["name"],
            one["device_name"] or "this machine's processor",
            rate(one["memory_gib"] or None, 1),
            rate(one["bandwidth"], 1e9),
            rate(one["link"], 1e9),
            rate(one["peak_flops"]["bfloat16"], 1e12),
            rate(one["peak_flops"]["float16"], 1e12),
            one["source"],
        ]
        for one in _profile_facts()
    ]
    head = ("profile", "device", "GiB", "GB/s", "link", "bf16", "fp16", "source")
    return table(head, rows, right="GiB GB/s link bf16 fp16") + (
        "\nGB/s: to the device's memory; link: to another device of the machine, one "
        "way; bf16, fp16: peak, in TFLOP/s."
    )
