"""Several adapters of LoRA as one: exactly, or of a lower rank with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.adapters.table import chosen_method
from lumina.state.adapters.adapter import PLAIN_LORA, Adapter, Piece
from lumina.state.adapters.as_lora import as_lora


def combined(
    adapters: Sequence[tuple[Adapter, float]], name: str, rank: int | None = None
) -> tuple[Adapter, float]:
    """One LoRA that changes the weights as all of them do together.

    The narrow matrices are set side by side, so ranks add up. A lower rank keeps, of
    each change, the nearest one of that rank.

    Args:
        adapters: each with the factor of its change.
        name: of the result.
        rank: most that a piece may have; None: as many as are needed.

    Returns:
        The adapter, and the part of the change that a lower rank loses: the root of the
        sum of squares of what is lost, over that of the change.

    Raises:
        LuminaError: E002 for an adapter of another method, E005 for a rank below 1.
    """
    if rank is not None and rank < 1:
        raise LuminaError("E005", f"the rank is {rank}", "give 1 or more")
    by_weight: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter, factor in adapters:
        for logical, a, b in _products(adapter, factor):
            by_weight.setdefault(logical, []).append((a, b))
    pieces, lost, whole = {}, 0.0, 0.0
    for logical, pairs in by_weight.items():
        a = torch.cat([one for one, _ in pairs], dim=-2)
        b = torch.cat([one for _, one in pairs], dim=-1)
        size = float((b.mT @ b * (a @ a.mT)).sum())  # |B A|^2 by narrow products
        whole += size
        if rank is not None and a.shape[-2] > rank:
            a, b, kept = _of_rank(a, b, rank)
            lost += max(size - kept, 0.0)
        ranks = a.shape[-2]
        pieces[logical] = Piece({"a": a, "b": b}, ranks, float(ranks))
    share = math.sqrt(lost / whole) if whole else 0.0
    return Adapter(name, "lora", pieces, base=adapters[0][0].base), share


def _products(adapter: Adapter, factor: float) -> list[tuple[str, Tensor, Tensor]]:
    """Logical name, `a` and `b` of each change; factors are in `b`.

    Raises:
        LuminaError: E002 for an adapter that is more than such products.
    """
    plain = as_lora(adapter)
    if plain.method not in PLAIN_LORA or plain.replaced:
        raise LuminaError(
            "E002",
            f"{adapter.name} is of the method {adapter.method}, which does not add up "
            "to a LoRA",
            "merge it into the model instead: `lumina adapters merge`",
        )
    method = chosen_method(plain.method)
    return [
        (
            logical,
            piece.tensors["a"],
            piece.tensors["b"] * (factor * method.scale(piece.alpha, piece.rank)),
        )
        for logical, piece in plain.pieces.items()
    ]


def _of_rank(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The nearest product of a lower rank, and its squared size."""
    left, inner = torch.linalg.qr(b)
    right, outer = torch.linalg.qr(a.mT)
    u, values, v = torch.linalg.svd(inner @ outer.mT)
    root = values[..., :rank].sqrt()
    new_b = left @ u[..., :rank] * root.unsqueeze(-2)
    new_a = root.unsqueeze(-1) * (v[..., :rank, :] @ right.mT)
    return (
        new_a.contiguous(),
        new_b.contiguous(),
        float(values[..., :rank].square().sum()),
    )
