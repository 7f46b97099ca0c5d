"""Attention in pieces on a GPU: each kernel against float32, and chunks of a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lumina.batch import Batch
from lumina.model.earlier_keys import EarlierKeys
from lumina.ops.attention import fused, pieces
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.block_kernels.table import BLOCK_KERNELS, PLAIN, chosen
from lumina.ops.attention.blockwise import blockwise
from lumina.ops.attention.dispatch import attend
from lumina.ops.attention.masks import document_starts
from networks import packed_batch

pytestmark = pytest.mark.gpu

NEWER = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)
KERNELS = ["flash", "efficient", "cudnn"] if NEWER else ["flash", "efficient"]
SIGHTS = [(0, NOTHING), (150, NOTHING), (130, Beyond(sinks=9))]
PACKED = packed_batch([[90, 210, 70, 200], [700], [300, 330]], 700)


def _inputs(
    dtype: torch.dtype, keys: int, heads: int = 2, width: int = 64
) -> list[torch.Tensor]:
    torch.manual_seed(keys + heads)
    return [
        torch.randn(
            3, keys, each, width, device="cuda", dtype=dtype, requires_grad=True
        )
        for each in (8, heads, heads)
    ]


def _grads(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    torch.manual_seed(7)
    upstream = torch.randn(out.shape, device="cuda")
    found = torch.autograd.grad(out, inputs, upstream.to(out.dtype))
    return [one.float() for one in (out.detach(), *found)]


def _close(found: list[torch.Tensor], wanted: list[torch.Tensor], share: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < share * other.norm()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("packed", [False, True])
def test_each_kernel_gives_what_plain_arithmetic_gives(
    kernel: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that queries share, widths that are filled up, windows and sinks."""
    monkeypatch.setattr(pieces, "QUERIES", 256)
    monkeypatch.setattr(pieces, "KEYS", 256)
    monkeypatch.setattr(pieces, "FEW_KEYS", 64)
    starts = document_starts(PACKED.document_ids).cuda() if packed else None
    for (window, beyond), width in zip(SIGHTS, (64, 60, 128), strict=True):
        inputs = _inputs(torch.bfloat16, 700, width=width)
        found = _grads(blockwise(*inputs, starts, window, beyond, 128, kernel), inputs)
        wide = [x.detach().float().requires_grad_() for x in inputs]
        wanted = _grads(blockwise(*wide, starts, window, beyond, 128, PLAIN), wide)
        _close(found, wanted, 0.01)


def test_float32_takes_the_kernel_that_has_it() -> None:
    inputs = _inputs(torch.float32, 700)
    assert chosen(inputs[0], 64, False) == "efficient"
    results = [
        _grads(blockwise(*inputs, None, kernel=name), inputs)
        for name in ("efficient", PLAIN)
    ]
    _close(*results, 1e-3)


def test_the_kernel_follows_the_device_and_the_rows() -> None:
    q = _inputs(torch.bfloat16, 64)[0]
    fused.prefer_cudnn(True)
    assert chosen(q, 64, packed=False) == ("cudnn" if NEWER else "flash")
    assert chosen(q, 64, packed=True) == "flash"
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen(q, 64, packed=False) == "flash"
    finally:
        torch.use_deterministic_algorithms(False)
    assert not BLOCK_KERNELS["cpu"].fits(q, False)


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_give_the_gradients_of_the_row(host: bool, packed: bool) -> None:
    """Keys on the device or in page-locked memory, where gradients add up too."""
    fused.prefer_cudnn(True)
    length, size = 1024, 256
    batch = packed_batch([[90, 600, 334], [1024], [300, 700]], length)
    if not packed:
        batch = Batch.from_rows(batch.input_ids)
    inputs = _inputs(torch.bfloat16, length)
    starts = document_starts(batch.document_ids).cuda() if packed else None
    wide = [x.detach().float().requires_grad_() for x in inputs]
    for window in (0, 200):
        wanted = _grads(blockwise(*wide, starts, window, kernel=PLAIN), wide)
        torch.manual_seed(7)
        upstream = torch.randn(3, length, 8, 64, device="cuda").bfloat16()
        earlier = EarlierKeys(batch.to("cuda"), host)
        outs: dict[int, torch.Tensor] = {}
        grads: dict[int, list[Any]] = {}
        order = [(i, False) for i in range(3)] + [(i, True) for i in (3, 2, 1, 0)]
        for number, learns in order:
            begin, end = number * size, (number + 1) * size
            earlier.turn(begin, end, learns)
            pattern = earlier.pattern(window, NOTHING)
            part = [x.detach()[:, begin:end].clone().requires_grad_() for x in inputs]
            k, v = earlier.update(0, *(x.transpose(1, 2) for x in part[1:]))
            with torch.set_grad_enabled(learns):
                keys = (x.transpose(1, 2) for x in (k, v))
                out = attend(part[0], *keys, pattern)
            if learns:
                outs[number] = out.detach()
                grads[number] = [
                    *torch.autograd.grad(out, part, upstream[:, begin:end])
                ]
        torch.cuda.synchronize()
        found = [torch.cat([outs[i] for i in range(4)], dim=1).float()]
        for which in range(3):
            parts = [grads[i][which] for i in range(4)]
            found.append(torch.cat(parts, dim=1).float())
        _close(found, wanted, 0.015)
        held = earlier._held[0, 0]
        assert held.values.is_pinned() == host


def test_long_rows_are_indexed_past_two_to_the_31st() -> None:
    """Queries of 524,289 tokens with 4,096 numbers each, the last chunk of them."""
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs 60 GiB")
    length, size = 2**19 + 1, 512
    k = torch.randn(1, length, 32, 128, device="cuda", dtype=torch.bfloat16)
    q = torch.randn(1, size, 32, 128, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        found = blockwise(q, k, k, None)
        last = blockwise(q[:, -64:], k, k, None, kernel=PLAIN)
    _close([found[:, -64:].float()], [last.float()], 0.01)
