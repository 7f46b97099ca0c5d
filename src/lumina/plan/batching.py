"""Sequences per forward, forwards per step, sequences per step: one equation.

global_batch_size = batch_size * grad_accum * data_ranks. What was asked for holds; a
preset's global batch is kept when it can be, and gives way when it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for, source_of

if TYPE_CHECKING:
    from lumina.config import Config

DEFAULT_GLOBAL_BATCH = 32
"""Sequences in a step when nothing says otherwise."""


@dataclass(frozen=True)
class Split:
    """One way to cut a step's sequences into forwards."""

    micro_batch_size: int
    grad_accum: int


@dataclass(frozen=True)
class Batching:
    """What is fixed about a step's sequences, before memory has a say.

    Attributes:
        global_batch_size: sequences of a step over all ranks.
        choices: ways to cut it into forwards, the largest forwards first; several only
            where they were not fixed.
        why_global: where the global batch came from.
        why_split: where batch_size and grad_accum came from.
        warning: what gave way, or "".
    """

    global_batch_size: int
    choices: tuple[Split, ...]
    why_global: str
    why_split: str
    warning: str = ""


def resolve_batching(config: Config, data_ranks: int) -> Batching:
    """Solve the equation for what was left open.

    Raises:
        LuminaError: E002, naming the fix, when the numbers contradict each other or
            the ranks cannot share a step's sequences evenly.
    """
    train = config.train
    batch, accum, whole = train.batch_size, train.grad_accum, train.global_batch_size
    whole_is_asked = asked_for(config, "global_batch_size")
    per_forward = (batch or 1) * (accum or 1) * data_ranks
    if batch is not None and accum is not None:
        return _both_given(config, batch, accum, data_ranks)
    why = source_of(config, "global_batch_size")
    if whole is None and batch is not None:
        whole, why = per_forward, _named(batch, accum, data_ranks)
    elif whole is None:
        whole, why = _default_global(per_forward)
    warning = ""
    if whole % per_forward:
        named = _named(batch, accum, data_ranks)
        nearest = max(1, whole // per_forward) * per_forward
        gives_way = (batch is not None or accum is not None) and not whole_is_asked
        if not gives_way:
            options = _around(whole, per_forward)
            raise LuminaError(
                "E002",
                f"global_batch_size {whole} ({why}) does not divide into {named}",
                f"use --global-batch-size {options}, or another number of "
                f"{'processes' if per_forward == data_ranks else 'sequences'}",
            )
        warning = (
            f"a step has {nearest} sequences, not the {whole} of {why}: {named} was "
            "asked for"
        )
        whole, why = nearest, f"the multiple of {named} nearest to {why}'s {whole}"
    share = whole // data_ranks
    choices, why_split = _choices(config, share, batch, accum)
    return Batching(whole, choices, why, why_split, warning)


def at_most(batching: Batching, size: int | None) -> Batching:
    """Without the larger forwards, where the size of a forward was left open.

    Args:
        batching: the ways to cut a step.
        size: most sequences of a forward; None: any number.
    """
    if size is None or len(batching.choices) == 1:
        return batching
    kept = tuple(one for one in batching.choices if one.micro_batch_size <= size)
    return replace(batching, choices=kept)


def in_one_forward(batching: Batching) -> Batching:
    """Without the ways to cut a step that have several forwards.

    Raises:
        LuminaError: E002 where there is no other.
    """
    kept = tuple(one for one in batching.choices if one.grad_accum == 1)
    if not kept:
        raise LuminaError(
            "E002",
            "optimizer_in_backward changes weights in every backward pass, and a step "
            f"has {batching.choices[0].grad_accum} of them on each device",
            "use --grad-accum 1, and a --batch-size of all rows of a step",
        )
    return replace(batching, choices=kept)


def _both_given(config: Config, batch: int, accum: int, data_ranks: int) -> Batching:
    product = batch * accum * data_ranks
    whole = config.train.global_batch_size
    why = f"batch_size {batch} x grad_accum {accum} x {_processes(data_ranks)}"
    warning = ""
    if whole is not None and whole != product:
        if asked_for(config, "global_batch_size"):
            raise LuminaError(
                "E002",
                f"{why} is {product}, not global_batch_size {whole}",
                f"leave one of the three out, or use --global-batch-size {product}",
            )
        warning = (
            f"a step has {product} sequences, not the {whole} of "
            f"{source_of(config, 'global_batch_size')}: batch_size and grad_accum rule"
        )
    split = (Split(batch, accum),)
    return Batching(product, split, why, _sources(config), warning)


def _default_global(per_forward: int) -> tuple[int, str]:
    """(sequences, why) when no global batch is named."""
    steps = max(1, round(DEFAULT_GLOBAL_BATCH / per_forward))
    whole = steps * per_forward
    return whole, f"about {DEFAULT_GLOBAL_BATCH} when nothing is named"


def _choices(
    config: Config, share: int, batch: int | None, accum: int | None
) -> tuple[tuple[Split, ...], str]:
    """(ways to cut one rank's sequences of a step, why)."""
    if batch is not None:
        return (Split(batch, share // batch),), source_of(config, "batch_size")
    if accum is not None:
        return (Split(share // accum, accum),), source_of(config, "grad_accum")
    sizes = sorted(set(_powers_of_two(share)), reverse=True)
    return tuple(Split(size, share // size) for size in sizes), ""


def _powers_of_two(share: int) -> Iterator[int]:
    """Powers of two that divide `share`."""
    size = 1
    while share % size == 0:
        yield size
        size *= 2


def _named(batch: int | None, accum: int | None, data_ranks: int) -> str:
    parts = [
        f"batch_size {batch}" if batch is not None else "",
        f"grad_accum {accum}" if accum is not None else "",
        _processes(data_ranks),
    ]
    return " x ".join(filter(None, parts))


def _processes(data_ranks: int) -> str:
    return f"{data_ranks} process" + ("es" if data_ranks != 1 else "")


def _around(whole: int, unit: int) -> str:
    """The multiples of `unit` next to `whole`."""
    below = whole // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def _sources(config: Config) -> str:
    batch, accum = source_of(config, "batch_size"), source_of(config, "grad_accum")
    return batch if batch == accum else f"{batch} and {accum}"
