"""Rows of 2^31 numbers and a few more or less: S = 524,288 and its neighbours at 4,096.

A tensor of that size needs no memory where its rows overlap: row t of `windows` begins
at number t of a line of numbers. Whatever keeps places in 32 bits reads other numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lumina.ops
from lumina.batch import IGNORE, Batch
from lumina.config import Config
from lumina.model.build import build_network
from lumina.ops.cross_entropy.chunked import cross_entropy
from lumina.ops.tiled import tiled
from lumina.plan.shape import resolve_spec

LENGTH, WIDTH = 524_288, 4_096


def windows(length: int, width: int) -> Tensor:
    torch.manual_seed(0)
    line = torch.randn(length + width) / 64
    return line.as_strided((length, width), (1, 1))


def loss_of_the_end(length: int, width: int, chunk: int) -> None:
    """Only the last three rows have labels; their loss and gradient are known."""
    hidden, weight = windows(length, width), torch.randn(8, width, requires_grad=True)
    labels = torch.full((length,), IGNORE)
    labels[-3:] = torch.tensor([1, 5, 2])
    found = cross_entropy(hidden, weight, labels, None, 8, chunk)
    found.loss.backward()
    again = weight.detach().clone().requires_grad_()
    ends = hidden[-3:].clone() @ again.t()
    loss = torch.nn.functional.cross_entropy(ends, labels[-3:], reduction="sum")
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert weight.grad is not None and again.grad is not None
    torch.testing.assert_close(weight.grad, again.grad, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.loss_t[-3:] > 0, torch.ones(3, dtype=torch.bool))


def test_the_loss_of_the_last_rows_is_theirs() -> None:
    """The same with few numbers, and the chunks that a long row has."""
    loss_of_the_end(4097, 64, 2**12)


@pytest.mark.slow
@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH, LENGTH + 1])
def test_a_loss_over_two_to_the_31_numbers(length: int) -> None:
    loss_of_the_end(length, WIDTH, 2**18)


@pytest.mark.slow
@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1])
def test_tiles_of_two_to_the_31_numbers(length: int) -> None:
    x = windows(length, WIDTH)
    weight = torch.randn(1, WIDTH)
    with torch.no_grad():
        y = tiled(lambda x, w: x.clone() @ w.t(), [x], [weight], 8192)
    assert y.shape == (length, 1)
    torch.testing.assert_close(y[-2:], x[-2:].clone() @ weight.t())


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("full", LENGTH + 1),
        pytest.param("full", LENGTH - 1, marks=pytest.mark.thorough),
        pytest.param("sqrt", LENGTH + 1, marks=pytest.mark.thorough),
    ],
)
def test_a_step_of_that_length_has_the_right_shapes(kind: str, length: int) -> None:
    """On the meta device: all shapes and slices of a forward and a backward pass."""
    from lumina.assemble.checkpointing import recompute
    from lumina.assemble.tiling import tile
    from machines import gpu, plan_for

    shape = {"vocab_size": 256, "hidden_size": WIDTH, "num_heads": 32, "num_layers": 4}
    config = Config(
        **shape, intermediate_size=8192, seq_length=length, batch_size=1,
        global_batch_size=1, gradient_checkpointing=kind, feedforward_tile=32768,
        steps=1,
    )  # fmt: skip
    plan = plan_for(config, gpu(gib=1000))
    assert plan.memory["bound"] > 2 * 4 * WIDTH * length
    with torch.device("meta"):
        spec = resolve_spec(config)
        network = build_network(spec, loss_chunk_bytes=2**28, seed=None, device="meta")
        network.backbone.compute_dtype = torch.bfloat16
        recompute(network, plan)
        tile(network, plan)
        ids = torch.zeros(1, length, dtype=torch.int64)
        batch = Batch.from_rows(ids, ids)
        sums, _ = network(batch)
        sums.loss_sum.backward()
    gradient = network.backbone.blocks[0].feedforward.down.weight.grad
    assert gradient is not None and gradient.shape == (WIDTH, 8192)


def test_kernels_count_rows_in_64_bits() -> None:
    """A row's number is widened before anything is multiplied by a row's length."""
    found = 0
    for path in Path(lumina.ops.__path__[0]).rglob("*.py"):
        for line in path.read_text().splitlines():
            match = re.search(r"(\w+) = (.*tl\.program_id\(0\).*)", line)
            if match is None:
                continue
            found += 1
            name, made = match.groups()
            if "tl.int64" in made:
                continue
            uses = re.findall(rf"\b{name}\b[^=\n]*\* *\w+", path.read_text())
            assert not [u for u in uses if "int64" not in u], (path.name, uses)
    assert found >= 4
