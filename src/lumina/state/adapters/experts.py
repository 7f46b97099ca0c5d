"""Pieces of stacks of experts, as PEFT's folders hold them.

There are two forms. Folders of transformers 4 hold the matrices of each expert apart.
Those of transformers 5 hold those of all experts in one pair of matrices a layer, of
which the gate and up projection share one: `a` [experts * rank, in] and
`b` [out, rank * experts], in which the expert is the fastest index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.tensors import Shape
from lumina.state.adapters.adapter import PLAIN_LORA, Piece
from lumina.state.adapters.peft_type import PeftType


def stacked(
    method: str, logical: str, parts: Mapping[int, Piece], experts: int
) -> Piece:
    """One piece of those of single experts; an expert without one is not changed.

    Raises:
        LuminaError: E002 where experts differ in rank or alpha, or where only some
            have a piece of a method other than LoRA.
    """
    first = next(iter(parts.values()))
    same = {(part.rank, part.alpha, frozenset(part.tensors)) for part in parts.values()}
    if len(same) > 1 or (len(parts) < experts and method not in PLAIN_LORA):
        raise LuminaError(
            "E002",
            f"the experts of {logical} are changed in different ways",
            "give all experts of a layer the same rank and alpha",
        )
    none = {name: torch.zeros_like(value) for name, value in first.tensors.items()}
    tensors = {
        name: torch.stack(
            [
                parts[number].tensors[name] if number in parts else none[name]
                for number in range(experts)
            ]
        )
        for name in first.tensors
    }
    return Piece(tensors, first.rank, first.alpha)


def fused_pieces_of(
    kind: PeftType,
    config: Mapping[str, Any],
    module: str,
    held: dict[str, Tensor],
    logical: Mapping[str, str],
    shapes: Mapping[str, Shape],
) -> dict[str, Piece]:
    """The pieces that one pair of matrices for all experts stands for.

    Args:
        kind: of the adapter.
        config: its settings.
        module: that holds the experts.
        held: `a` and `b`.
        logical: "gate", "up" and "down" -> the logical weight.
        shapes: of logical weights.

    Raises:
        LuminaError: E102 where the pair fits neither gate and up, nor down.
    """
    experts, inner, width = shapes[logical["gate"]]
    a, b = held.get("a"), held.get("b")
    shape = None if a is None or b is None else (a.shape[-1], b.shape[0])
    forms = {(width, 2 * inner): ("gate", "up"), (inner, width): ("down",)}
    found = forms.get(shape) if shape is not None else None
    if a is None or b is None or found is None or a.shape[0] % experts:
        raise LuminaError(
            "E102",
            f"the matrices of {module} do not fit {experts} experts with {width} "
            f"inputs and an inner width of {inner}",
            "use the model that the adapter was trained on",
        )
    parameter = "down_proj" if found == ("down",) else "gate_up_proj"
    whole = kind.piece(config, f"{module}.{parameter}", held)
    rank = a.shape[0] // experts
    a = a.reshape(experts, rank, a.shape[1])
    if b.shape[1] != rank * experts:
        raise LuminaError(
            "E102",
            f"{module}: the two matrices differ in rank",
            "fetch the folder again",
        )
    b = b.reshape(b.shape[0], rank, experts).permute(2, 0, 1)
    rows = b.chunk(len(found), dim=1)
    return {
        logical[part]: Piece({"a": a, "b": one.contiguous()}, whole.rank, whole.alpha)
        for part, one in zip(found, rows, strict=True)
    }


def fused_pair(
    pieces: Mapping[str, Piece], parts: tuple[str, ...], rows: int, stabilised: bool
) -> tuple[Tensor, Tensor, int, float]:
    """The pair of matrices for all experts of a layer, of the pieces of its parts.

    Args:
        pieces: "gate", "up" or "down" -> piece.
        parts: those that share the pair, in order; one without a piece stays as it is.
        rows: outputs of a part.
        stabilised: whether the factor is alpha / sqrt(rank).

    Returns:
        `a` [experts * rank, in], `b` [out, rank * experts], the rank, and an alpha
        under which the first part keeps its factor; that of the others is in `b`.
    """
    held = {part: pieces[part] for part in parts if part in pieces}
    first = next(iter(held.values()))
    power = 0.5 if stabilised else 1.0
    factor = first.alpha / first.rank**power or 1.0
    a = [piece.tensors["a"] for piece in held.values()]
    b = {
        part: piece.tensors["b"] * (piece.alpha / piece.rank**power / factor)
        for part, piece in held.items()
    }
    if len(held) == len(parts) and all(torch.equal(one, a[0]) for one in a):
        a, blocks = a[:1], [torch.cat(list(b.values()), dim=1)]
    else:
        blocks = []
        for part, own in b.items():
            block = own.new_zeros(own.shape[0], rows * len(parts), own.shape[2])
            start = parts.index(part) * rows
            block[:, start : start + rows] = own
            blocks.append(block)
    joined = torch.cat(a, dim=1)
    rank = joined.shape[1]
    whole = torch.cat(blocks, dim=2).permute(1, 2, 0).flatten(1, 2)
    return joined.flatten(0, 1), whole.contiguous(), rank, factor * rank**power
