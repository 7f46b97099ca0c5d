"""The results as the tables of docs/architectures.md."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table -->", "<!-- /table -->"


def write(facts: dict[str, Any], page: Path) -> None:
    """Put the tables between the page's marks."""
    head, rest = page.read_text().split(BEGIN)
    _, tail = rest.split(END)
    page.write_text(f"{head}{BEGIN}\n{tables(facts)}\n{END}{tail}")


def tables(facts: dict[str, Any]) -> str:
    """Both tables, and what they were measured on."""
    made = f"{facts['gpu']}, torch {facts['torch']}, {facts['date']}"
    results = {n: r for n, r in facts["results"].items() if "speed" in r}
    return f"{made}\n\n{costs(results)}\n\n{beside_experts(results)}{times(results)}"


def costs(results: dict[str, Any]) -> str:
    """Operations, speed, memory and loss."""
    lines = [
        "| Architecture | Parameters (active) | GFLOP a token | Training tokens/s "
        "| Decode tokens/s | Peak GiB | FLOPs saved | Time saved | Time / FLOPs "
        "| Held-out loss, equal FLOPs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    dense = results["dense"]["speed"]
    for name, result in results.items():
        speed, runs = result["speed"], list(result["seeds"].values())
        flops = 1 - speed["flops_per_token"] / dense["flops_per_token"]
        spent = 1 - speed["step_seconds"] / dense["step_seconds"]
        decoded = result.get("decode", {}).get("tokens_per_second")
        lines.append(
            f"| {name} | {speed['parameters'] / 1e6:.0f} M "
            f"({speed['active_parameters'] / 1e6:.0f} M) "
            f"| {speed['flops_per_token'] / 1e9:.3f} "
            f"| {speed['tokens_per_second']:,.0f} "
            f"| {format(decoded, ',.0f') if decoded else '-'} "
            f"| {speed['peak_gib']:.1f} | {flops:.1%} | {spent:.1%} "
            f"| {format(spent / flops, '.0%') if flops > 0.02 else '-'} "
            f"| {_loss([r['held_out_loss'] for r in runs])} |"
        )
    return "\n".join(lines)


def beside_experts(results: dict[str, Any]) -> str:
    """The hybrid against what it saves on: the model with experts everywhere."""
    names = [n for n in results if n.startswith(("MoE", "hybrid"))]
    if len(names) < 2:
        return ""
    whole, part = (results[n]["speed"] for n in names)
    flops = 1 - part["flops_per_token"] / whole["flops_per_token"]
    spent = 1 - part["step_seconds"] / whole["step_seconds"]
    return (
        f"Against {names[0]}, the hybrid saves {flops:.1%} of the FLOPs and "
        f"{spent:.1%} of the time.\n\n"
    )


def _loss(losses: list[float]) -> str:
    """Mean and spread over seeds."""
    if not losses:
        return "-"
    spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
    return f"{statistics.mean(losses):.3f}{spread} ({len(losses)} seeds)"


def times(results: dict[str, Any]) -> str:
    """GPU milliseconds of a step by kind, and the step's own."""
    kinds = ["products", "attention", "moves of tokens", "optimizer", "the rest"]
    lines = [
        f"| Milliseconds of a step | {' | '.join(kinds)} | step |",
        "|---" * (len(kinds) + 2) + "|",
    ]
    for name, result in results.items():
        spent = result["speed"]["milliseconds"]
        cells = " | ".join(f"{spent.get(kind, 0.0):.1f}" for kind in kinds)
        step = result["speed"]["step_seconds"] * 1e3
        lines.append(f"| {name} | {cells} | {step:.1f} |")
    return "\n".join(lines)
