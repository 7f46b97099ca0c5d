"""`lumina suggest`: starting points for rate, batch, length and passes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.text import table
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.model.spec import ModelSpec
    from lumina.plan.guidance import Answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to suggest for, and the options of a configuration."""
    own = parser.add_argument_group("suggest")
    own.add_argument(
        "--tables", action="store_true", help="show the tables, for no configuration"
    )
    own.add_argument(
        "--purpose", choices=("base", "finetune"),
        help="what is trained; default: finetune with --init-from, else base",
    )  # fmt: skip
    own.add_argument(
        "--tokens", type=float, metavar="N",
        help="of training; default: 20 for each parameter",
    )  # fmt: skip
    own.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print starting points; nothing is trained."""
    from lumina.plan.guidance import tables

    if args.tables:
        print(json.dumps(tables(), indent=1) if args.json else _tables(tables()))
        return 0
    if args.tokens is not None and not args.tokens >= 1:
        raise LuminaError("E005", f"tokens is {args.tokens:g}", "give 1 or more")
    facts = _facts(args)
    print(json.dumps(facts, indent=1) if args.json else _text(facts))
    return 0


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    from lumina.plan import guidance
    from lumina.plan.count import count_parameters
    from lumina.plan.environment import probe
    from lumina.plan.flops import flops_per_token
    from lumina.plan.shape import resolve_spec

    config = config_from_args(args)
    spec = resolve_spec(config)
    counts = count_parameters(spec)
    purpose = args.purpose or ("finetune" if config.train.init_from else "base")
    without = counts.active - counts.embedding - counts.head
    tokens = args.tokens or 20.0 * counts.active
    head = 6.0 * spec.hidden_size * spec.padded_vocab_size
    found = guidance.answers(
        counts.active, without, max(flops_per_token(spec) - head, 1.0), tokens
    )
    machine = probe("cpu" if config.system.device == "cpu" else "auto")
    rate = guidance.rate_for(counts.total, purpose)
    stage, offload = guidance.stage_for(counts.total)
    batch = guidance.batch_for(
        machine.memory_bytes / 2**30 if machine.device == "cuda" else 0.0,
        config.preset or "",
        purpose,
    )
    sequences = [
        one.batch_tokens / spec.seq_length for one in found if one.batch_tokens
    ]
    advice = [
        guidance.far_from(config.train.learning_rate, rate, "learning_rate")
        if config.is_chosen("learning_rate")
        else None
    ]
    return {
        "purpose": purpose,
        "parameters": counts.total,
        "parameters_used": counts.active,
        "tokens": tokens,
        "seq_length": spec.seq_length,
        "table": {
            "learning_rate": rate,
            "batch_size": batch,
            "epochs": guidance.epochs_for(tokens) if purpose == "base" else 3,
            "window_size": list(guidance.window_for(spec.seq_length)),
            "zero_stage": stage,
            "optimizer_states_in": "host" if offload else "device",
        },
        "laws": [_law(one) for one in found],
        "global_batch_size": [max(1, round(one)) for one in sequences],
        "grad_accum": _accumulation(config.train.batch_size or batch, sequences),
        "advice": [text for text in advice if text],
        "earlier_runs": _of_earlier_runs(config, spec, counts.active),
    }


def _of_earlier_runs(config: Config, spec: ModelSpec, active: int) -> dict[str, Any]:
    """The start values that earlier runs of this kind speak for, and why."""
    from lumina.plan.experience import run_kind
    from lumina.plan.plan import Plan
    from lumina.state.experience.place import store_at
    from lumina.state.experience.strategies import start_for

    plan = Plan(spec=spec, active_parameters=active, optimizer=config.train.optimizer)
    kind = run_kind(plan)
    try:
        store = store_at(config.experience.experience)
        held = store.all().runs if store is not None else []
    except LuminaError as error:
        return {"kind": kind, "why": f"nothing: {error.message}"}
    found = start_for(kind, held)
    values: dict[str, Any] = {"kind": kind, "why": found.why}
    if (best := found.strategy) is not None:
        values |= {
            "learning_rate": best.learning_rate,
            "warmup_ratio": best.warm_up,
            "global_batch_size": best.global_batch_size,
            "confidence": best.confidence,
            "runs": list(best.runs),
        }
    return values


def _window(least: int, most: int) -> str:
    """A suggested window in words."""
    if not most:
        return "0 (full attention)"
    return f"{most}" if least == most else f"{least} to {most}"


def _offload(listed: dict[str, Any]) -> str:
    """What goes with a stage of ZeRO, in words."""
    if listed["optimizer_states_in"] == "device":
        return ""
    return f" --optimizer-states-in {listed['optimizer_states_in']}"


def _law(one: Answer) -> dict[str, Any]:
    return {"source": one.source, **dataclasses.asdict(one)}


def _accumulation(batch: int | None, sequences: list[float]) -> list[int] | None:
    """Forwards of a step on one device, for each of the batches that fits suggest."""
    return [max(1, round(one / batch)) for one in sequences] if batch else None


def _text(facts: dict[str, Any]) -> str:
    listed = facts["table"]
    lines = [
        f"{facts['parameters']:,} parameters, of which a token uses "
        f"{facts['parameters_used']:,}; {facts['tokens']:.3g} tokens of training",
        "",
        f"by the table, for {facts['purpose']}:",
        f"  --learning-rate {listed['learning_rate']:g}  --epochs {listed['epochs']}"
        + (f"  --batch-size {listed['batch_size']}" if listed["batch_size"] else ""),
        f"  --window-size {_window(*listed['window_size'])} for rows of "
        f"{facts['seq_length']:,} tokens, where attention is to be cheaper",
        f"  --zero-stage {listed['zero_stage']}{_offload(listed)} for this size, on "
        "several devices; --zero-stage auto goes by their memory, and `lumina plan "
        "--nproc N` shows it",
        "",
        "by fits of published runs:",
    ]
    for one in facts["laws"]:
        said = [
            f"rate {one['rate']:.2g}" if one["rate"] else "",
            f"{one['batch_tokens']:.2g} tokens a step"
            f" ({max(1, round(one['batch_tokens'] / facts['seq_length']))} sequences)"
            if one["batch_tokens"]
            else "",
            f"{one['tokens']:.2g} tokens of training" if one["tokens"] else "",
        ]
        where = "" if one["within"] else "; OUTSIDE the range that it was fitted in"
        said_text = ", ".join(text for text in said if text) or "no rate above 0"
        lines.append(f"  {one['source']}: {said_text}")
        lines.append(f"    for {one['asked']}{where}")
    if facts["grad_accum"]:
        accumulation = " or ".join(map(str, dict.fromkeys(facts["grad_accum"])))
        lines.append(f"  --grad-accum {accumulation} for these batches on one device")
    lines += ["", f"by earlier runs of {facts['earlier_runs']['kind']}:"]
    if "learning_rate" in facts["earlier_runs"]:
        best = facts["earlier_runs"]
        lines.append(
            f"  --learning-rate {best['learning_rate']:g}  --warmup-ratio "
            f"{best['warmup_ratio']:g}"
        )
    lines.append(f"  {facts['earlier_runs']['why']}")
    lines += [f"advice: {text}" for text in facts["advice"]]
    lines += ["", "`lumina lr-range` looks for a rate on your data."]
    return "\n".join(lines)


def _tables(found: dict[str, Any]) -> str:
    blocks = []
    for name, rows in found.items():
        if name == "laws":
            continue
        head = list(dict.fromkeys(key for row in rows for key in row))
        cells = [[_cell(row.get(key, "")) for key in head] for row in rows]
        blocks.append(f"{name}\n{table(head, cells)}")
    for law in found["laws"].values():
        blocks.append(
            f"{law['source']}\n{law['gives']}\nfitted from {law['least']:g} to "
            f"{law['most']:g} {law['of']}"
        )
    return "\n\n".join(blocks)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " then ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
