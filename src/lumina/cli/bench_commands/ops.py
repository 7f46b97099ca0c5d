"""`lumina bench ops`: each op beside its reference: time, error, share of the floor."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "time and error of each op's versions, and their distance to the floor"

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "ops", nargs="*", metavar="OP", help="which ops; default: all there are"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or mps; default: auto"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of the inputs; default: bfloat16 on a GPU, else float32",
    )
    for name, text in (
        ("rows", "texts side by side"),
        ("length", "tokens of each"),
        ("hidden", "width of the model"),
        ("heads", "query heads"),
        ("kv-heads", "key and value heads"),
        ("ffn", "width of a feed-forward"),
        ("vocabulary", "tokens that there are"),
        ("experts", "of a routed layer"),
        ("top-k", "experts of a token"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N",
        help="how often each version is timed (default 20)",
    )  # fmt: skip
    parser.add_argument(
        "--plugins", nargs="+", default=[], metavar="FILE",
        help=".py files or modules that register further ops",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    import dataclasses
    from pathlib import Path

    import torch

    from lumina.cli.answering import Interruptible
    from lumina.cli.profiling import at_least, tell
    from lumina.measure.bench.ceilings import measure_ceilings
    from lumina.measure.bench.ops.measure import measure_op
    from lumina.measure.bench.ops.op import ON_CPU, OPS, Shape, chosen_op
    from lumina.model.registry import load_plugins
    from lumina.observe.gpu_watch import GpuWatch
    from lumina.plan.environment import probe

    load_plugins(args.plugins)
    ops = [chosen_op(name) for name in args.ops or OPS.known()]
    at_least("rounds", args.rounds, 1)
    machine = probe(args.device)
    shape = ON_CPU if machine.device == "cpu" else Shape()
    for field in dataclasses.fields(Shape):
        if (value := getattr(args, field.name)) is not None:
            least = at_least(field.name.replace("_", "-"), value, 1)
            shape = dataclasses.replace(shape, **{field.name: least})
    _check(shape)
    dtype = args.dtype or ("float32" if machine.device == "cpu" else "bfloat16")
    ceilings = measure_ceilings(machine.device, dtype)
    found = []
    with Interruptible() as interruption, GpuWatch(machine.device) as watch:
        for op in ops:
            if interruption.asked:
                break
            tell(f"{op.name}")
            kind = getattr(torch, dtype)
            found.append(
                measure_op(
                    op, shape, machine.device, kind, ceilings, rounds=args.rounds
                )
            )
    facts = {
        "kind": "ops",
        "device": machine.device_name,
        "torch": machine.torch_version,
        "threads": torch.get_num_threads() if machine.device == "cpu" else None,
        "dtype": dtype,
        "shape": dataclasses.asdict(shape),
        "ceilings": ceilings.to_dict(),
        "gpu": watch.readings(),
        "ops": found,
        "interrupted": interruption.asked,
    }
    text = json.dumps(facts, indent=1)
    if args.out:
        Path(args.out).write_text(text + "\n")
    print(text if args.json else _text(facts))
    return 130 if interruption.asked else 0


def _check(shape: Any) -> None:
    from lumina.errors import LuminaError

    wrong = [
        (shape.hidden % shape.heads, "heads divide hidden"),
        (shape.heads % shape.kv_heads, "kv-heads divide heads"),
        (max(0, shape.top_k - shape.experts), "top-k is at most experts"),
    ]
    for left, rule in wrong:
        if left:
            raise LuminaError(
                "E005", "the shape does not fit", f"choose so that {rule}"
            )


def _text(facts: dict[str, Any]) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import share

    def shown(value: float | None, write: Any = milliseconds) -> str:
        return "-" if value is None else str(write(value))

    rows = []
    for op in facts["ops"]:
        if op["problem"]:
            rows.append([op["op"], "", *["-"] * 7, op["problem"]])
        for one in op["versions"]:
            gradients = one["gradient_errors"].values()
            slopes = [abs(slope - 1) for slope in one["slopes"].values()]
            rows.append(
                [
                    op["op"],
                    one["version"],
                    shown(one["seconds"]),
                    shown(one["share"], share),
                    shown(one["error"], "{:.1e}".format),
                    shown(one["backward_seconds"]),
                    shown(one["backward_share"], share),
                    shown(max(gradients, default=None), "{:.1e}".format),
                    shown(max(slopes, default=None), "{:.1e}".format),
                    one["problem"],
                ]
            )
    head = (
        "op", "version", "forward", "share", "error", "both", "(share)", "gradients",
        "slope-1", "",
    )  # fmt: skip
    ceilings = facts["ceilings"]
    return "\n".join(
        [
            f"{facts['device']}, {facts['dtype']}; ceilings measured here: products "
            f"{ceilings['flops'] / 1e12:,.3g} TFLOP/s, copies "
            f"{ceilings['bandwidth'] / 1e9:,.4g} GB/s",
            table(head, rows, right=" ".join(head[2:9])),
            "share: of the floor, the least time that the operations and bytes take at "
            "the ceilings; both: forward and backward; error: root mean square "
            "difference from the float32 reference over its own root mean square",
        ]
    )
