"""Rates and first values that hold for other widths and depths (muP, CompleteP).

muP (Yang et al., 2022, Tensor Programs V, arXiv:2203.03466) and CompleteP (Dey et al.,
2025, arXiv:2505.01618) scale a model relative to a base shape, so that the rate that is
best for the base is best for the larger model too. Both use multipliers in the forward
pass: 1/m on the logits, for m times the width, and, in CompleteP, 1/l on what a block
adds to the residual stream, for l times the layers. A multiplier c on the product of a
matrix equals a first value and a rate of c times as much, for optimizers to which the
scale of a gradient is nothing (Tensor Programs V, appendix J). They are written so
here: the network stays as it is, and with it every export.

Relative to the base, first value and rate of a tensor are multiplied by:

| | First value | Rate |
|---|---|---|
| embeddings, norms, biases | 1 | 1 |
| matrices, experts | m^-1/2 | 1/m |
| those that write into the residual stream, in CompleteP | m^-1/2 / l | 1/(m l) |
| head, routers | 1/m | 1/m |

The share of a tensor that a step decays, rate times decay, stays the same for all.
Attention keeps its scale, 1/sqrt(head_dim): the heads of the base have the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.declared import parameters
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared
from lumina.optim.declared import Declared as Optimizer
from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config

INNER = ("matrix", "expert")
"""Roles whose inputs and outputs both widen."""

OUTER = ("head", "router")
"""Roles whose inputs alone widen."""


def decide_transfer(config: Config, spec: ModelSpec, decisions: Decisions) -> None:
    """Fix how much wider and deeper the model is than the base of its rate.

    Raises:
        LuminaError: E002 for a base that has other heads, or an optimizer whose rate
            is not known to carry over.
    """
    found = transfer_of(config, spec)
    why = source_of(config, "lr_transfer")
    if found:
        base, layers = config.transfer.base_width, config.transfer.base_depth
        heads = (base or 0) // spec.head_dim
        why += (
            f": the rate is that of a model of width {base}, with {heads} heads of "
            f"{spec.head_dim}" + (f" and {layers} layers" if layers else "")
        )
    decisions.decide("lr_transfer", found, why)


def transfer_of(config: Config, spec: ModelSpec) -> dict[str, Any]:
    """How many times as wide and deep the model is as the base of its rate, if any.

    Raises:
        LuminaError: E002 for a base that has other heads.
    """
    asked = config.transfer
    if asked.lr_transfer is None:
        return {}
    base, layers = asked.base_width or spec.hidden_size, asked.base_depth
    if base % spec.head_dim:
        raise LuminaError(
            "E002",
            f"a base of width {base} has no whole number of heads of {spec.head_dim}, "
            "and attention's scale carries over between heads of one size",
            f"widen by heads: use a --head-dim that divides {base}, such as that of "
            "the base, and more --num-heads",
        )
    depth = spec.num_layers / layers if layers else 1.0
    return {
        "mode": asked.lr_transfer,
        "width": spec.hidden_size / base,
        "depth": depth,
    }


def check_optimizers(decisions: Decisions, used: list[Optimizer]) -> None:
    """Refuse an optimizer whose rate is not known to carry over.

    Raises:
        LuminaError: E002.
    """
    for one in used if decisions.values["lr_transfer"] else ():
        if one.transfer is None:
            mode = decisions.values["lr_transfer"]["mode"]
            raise LuminaError(
                "E002",
                f"lr_transfer {mode} is not known of the optimizer {one.name}",
                "use adamw, or another one of `docs/schedules.md`",
            )


def first_factor(transfer: Mapping[str, Any], tensor: Declared) -> float:
    """What the first value of a tensor is multiplied by.

    Args:
        transfer: `Plan.lr_transfer`; nothing where rates do not carry over.
        tensor: its declaration. What writes into the residual stream has a first value
            that is already divided by the root of twice the layers, of which the base
            has fewer.
    """
    if not transfer or tensor.kind != "parameter":
        return 1.0
    width, depth = transfer["width"], transfer["depth"]
    if tensor.role in OUTER:
        return float(1.0 / width)
    if tensor.role not in INNER:
        return 1.0
    deep = math.sqrt(depth) / depth if _into_residual(tensor) else 1.0
    return float(width**-0.5 * deep)


def rate_factor(
    transfer: Mapping[str, Any],
    tensor: Declared,
    optimizer: Optimizer,
    options: Mapping[str, Any],
) -> float:
    """What the learning rate of a tensor is multiplied by; its decay is divided by it.

    Args:
        transfer: `Plan.lr_transfer`; nothing where rates do not carry over.
        tensor: its declaration.
        optimizer: that trains it.
        options: of that optimizer.
    """
    if not transfer or tensor.role not in INNER + OUTER:
        return 1.0
    assert optimizer.transfer is not None
    wide = optimizer.transfer(transfer["width"], options)
    return wide / transfer["depth"] if _into_residual(tensor) else wide


def first_factors(transfer: Mapping[str, Any], spec: ModelSpec) -> dict[str, float]:
    """Of every parameter whose first value is scaled, by name; see `first_factor`."""
    found = {one.name: first_factor(transfer, one) for one in parameters(spec)}
    return {name: factor for name, factor in found.items() if factor != 1.0}


def _into_residual(tensor: Declared) -> bool:
    return tensor.role in INNER and tensor.axes[-2] == "hidden"
