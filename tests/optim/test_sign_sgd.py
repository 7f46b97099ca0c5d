"""Sign descent on the vectors of a batch's puzzles, against the reference's loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lumina.model.puzzle_vectors import PuzzleVectors
from lumina.optim.methods.sign_sgd import SignSGD
from lumina.optim.optimizer import Slot


def plain(
    table: Tensor, ids: Tensor, gradients: Tensor, rate: float, decay: float
) -> Tensor:
    """One vector after the other: decay, then a step against the sign of the sum."""
    table = table.clone()
    for puzzle in ids.unique().tolist():
        total = gradients[ids == puzzle].double().sum(0)
        kept = table[puzzle] * (1 - rate * decay)
        table[puzzle] = kept - rate * total.sign().float()
    return table


def step(
    table: Tensor, ids: list[Tensor], gradients: list[Tensor], skip: float = 0.0
) -> None:
    """One step at rate 0.1 with decay 0.5, of which each entry is a forward."""
    slot = Slot("table", torch.nn.Parameter(table, False), table, True, touched=[])
    optimizer = SignSGD([slot], {}, device=table.device)
    for some, theirs in zip(ids, gradients, strict=True):
        rows = table[some].clone().requires_grad_()
        (rows * theirs).sum().backward()
        slot.touched.append((some, rows))
    broken, one = optimizer.gather(), torch.ones((), device=table.device)
    optimizer.step(
        lr=0.1 * one,
        weight_decay=0.5,
        divisor=one,
        skip=torch.maximum(broken, skip * one),
    )


def test_used_vectors_move_and_others_do_not() -> None:
    start = torch.randn(50, 8)
    ids = torch.randint(0, 20, (16,))
    gradients = torch.randn(16, 8)
    gradients[3] = 0.0
    found = start.clone()
    step(found, [ids], [gradients])
    wanted = plain(start, ids, gradients, 0.1, 0.5)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    unused = [n for n in range(50) if n not in ids]
    assert torch.equal(found[unused], start[unused])


def test_forwards_of_a_step_add_up() -> None:
    start, ids, gradients = (
        torch.randn(9, 4),
        torch.randint(0, 9, (12,)),
        torch.randn(12, 4),
    )
    whole, parts = start.clone(), start.clone()
    step(whole, [ids], [gradients])
    step(parts, list(ids.split(4)), list(gradients.split(4)))
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(value: float) -> None:
    start, ids, gradients = torch.randn(9, 4), torch.arange(6), torch.randn(6, 4)
    broken = gradients.clone()
    broken[2, 1] = value
    for rows, skip in ((broken, 0.0), (gradients, 1.0)):
        found = start.clone()
        step(found, [ids], [rows], skip)
        assert torch.equal(found, start)


def test_a_table_gives_leaves_in_training_only() -> None:
    table = PuzzleVectors(5, 3)
    torch.nn.init.normal_(table.weight)
    ids = torch.tensor([4, 0, 4])
    rows = table(ids)
    assert rows.is_leaf and rows.requires_grad and torch.equal(rows, table.weight[ids])
    rows.sum().backward()
    assert table.weight.grad is None and rows.grad is not None
    assert not table.eval()(ids).requires_grad


def test_a_table_notes_what_forwards_use_where_an_optimizer_trains_it() -> None:
    table, ids = PuzzleVectors(5, 3), torch.tensor([4, 0, 4])
    table(ids)
    assert table.touched is None
    table.touched = []
    rows = table(ids)
    assert len(table.touched) == 1
    assert table.touched[0][0] is ids and table.touched[0][1] is rows
    table.eval()(ids)
    assert len(table.touched) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_gpu_does_the_same_each_time() -> None:
    start, ids, gradients = (
        torch.randn(900, 64), torch.randint(0, 300, (768,)), torch.randn(768, 64),
    )  # fmt: skip
    wanted = plain(start, ids, gradients, 0.1, 0.5)
    found = []
    for _ in range(3):
        table = start.cuda()
        step(table, [ids.cuda()], [gradients.cuda()])
        found.append(table.cpu())
    assert all(torch.equal(found[0], other) for other in found)
    torch.testing.assert_close(found[0], wanted, rtol=1e-6, atol=1e-7)
