"""PowerSGD: gradients are exchanged as products of narrow matrices, errors made good.

Vogels et al., 2019, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization", arXiv:1905.13727: one step of the power method, which begins where the
last one ended (Algorithm 1), with error feedback (Algorithm 2). On each rank, for a
matrix M [n, m] of its own gradient and its error,

    P = the sum over the ranks of M Q        Q [m, r] of the step before
    P = an orthonormal basis of P            [n, r], the same on all ranks
    Q = the mean over the ranks of M^T P
    gradient = P Q^T                         the same on all ranks
    error = M - P Q^T                        of this rank

so that a rank sends r (n + m) numbers in place of n m. The mean of the errors and the
gradient make the mean of all M: what one step leaves out, later ones bring.

PyTorch has this as a hook of DDP (`powerSGD_hook`). It is not used, for three reasons.
It keeps errors and Q by the number of a bucket, and DDP forms its buckets anew in the
second step of every process, so that a run could not go on to the bit where it ended. A
gradient that is not finite would stay in its errors for ever. And it can begin with the
third step of a process at the earliest.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from lumina.parallel.matrices import Matrices, as_matrices
from lumina.parallel.mesh import RankGroup


@dataclass
class Apart:
    """A parameter whose gradient is taken apart.

    Attributes:
        name: of the parameter.
        parameter: of the network; its gradient is float32.
        shape: of its matrices and factors.
        error: float32 of the parameter's shape: what this rank's gradients have had
            that was not exchanged yet.
        left: [count, rows, rank], a place in the first message.
        right: [count, columns, rank], the Q of the step before.
        basis: [count, columns, rank], an orthonormal basis of it.
        fresh: [count, columns, rank], a place in the second message.
    """

    name: str
    parameter: nn.Parameter
    shape: Matrices
    error: Tensor
    left: Tensor
    right: Tensor
    basis: Tensor
    fresh: Tensor

    def stacked(self, tensor: Tensor) -> Tensor:
        """[count, rows, columns]: a tensor of the parameter's shape as its matrices."""
        return tensor.view(self.shape.count, self.shape.rows, self.shape.columns)


class LowRank:
    """The gradients of a network, exchanged as products of narrow matrices.

    Vectors, and matrices whose factors would be more than half of them, are exchanged
    whole in the first message. All ranks make one of the same parameters, in one order.

    Attributes:
        apart: what is taken apart.
        whole: the parameters whose gradients stay whole.
        begun: whether there was an exchange, in this process or in an earlier one of
            the run; until then all errors are zero.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], ranks: RankGroup, rank: int
    ) -> None:
        """Take room for the errors, the factors and two messages.

        Args:
            parameters: what trains, float32, by name.
            ranks: among which gradients are averaged.
            rank: columns of the factors.
        """
        self._ranks = ranks
        self.begun = False
        shapes = {
            name: shape
            for name, one in parameters.items()
            if (shape := as_matrices(one.shape, rank)) is not None
        }
        self.whole = [one for name, one in parameters.items() if name not in shapes]
        device = next(iter(parameters.values())).device
        lefts = sum(shape.left for shape in shapes.values())
        rights = sum(shape.right for shape in shapes.values())
        plain = sum(one.numel() for one in self.whole)
        self._first = torch.zeros(lefts + plain, device=device)
        self._plain = self._first[lefts:]
        self._second = torch.zeros(rights, device=device)
        self._kept = torch.zeros(rights, device=device)
        self._basis = torch.zeros(rights, device=device)
        largest = max((shape.size for shape in shapes.values()), default=0)
        self._product = torch.zeros(largest, device=device)
        # Factors with as many rows lie side by side: one call makes bases of them all.
        by_rows = sorted(shapes, key=lambda name: shapes[name].rows)
        by_columns = sorted(shapes, key=lambda name: shapes[name].columns)
        left = _places(self._first, shapes, by_rows, 0)
        right, basis, fresh = (
            _places(buffer, shapes, by_columns, 1)
            for buffer in (self._kept, self._basis, self._second)
        )
        self.apart = [
            Apart(
                name,
                parameters[name],
                shape,
                torch.zeros_like(parameters[name], dtype=torch.float32),
                left[name],
                right[name],
                basis[name],
                fresh[name],
            )
            for name, shape in shapes.items()
        ]
        self._left_groups = list(_groups(self._first, shapes, by_rows, 0))
        self._right_groups = [
            (kept, basis)
            for kept, basis in zip(
                _groups(self._kept, shapes, by_columns, 1),
                _groups(self._basis, shapes, by_columns, 1),
                strict=True,
            )
        ]
        for one in self.apart:
            one.right.copy_(first_factor(one.name, one.shape))

    @torch.no_grad()
    def exchange(self) -> None:
        """Make this rank's gradients an approximation of their mean over the ranks.

        Nothing is read back to the host. Where a gradient of any rank is not finite,
        all that is taken apart becomes NaN on every rank, for the finite gate to pass
        the step over, and errors and Q stay as they are. Memory that runs out does so
        before any of them changes: what is large has its room already.
        """
        self.begun = True
        # The same product as with Q itself, whose columns differ in length as the
        # singular values do: rounding would leave the largest of them only.
        for kept, basis in self._right_groups:
            basis.copy_(_orthonormal(kept))
        for one in self.apart:
            matrix = one.stacked(_gradient(one.parameter).add_(one.error))
            torch.bmm(matrix, one.basis, out=one.left)
        if self.whole:
            gradients = [_gradient(one).view(-1) for one in self.whole]
            torch.cat(gradients, out=self._plain)
        self._ranks.sum_(self._first)
        finite = torch.isfinite(self._first).all()
        self._spread_whole()
        for group in self._left_groups:
            # A basis of numbers that are not finite need not come to an end.
            usable = torch.where(finite, group, torch.zeros_like(group))
            group.copy_(_orthonormal(usable))
        for one in self.apart:
            matrix = one.stacked(_gradient(one.parameter))
            torch.bmm(matrix.transpose(1, 2), one.left, out=one.fresh)
        self._ranks.sum_(self._second).div_(self._ranks.size)
        finite = finite & torch.isfinite(self._second).all()
        torch.where(finite, self._second, self._kept, out=self._kept)
        # A step that is not finite has to be seen as such by whoever judges it.
        self._second.add_(torch.where(finite, 0.0, torch.nan))
        for one in self.apart:
            self._take_apart(one, finite)

    def _take_apart(self, one: Apart, finite: Tensor) -> None:
        """The gradient becomes the product of its factors, the rest its error."""
        summed = _gradient(one.parameter)
        product = self._product[: one.shape.size]
        torch.bmm(one.left, one.fresh.transpose(1, 2), out=one.stacked(product))
        summed.view(-1).sub_(product)
        torch.where(finite, summed, one.error, out=one.error)
        summed.view(-1).copy_(product)

    def _spread_whole(self) -> None:
        """The means of the gradients that were exchanged whole."""
        self._plain.div_(self._ranks.size)
        at = 0
        for one in self.whole:
            gradient = _gradient(one).view(-1)
            gradient.copy_(self._plain[at : at + len(gradient)])
            at += len(gradient)


def first_factor(name: str, shape: Matrices) -> Tensor:
    """[count, columns, rank]: the Q of a first step, normal and the same on all ranks.

    Args:
        name: of the parameter; another one begins with other numbers.
        shape: of its matrices.
    """
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape.count, shape.columns, shape.rank, generator=draw)


def _orthonormal(matrices: Tensor) -> Tensor:
    """[count, n, r]: orthonormal columns that span at least those of each matrix.

    By Householder reflections, which need no columns that are independent: where an
    expert got no token, say, they are all zero.
    """
    basis, _ = torch.linalg.qr(matrices)
    return torch.as_tensor(basis)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient of a parameter; zeros where no backward pass came to it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _rows_of(shape: Matrices, side: int) -> int:
    """Rows of the left factors (0) or of the right ones (1)."""
    return shape.columns if side else shape.rows


def _places(
    buffer: Tensor, shapes: Mapping[str, Matrices], order: list[str], side: int
) -> dict[str, Tensor]:
    """[count, rows, rank] of each parameter in turn, as parts of a buffer."""
    found, at = {}, 0
    for name in order:
        shape = shapes[name]
        rows = _rows_of(shape, side)
        size = shape.count * rows * shape.rank
        found[name] = buffer[at : at + size].view(shape.count, rows, shape.rank)
        at += size
    return found


def _groups(
    buffer: Tensor, shapes: Mapping[str, Matrices], order: list[str], side: int
) -> Iterator[Tensor]:
    """[count, rows, rank] of all parameters whose factors have as many rows."""
    at = 0
    alike = groupby(order, key=lambda name: _rows_of(shapes[name], side))
    for rows, names in alike:
        members = [shapes[name] for name in names]
        count, rank = sum(one.count for one in members), members[0].rank
        size = count * rows * rank
        yield buffer[at : at + size].view(count, rows, rank)
        at += size
