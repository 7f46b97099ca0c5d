"""Results of `lumina bench train` for a person."""

from __future__ import annotations

from typing import Any

from lumina.quantities import UNKNOWN, byte_size, rate, share


def alone(found: dict[str, Any]) -> str:
    """Lines about one training."""
    if found["step"] is None:
        return "no step was timed"
    step = found["step"]
    low, high = step["quartiles"]
    each = f"{_ms(step['median'])} a step (median of {step['steps']}; quartiles "
    each += f"{_ms(low)} to {_ms(high)}, {_ms(step['least'])} to {_ms(step['most'])}"
    if step["interval"]:
        first, last = step["interval"]
        each += f"; 95% interval of the median {_ms(first)} to {_ms(last)}"
    lines = [
        f"{rate(found['tokens_per_second'])} tokens/s on {found['device']}, "
        f"{found['compute_dtype']}{', compiled' if found['compile'] else ''}, "
        f"rows of {found['rows']}",
        f"{each})",
        mfu_line(found),
        memory_line(found["memory"]),
        gpu_line(found["gpu"]),
        f"loss {found['losses'][0]:.4f} -> {found['losses'][-1]:.4f}",
    ]
    if found["data_wait_seconds"]:
        lines.append(
            f"{found['data_wait_seconds']:.3g} s of the timed steps waited for data"
        )
    return "\n".join(lines)


def mfu_line(found: dict[str, Any]) -> str:
    """The share of the peak, and how it is counted."""
    return (
        f"MFU {share(found['mfu'])} of {_tera(found['peak_flops'])} "
        f"({found['peak_is']}); counted as {found['mfu_convention']}"
    )


def memory_line(memory: dict[str, Any]) -> str:
    """Peak memory."""
    if memory["allocated"] is None:
        return f"memory, most: {byte_size(memory['reserved'])} of {memory['of']}"
    return (
        f"memory, most: {byte_size(memory['allocated'])} allocated, "
        f"{byte_size(memory['reserved'])} reserved"
    )


def gpu_line(gpu: dict[str, Any]) -> str:
    """Clock, power and temperature."""
    if "missing" in gpu:
        return f"no clocks: {gpu['missing']}"
    units = {
        "clock_mhz": "MHz",
        "power_watts": "W",
        "temperature_celsius": "°C",
    }
    return "while timed: " + ", ".join(
        f"{gpu[name]['median']:,.0f} {unit} ({gpu[name]['least']:,.0f} to "
        f"{gpu[name]['most']:,.0f})"
        for name, unit in units.items()
        if name in gpu
    )


def compared(found: dict[str, Any]) -> str:
    """Lines about Lumina beside each peer."""
    lines = [
        f"{found['device']}, torch {found['torch']}, {found['compute_dtype']}, "
        f"{found['parameters']:,} parameters, {found['tokens_per_step']:,} tokens a "
        f"step, rows of {found['rows']}; {found['blocks']} blocks A B B A of "
        f"{found['steps_per_turn']} timed steps a turn"
    ]
    for one in found["peers"]:
        lines += ["", *peer_lines(one)]
    return "\n".join(lines)


def peer_lines(one: dict[str, Any]) -> list[str]:
    """About one comparison."""
    same = one["same"]
    lines = [
        f"{one['peer']} {one['version']}",
        f"  same losses: tokens' losses differ by {same['tokens']:.2g} of their "
        f"spread in float32 (at most {same['tokens_allowed']:g}); first training loss "
        f"{same['losses'][0]:.5f} here, {same['losses'][1]:.5f} there, reference "
        f"{same['reference']:.5f}",
    ]
    if one["ratio"] is None:
        return [*lines, "  no whole block was measured"]
    ratio = one["ratio"]
    for name, side in (("lumina", one["lumina"]), (one["peer"], one["other"])):
        lines.append(
            f"  {name:<24} {rate(side['tokens_per_second']):>8} tokens/s   "
            f"MFU {share(side['mfu'])}   {memory_line(side['memory'])}"
        )
        if "missing" not in side["gpu"]:
            lines.append(f"  {'':<24} {gpu_line(side['gpu'])}")
    text = f"  lumina is {ratio['speed']:.3f}x as fast"
    if ratio["interval"]:
        low, high = ratio["interval"]
        text += f", 95% interval {low:.3f} to {high:.3f} ({ratio['bound']})"
    else:
        text += ", no interval: it takes two blocks"
    lines.append(text)
    lines.append(
        f"  losses of the same steps differ by {one['losses_apart']:.2%} at most"
    )
    return lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.4g} ms"


def _tera(flops: float | None) -> str:
    return UNKNOWN if flops is None else f"{flops / 1e12:,.3g} TFLOP/s"
