"""Muon: momentum whose matrices are made orthogonal (Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon/. The update of a matrix is the nearest matrix
with orthogonal rows or columns, found by a few odd polynomials (Newton-Schulz). Each
matrix is orthogonalised by itself: the pieces of a fused parameter, and every expert of
a stack. By default an update is scaled to the size that AdamW's updates have (Liu et
al., 2025, arXiv:2502.16982), so that the rates and decays of AdamW fit. Where ranks
divide matrices by rows, each rank works on its share of the matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import move_, with_gradients
from lumina.optim.declared import Option, StateTensor, register_optimizer
from lumina.optim.optimizer import Optimizer, Slot
from lumina.optim.orthogonal import POLYNOMIALS, orthogonalised
from lumina.optim.sharded import is_sharded
from lumina.optim.shared_matrices import made_by_owners
from lumina.parallel.mesh import RankGroup

BATCH_BYTES = 256 * 2**20
"""Most bytes of float32 updates that a rank orthogonalises together."""

ADAMW_RMS = 0.2
"""Root mean square of the updates of AdamW, as arXiv:2502.16982 measured it."""


def _transfer(width: float, options: Mapping[str, object]) -> float:
    """An orthogonal update moves the products of a matrix by its own scale alone."""
    return float(width**-0.5) if options["scale"] == "adamw" else 1.0


@register_optimizer(
    "muon",
    words="Muon",
    states={"momentum": StateTensor()},
    options={
        "momentum": Option(0.95, least=0, below=1),
        "nesterov": Option(True),
        "iterations": Option(5, least=1, below=17),
        "polynomial": Option("quintic", choices=tuple(POLYNOMIALS)),
        "scale": Option("adamw", choices=("adamw", "shape")),
    },
    roles=("matrix", "expert"),
    rest="adamw",
    transfer=_transfer,
)
class Muon(Optimizer):
    """Matrices by orthogonal updates; everything else belongs to AdamW.

    Args:
        slots: the parameters it trains: matrices, fused or stacked.
        options: momentum, the share of the mean that a step keeps; nesterov, which
            looks one step of momentum ahead; iterations and polynomial, how an update
            is made orthogonal; scale, "adamw" for 0.2 sqrt(max(rows, columns)) or
            "shape" for sqrt(max(1, rows / columns)).
        device: where its own numbers live.
        ranks: those among which the tokens of a step are divided; None: one alone.
    """

    def __init__(
        self,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None = None,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self.momentum, self.nesterov = options["momentum"], options["nesterov"]
        for slot in slots:
            slot.state = {"momentum": torch.zeros_like(slot.master)}
        self._batches = list(_batches(slots, 1 if ranks is None else ranks.size))

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        rate = lr * (1.0 - skip)
        for number, batch in enumerate(self._batches):
            found = list(self._directions(batch, divisor, skip))
            if not found:
                continue
            slots = [slot for slot, _ in found]
            updates = self._updates(slots, [one for _, one in found], number)
            for slot, update in zip(slots, updates, strict=True):
                move_(slot, update, rate, weight_decay)

    def _updates(
        self, slots: list[Slot], directions: list[Tensor], number: int
    ) -> Iterable[Tensor]:
        """The updates of slots that are alike, for the rows that are here.

        Divided matrices are shared out: each rank makes some of them orthogonal.
        """
        first = slots[0]
        if self.ranks is None or not is_sharded(first.parameter) or not _by_rows(first):
            return self._orthogonal(torch.stack(directions), first)
        return made_by_owners(
            directions,
            first.parameter.shape[0],
            self.ranks,
            lambda stacked: self._orthogonal(stacked, first),
            number % self.ranks.size,
        )

    def _directions(
        self, slots: list[Slot], divisor: Tensor, skip: Tensor
    ) -> Iterator[tuple[Slot, Tensor]]:
        """Each slot and what is to be made orthogonal, as far as it is here."""
        share = (1.0 - self.momentum) * (1.0 - skip)
        for slot, gradient in with_gradients(slots, divisor, skip):
            mean = slot.state["momentum"]
            mean.lerp_(gradient, share)
            direction = gradient.lerp(mean, self.momentum) if self.nesterov else mean
            yield slot, direction

    def _orthogonal(self, stacked: Tensor, slot: Slot) -> Tensor:
        """[N, ...]: the updates of N slots that are like `slot`.

        All matrices of one shape go through the iterations together.
        """
        if slot.pieces is None:
            return self._scaled(stacked)
        axis = slot.pieces.dim + 1
        pieces = stacked.split(list(slot.pieces.sizes), dim=axis)
        found: list[Tensor] = list(pieces)
        for shape in dict.fromkeys(piece.shape for piece in pieces):
            alike = [i for i, piece in enumerate(pieces) if piece.shape == shape]
            made = self._scaled(torch.stack([pieces[i] for i in alike]))
            for i, update in zip(alike, made, strict=True):
                found[i] = update
        return torch.cat(found, dim=axis)

    def _scaled(self, matrices: Tensor) -> Tensor:
        """Of [..., rows, columns]: each matrix orthogonal, in its size."""
        rows, columns = matrices.shape[-2:]
        if self.options["scale"] == "adamw":
            scale = ADAMW_RMS * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1.0, rows / columns))
        found = orthogonalised(
            matrices, self.options["polynomial"], self.options["iterations"]
        )
        return found.mul_(scale)


def _by_rows(slot: Slot) -> bool:
    """Whether ranks divide the rows of a matrix; of a stack each has whole matrices."""
    return slot.parameter.ndim == 2


def _batches(slots: list[Slot], ranks: int) -> Iterator[list[Slot]]:
    """Slots whose updates are orthogonalised together: alike, and not too many.

    Every rank makes the same batches of divided matrices, in the same order.

    Args:
        slots: in the network's order.
        ranks: how many share the divided matrices of a batch.
    """
    groups: dict[Any, list[Slot]] = {}
    for slot in slots:
        like = slot.parameter if _by_rows(slot) else slot.master
        cut = None if slot.pieces is None else (slot.pieces.dim, slot.pieces.sizes)
        groups.setdefault((tuple(like.shape), cut), []).append(slot)
    for (shape, _), group in groups.items():
        many = max(1, BATCH_BYTES // max(1, 4 * math.prod(shape)))
        if _by_rows(group[0]) and is_sharded(group[0].parameter):
            many *= ranks
        for first in range(0, len(group), many):
            yield group[first : first + many]
