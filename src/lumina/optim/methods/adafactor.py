"""Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235).

The mean of squared gradients of a matrix is kept as a row and a column, whose product
stands for it. Each matrix is one by itself: the pieces of a fused parameter, and every
expert of a stack. Where matrices are divided over ranks by rows, the sums over rows are
made over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.optim.arithmetic import move_, precise, with_gradients
from lumina.optim.declared import (
    Option,
    Shape,
    StateTensor,
    by_element,
    register_optimizer,
)
from lumina.optim.optimizer import Optimizer, Slot
from lumina.optim.sharded import is_sharded, rows_here
from lumina.parallel.mesh import RankGroup

EPSILON = 1e-30
"""What is added to a squared gradient, as the paper does."""


def _row_shape(shape: Shape, pieces: int) -> Shape | None:
    return shape[:-1] if len(shape) > 1 else None


def _column_shape(shape: Shape, pieces: int) -> Shape | None:
    return (*shape[:-2], pieces, shape[-1]) if len(shape) > 1 else None


def _square_shape(shape: Shape, pieces: int) -> Shape | None:
    return shape if len(shape) < 2 else None


STATES = {
    "row": StateTensor(shared=-1, shape_of=_row_shape),
    "column": StateTensor(shared=-2, shape_of=_column_shape),
    "square": StateTensor(shape_of=_square_shape),
}
"""Of matrices a row and a column for each of its pieces, of vectors all squares."""


@register_optimizer(
    "adafactor",
    words="Adafactor",
    transfer=by_element,
    states=STATES,
    options={
        "decay_power": Option(0.8, least=0),
        "clip": Option(1.0, least=0),
        "scale_by_weights": Option(False),
        "least_scale": Option(1e-3, least=0),
    },
)
class Adafactor(Optimizer):
    """Adam's second moment in the room of a few vectors, and no first one.

    Args:
        slots: the parameters it trains.
        options: decay_power, where step t keeps 1 - t ** -decay_power of the mean;
            clip, the largest root mean square of an update; scale_by_weights, which
            multiplies the rate by the root mean square of a matrix, at least
            least_scale.
        device: where the step counter lives.
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
        self.steps = torch.zeros((), dtype=torch.float32, device=device)
        for slot in slots:
            shape, pieces = tuple(slot.master.shape), len(slot.matrix_names)
            slot.state = {
                name: slot.master.new_zeros(found)
                for name, state in STATES.items()
                if state.shape_of
                and (found := state.shape_of(shape, pieces)) is not None
            }

        self._matrices = {slot.name: _Matrices(slot) for slot in slots}

    @torch.no_grad()
    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master; arguments as of `Optimizer.step`."""
        moves = 1.0 - skip
        self.steps.add_(moves)
        count = precise(self.steps).clamp(min=1.0)
        share = count.pow(-self.options["decay_power"]).float() * moves

        def gradients() -> Iterator[tuple[_Matrices, Tensor]]:
            for slot, gradient in with_gradients(self.slots, divisor, skip):
                matrices = self._matrices[slot.name]
                yield matrices, gradient.view(matrices.shape)

        # Three passes over the gradients, so that what is summed over rows is summed
        # over the ranks for all slots at once, and no pass keeps its updates.
        live = [matrices for matrices, _ in gradients()]
        sums = self._over_ranks(live, [m.sums(g, share) for m, g in gradients()])
        scales = [m.taken(one, share) for m, one in zip(live, sums, strict=True)]
        squares = self._over_ranks(
            live,
            [
                m.squares(m.direction(g, scale))
                for (m, g), scale in zip(gradients(), scales, strict=True)
            ],
        )
        for (m, g), scale, square in zip(gradients(), scales, squares, strict=True):
            update = m.direction(g, scale)
            m.multiply_(update, self._factors(m, square))
            move_(m.slot, update.view_as(m.slot.master), lr * moves, weight_decay)

    def _factors(self, matrices: _Matrices, squares: Tensor) -> Tensor:
        """[L, P]: what the update of each matrix is multiplied by."""
        updates, weights = (squares / matrices.sizes).sqrt().unbind()
        factors = torch.ones_like(updates)
        if self.options["clip"]:
            factors = factors / (updates / self.options["clip"]).clamp(min=1.0)
        if self.options["scale_by_weights"]:
            factors = factors * weights.clamp(min=self.options["least_scale"])
        return factors

    def _over_ranks(
        self, matrices: list[_Matrices], found: list[Tensor]
    ) -> list[Tensor]:
        """What was found for each slot, added up over the ranks that divide it."""
        apart = [i for i, one in enumerate(matrices) if one.divided]
        if self.ranks is None or not apart:
            return found
        flat = self.ranks.sum_(torch.cat([found[i].flatten() for i in apart]))
        parts = flat.split([found[i].numel() for i in apart])
        for i, part in zip(apart, parts, strict=True):
            found[i] = part.view_as(found[i])
        return found

    def scalars(self) -> dict[str, Tensor]:
        """The number of steps that were taken."""
        return {"steps": self.steps}

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`."""
        self.steps.fill_(values["steps"])


class _Matrices:
    """A slot as [L, rows, columns]: a stack of L, of which each is P pieces of rows.

    A vector is a single column. Of a stack, a rank holds whole matrices; of everything
    else it may hold some rows.

    Attributes:
        slot: the slot.
        shape: (L, rows, columns) on this rank.
        divided: whether other ranks hold further rows.
        ranges: for each piece, its rows on this rank.
        lengths: [P, 1] rows of each piece on all ranks.
        sizes: [P] elements of each piece on all ranks.
    """

    def __init__(self, slot: Slot) -> None:
        """Describe a slot of an Adafactor."""
        self.slot = slot
        local, full = slot.master.shape, slot.parameter.shape
        if len(local) > 1:
            self.shape = (local[:-2].numel(), local[-2], local[-1])
        else:
            self.shape = (1, local[0], 1)
        here = slice(0, self.shape[1])
        self.divided = len(full) <= 2 and is_sharded(slot.parameter)
        if self.divided:
            here = rows_here(slot.parameter)
        whole = full[0] if self.divided else self.shape[1]
        lengths = (whole,) if slot.pieces is None else slot.pieces.sizes
        self.ranges, end = list[slice](), 0
        for length in lengths:
            bounds = (min(max(at, here.start), here.stop) for at in (end, end + length))
            self.ranges.append(slice(*(at - here.start for at in bounds)))
            end += length
        self.lengths = slot.master.new_tensor(lengths)[:, None]
        self.sizes = self.lengths[:, 0] * self.shape[2]

    def _by_piece(self, x: Tensor) -> Tensor:
        """[L, P, ...]: the sum of the rows of each piece."""
        return torch.stack([x[:, rows].sum(1) for rows in self.ranges], dim=1)

    def sums(self, gradient: Tensor, share: Tensor) -> Tensor:
        """[L, P, columns + 1]: squares summed over rows, and the rows' means summed.

        The means of each row, and of a vector all squares, enter the state.
        """
        square = gradient.square().add_(EPSILON)
        if "square" in self.slot.state:
            self.slot.state["square"].view(self.shape).lerp_(square, share)
            return square.new_zeros(0)
        row = self.slot.state["row"].view(self.shape[:2])
        row.lerp_(square.mean(-1), share)
        return torch.cat(
            [self._by_piece(square), self._by_piece(row)[..., None]], dim=-1
        )

    def taken(self, sums: Tensor, share: Tensor) -> Tensor:
        """Let the sums over all rows into the state.

        Returns:
            [L, P, columns]: what the row of an element is multiplied by, to be the mean
            of its square.
        """
        if "square" in self.slot.state:
            return sums
        means = sums / self.lengths
        column = self.slot.state["column"].view(-1, len(self.ranges), self.shape[2])
        column.lerp_(means[..., :-1], share)
        return column / means[..., -1:].clamp(min=EPSILON)

    def direction(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """The gradient over the root of the mean of its square; `scale` of `taken`."""
        if "square" in self.slot.state:
            square = self.slot.state["square"].view(self.shape)
        else:
            square = self.slot.state["row"].view(self.shape[:2])[..., None]
            square = square.expand(self.shape).clone()
            for number, rows in enumerate(self.ranges):
                square[:, rows].mul_(scale[:, number, None])
        return gradient * square.clamp(min=EPSILON).rsqrt()

    def squares(self, update: Tensor) -> Tensor:
        """[2, L, P]: the sums of the squares of an update, and of the weights."""
        weights = self.slot.master.view(self.shape)
        return torch.stack(
            [self._by_piece(x.square().sum(-1)) for x in (update, weights)]
        )

    def multiply_(self, update: Tensor, factors: Tensor) -> None:
        """Multiply the rows of each piece by its factor [L, P]."""
        for number, rows in enumerate(self.ranges):
            update[:, rows].mul_(factors[:, number, None, None])
