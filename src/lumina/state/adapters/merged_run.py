"""A run whose weights contain adapters, or no longer contain them, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lumina.config import Config, Source
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.stored import ROLES
from lumina.ops.low_bits.codec import Codec, found_codec
from lumina.plan.model_options import model_leaves
from lumina.state.adapters.adapter import PLAIN_LORA, Adapter
from lumina.state.adapters.merging import changed_by, in_words
from lumina.state.huggingface.run import write_run
from lumina.state.huggingface.staging import require_unused
from lumina.state.weights import Weights

ADDED_UP = (*PLAIN_LORA, "adalora", "loha", "lokr")
"""Methods of which the change does not depend on the weight, so it can be taken out."""


@dataclass(frozen=True)
class Cost:
    """What merging changed, and what rounding lost of it.

    Attributes:
        changed: how many logical tensors.
        relative: size of the change over that of the changed weights, each the root of
            the sum of squares.
        lost: name of a type -> the part of the change that rounding the merged weights
            to it loses, measured as `relative` is.
    """

    changed: int
    relative: float
    lost: dict[str, float]

    def in_words(self) -> str:
        """The cost, a line for each figure."""
        text = (
            f"{self.changed} tensors changed by {self.relative:.3%} of their size\n"
            f"of that change, rounding the weights to float32 lost "
            f"{self.lost['float32']:.2e}; rounding to bfloat16 would lose "
            f"{self.lost['bfloat16']:.2e}"
        )
        for name in self.lost.keys() - {"float32", "bfloat16"}:
            text += (
                f"\nrounding the matrices to {name} lost {self.lost[name]:.2%} of it"
            )
        return text


class _Sums:
    """Squares, summed over tensors.

    Args:
        codec: by which the matrices are rounded, or "".
    """

    def __init__(self, codec: str) -> None:
        self.changed = 0
        self.codec = codec
        self.of = dict.fromkeys(("weight", "change", "float32", "bfloat16"), 0.0)
        if codec:
            self.of[codec] = 0.0

    def add(self, base: Tensor, change: Tensor, rounded: Tensor) -> None:
        """Count one tensor.

        Args:
            base: before.
            change: what is added.
            rounded: what is written.
        """
        exact = base.double() + change.double()
        self.changed += 1
        values = {
            "weight": base,
            "change": change,
            "float32": exact - exact.float(),
            "bfloat16": exact - exact.bfloat16(),
            self.codec: exact - rounded,
        }
        for name in self.of:
            self.of[name] += float(values[name].double().square().sum())

    def cost(self) -> Cost:
        """The sums as shares."""
        root = {name: math.sqrt(value) for name, value in self.of.items()}
        change = root["change"] or math.inf
        return Cost(
            self.changed,
            root["change"] / (root["weight"] or math.inf),
            {n: r / change for n, r in root.items() if n not in ("weight", "change")},
        )


def write_changed(
    weights: Weights,
    adapters: Sequence[tuple[Adapter, float]],
    target: Path,
    direction: Literal["merge", "unmerge"] = "merge",
    codec: str = "",
) -> Cost:
    """Write a run with adapters merged in, or taken out; the weights stay as they are.

    Args:
        weights: of a model; for "unmerge" those that the adapters were merged into.
        adapters: each with the factor of its change.
        target: the new run directory; appears whole or not at all.
        direction: "unmerge" subtracts, which leaves the rounding of both ways.
        codec: of `lumina.ops.low_bits`, to whose values every matrix is rounded, also
            those that no adapter changes; "" leaves them in float32.

    Returns:
        What it changed and lost, in float32 against float64.

    Raises:
        LuminaError: E002 for a folder in use, and where a change cannot be taken out;
            E005 for a codec that is none; E104, E106 or E204 when the run cannot be
            written.
    """
    require_unused(target)
    if direction == "unmerge":
        _require_removable(adapters)
    sign = 1.0 if direction == "merge" else -1.0
    sums, tensors = _Sums(codec), {}
    info = tensor_info(weights.spec)
    for name in weights.source.names():
        few = found_codec(codec) if codec and info[name].role in ROLES else None
        tensors[name] = _changed(weights, adapters, name, sign, sums, few)
    word = "with" if direction == "merge" else "without"
    origin = f"{weights.description} {word} {in_words(adapters)}"
    leaves = model_leaves(weights.spec)
    config = Config().override(leaves, Source("file", f"weights {origin}"))
    tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
    write_run(target, weights.spec, tensors, tokenizer, config, origin)
    return sums.cost()


@torch.no_grad()
def _changed(
    weights: Weights,
    adapters: Sequence[tuple[Adapter, float]],
    name: str,
    sign: float,
    sums: _Sums,
    codec: Codec | None,
) -> Tensor:
    """A logical tensor with the changes added, `sign` times, and rounded."""
    base: Tensor = weights.source.tensor(name)
    changes = [
        change * (factor * sign)
        for adapter, factor in adapters
        if (change := changed_by(adapter, name, base)) is not None
    ]
    if not changes:
        return base if codec is None else codec.pack(base.float()).unpacked()
    total = torch.zeros_like(base, dtype=torch.float32)
    for change in changes:
        total[: change.shape[0]] += change
    after = base.float() + total
    if codec is not None:
        after = codec.pack(after).unpacked()
    sums.add(base.float(), total, after)
    return after


def _require_removable(adapters: Sequence[tuple[Adapter, float]]) -> None:
    """Refuse to subtract what depends on the weight before it was merged."""
    for adapter, _ in adapters:
        if adapter.method not in ADDED_UP or adapter.replaced:
            what = (
                f"an adapter of the method {adapter.method}"
                if not adapter.replaced
                else "an adapter that holds weights whole"
            )
            raise LuminaError(
                "E002",
                f"{adapter.name} cannot be taken out again: what {what} changes "
                "depends on the weights before it was merged",
                "use the model that it was merged into; merging never changes that",
            )
