"""The mutants that decide: written after the thresholds of the guard were frozen.

Nobody looked at how the guard judges one of them before all of them stood here, and
none was taken out or changed for what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from guard_cases import Case
from guard_mistakes import (
    Hook,
    broken_at,
    columns,
    gradient,
    leaking,
    loss,
    merged,
    output,
    positions,
    reloaded,
    rounded_gradient,
    rows,
    scaled,
    slow,
    spec,
    with_moments,
    with_tensors,
)
from lumina.plan.plan import Plan


def _noise(out: Tensor, subject: object) -> Tensor:
    return out + 0.05 * torch.randn_like(out) * out.std()


def _first_token_lost(out: Tensor, subject: object) -> Tensor:
    keep = torch.ones_like(out)
    keep[:, 0] = 0
    return out * keep


def _last_channel_lost(out: Tensor, subject: object) -> Tensor:
    keep = torch.ones_like(out)
    keep[..., -1] = 0
    return out * keep


def _row_of_another(out: Tensor, subject: object) -> Tensor:
    return torch.cat([out[:1], out[:1], out[2:]])


def _three_bits(out: Tensor, subject: object) -> Tensor:
    return out + (out.to(torch.float8_e4m3fn).to(out.dtype) - out).detach()


def _reversed_batch(out: Tensor, subject: object) -> Tensor:
    return torch.cat([out[:-2], out[-1:], out[-2:-1]])


def _zero_moments(values: Tensor) -> Tensor:
    return torch.zeros_like(values)


def _first_zeroed(name: str, values: Tensor) -> Tensor:
    return values * 0 if name.endswith("norm.weight") else values


GRADIENTS = {
    "all gradients x 0.99": ("", 0.99, 0),
    "all gradients x 1.005": ("", 1.005, 0),
    "all gradients x 2": ("", 2.0, 0),
    "all gradients x -1": ("", -1.0, 0),
    "embedding x 1.01": ("embedding", 1.01, 0),
    "head x 0.98": ("head", 0.98, 0),
    "qkv of a block x 1.01": ("blocks.0.attention.qkv", 1.01, 0),
    "down of a block x 0.99": ("blocks.1.feedforward.down", 0.99, 0),
    "norms x 1.02": ("attention_norm", 1.02, 0),
    "final norm x 1.05": ("backbone.norm", 1.05, 0),
    "gate and up x 0": ("blocks.0.feedforward.gate_up", 0.0, 0),
    "out of a block x -1": ("blocks.0.attention.out", -1.0, 0),
    "head x -1 from step 8": ("head", -1.0, 8),
    "all x 0 from step 10": ("", 0.0, 10),
}

OUTPUTS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "a feed-forward x 1.02": ("blocks.0.feedforward", scaled(1.02)),
    "attention x 0.98": ("blocks.1.attention", scaled(0.98)),
    "a norm x 1.01": ("blocks.0.feedforward_norm", scaled(1.01)),
    "the final norm x 1.01": ("backbone.norm", scaled(1.01)),
    "noise on a feed-forward": ("blocks.1.feedforward", _noise),
    "a feed-forward without the first token": (
        "blocks.0.feedforward",
        _first_token_lost,
    ),
    "attention without a channel": ("blocks.0.attention", _last_channel_lost),
    "a row of attention is another's": ("blocks.1.attention", _row_of_another),
    "two rows of a feed-forward swap": ("blocks.0.feedforward", _reversed_batch),
    "attention in three bits": ("blocks.0.attention", _three_bits),
    "blocks in three bits": ("blocks.1", _three_bits),
    "NaN from 40 tokens on": ("blocks.0", broken_at(40)),
    "infinite from 60 tokens on": ("blocks.1", broken_at(60, float("inf"))),
}

SPECS: dict[str, Callable[[Plan], Plan]] = {
    "a window of 48": spec(window_size=48),
    "a window of 60": spec(window_size=60),
    "a window of 8": spec(window_size=8),
    "rotation with half the base": spec(rope_theta=5000.0),
}

BATCHES: dict[str, Hook] = {
    "the last row is dropped": rows((7,)),
    "the last row is dropped from the mean": rows((7,), renormalised=True),
    "two rows are dropped from the mean": rows((0, 5), renormalised=True),
    "the last column is dropped": columns(62, 64),
    "the first half is dropped": columns(0, 32),
    "documents of one row see each other": merged(1),
    "documents of four rows see each other": merged(4),
    "positions x 2": positions(lambda x: x * 2),
    "positions stop at 31": positions(lambda x: x.clamp(max=31)),
    "positions run backwards": positions(lambda x: 63 - x),
}

OTHERS: dict[str, Hook] = {
    "the loss x 1.01": loss(1.01),
    "the loss x 0.995": loss(0.995),
    "0.95x": slow(0.95),
    "0.8x": slow(0.8),
    "0.98x": slow(0.98),
    "a leak of 2 KiB a step": leaking(512),
    "a leak of 1 MiB a step": leaking(2**18),
    "gradients in two bits": rounded_gradient("", 2),
    "gradients of the head in five bits": rounded_gradient("head", 5),
    "moments are lost": reloaded(with_moments(_zero_moments)),
    "norms are lost": reloaded(with_tensors(_first_zeroed)),
    "weights are saved in 16 bits": reloaded(
        with_tensors(lambda name, x: x.to(torch.bfloat16).to(x.dtype))
    ),
}


def cases() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """Every second one in float32, the others in bfloat16."""
    every: list[tuple[str, Hook | None, Callable[[Plan], Plan] | None]] = []
    every += [(name, gradient(*how), None) for name, how in GRADIENTS.items()]
    every += [(name, output(*how), None) for name, how in OUTPUTS.items()]
    every += [(name, None, change) for name, change in SPECS.items()]
    every += [(name, hook, None) for name, hook in BATCHES.items()]
    every += [(name, hook, None) for name, hook in OTHERS.items()]
    types = ("bfloat16", "float32")
    for place, (name, hook, change) in enumerate(every):
        dtype = types[place % 2]
        case = Case(f"second: {name}, {dtype}", "mutant", dtype=dtype, seed=100 + place)
        yield case, hook, change
    # Those that are hardest to see stand in the other type as well.
    again = ("x 1.005", "x 1.01", "x 0.99", "x 0.98", "dropped", "a window of 60")
    for place, (name, hook, change) in enumerate(every):
        if any(word in name for word in again):
            dtype = types[(place + 1) % 2]
            words = f"second: {name}, {dtype}"
            yield Case(words, "mutant", dtype=dtype, seed=200 + place), hook, change
