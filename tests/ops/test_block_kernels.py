"""Attention in pieces by a kernel: against the reference, with gradients."""

from __future__ import annotations

import pytest
import torch

from lumina.batch import Batch
from lumina.ops.attention import blockwise as module
from lumina.ops.attention import merged, pieces
from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.block_kernels.table import BLOCK_KERNELS, PLAIN
from lumina.ops.attention.blockwise import blockwise
from lumina.ops.attention.dispatch import attend
from lumina.ops.attention.masks import document_starts
from networks import packed_batch
from ops.test_attention import pattern_of, qkv

LENGTH = 40
BATCHES = {
    "packed": packed_batch([[9, 21, 7], [40], [3, 30]], LENGTH),
    "rows": Batch.from_rows(torch.zeros(3, LENGTH, dtype=torch.long)),
}
SIGHTS = {
    "causal": (0, NOTHING),
    "window": (5, NOTHING),
    "wide window": (17, NOTHING),
    "sinks": (6, Beyond(sinks=3)),
    "many sinks": (4, Beyond(sinks=11)),
}


def starts_of(batch: Batch) -> torch.Tensor | None:
    return None if batch.one_document_rows else document_starts(batch.document_ids)


def grads_of(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    upstream = torch.randn(out.shape, generator=g)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pieces of few tokens, and the shapes of those that were computed."""
    monkeypatch.setattr(module, "FEW_QUERIES", 0.01)
    monkeypatch.setattr(pieces, "QUERIES", 8)
    monkeypatch.setattr(pieces, "KEYS", 16)
    monkeypatch.setattr(pieces, "FEW_KEYS", 4)
    shapes: list[str] = []
    real = merged.of_piece

    def noted(*args):  # type: ignore[no-untyped-def]
        shapes.append(args[5].shape)
        return real(*args)

    monkeypatch.setattr(merged, "of_piece", noted)
    return shapes


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("sight", SIGHTS)
def test_pieces_give_what_the_reference_gives(
    batch: Batch, sight: str, small: list[str]
) -> None:
    window, beyond = SIGHTS[sight]
    pattern = pattern_of("reference", batch, window, beyond=beyond)
    for heads, width in ((2, 8), (1, 5)):
        inputs = qkv(3, LENGTH, heads, width=width)
        wanted = grads_of(attend(*inputs, pattern), inputs)
        found = grads_of(blockwise(*inputs, starts_of(batch), window, beyond), inputs)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert "causal" in small
    assert ("anticausal" in small) == bool(window)
    small.clear()
    blockwise(*inputs, starts_of(batch), window, beyond, kernel=PLAIN)
    assert not small


@pytest.mark.parametrize("sight", SIGHTS)
def test_a_chunk_sees_the_keys_before_it(sight: str, small: list[str]) -> None:
    """Documents over the border of a chunk, and all gradients of its share."""
    window, beyond = SIGHTS[sight]
    for batch in BATCHES.values():
        starts = starts_of(batch)
        for first, last in ((13, 21), (21, 40), (39, 40)):
            q, k, v = qkv(3, LENGTH, 2)
            inputs = [
                q[:, first:last].detach().requires_grad_(),
                k[:, :last].detach().requires_grad_(),
                v[:, :last].detach().requires_grad_(),
            ]
            begins = None if starts is None else starts[:, first:last]
            results = [
                grads_of(blockwise(*inputs, begins, window, beyond, 9, name), inputs)
                for name in (PLAIN, "cpu")
            ]
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert small


def test_values_of_another_width_are_filled_up(small: list[str]) -> None:
    q, k, _ = qkv(3, LENGTH, 2, width=12)
    inputs = [q, k, qkv(3, LENGTH, 2, width=7)[2]]
    batch = BATCHES["packed"]
    wanted = attend(*inputs, pattern_of("reference", batch, 0))
    found = blockwise(*inputs, starts_of(batch))
    assert found.shape == wanted.shape
    results = [grads_of(out, inputs) for out in (found, wanted)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert small


def test_every_pair_is_in_one_piece() -> None:
    """Counted, with the sizes that are used, for rows of thousands of tokens."""
    documents = [
        pieces.Document(0, 0, 700, 0),
        pieces.Document(0, 700, 20_000, 3_000 + 700),
        pieces.Document(1, 0, 20_000, 1_234),
    ]
    for window, sinks in ((0, 0), (1_000, 0), (9_000, 0), (2_000, 64)):
        groups = [*pieces.groups_of(documents, 2, 3_000, window, sinks)]
        seen = sum(_pairs(piece) for group in groups for piece in group.pieces)
        assert seen == sum(
            len(range(start, 3_000 + i + 1))
            if not window or 3_000 + i - start < window + sinks
            else window + sinks
            for _, begin, end, start in documents
            for i in range(begin, end)
        )
        assert all(
            group.pieces[0].queries == group.queries
            and group.pieces[0].shape == pieces.CAUSAL
            for group in groups
        )


def _pairs(piece: pieces.Piece) -> int:
    queries = piece.queries.stop - piece.queries.start
    keys = piece.keys.stop - piece.keys.start
    if piece.shape == pieces.ALL:
        return queries * keys
    assert queries == keys
    return queries * (queries + 1) // 2


def test_earlier_keys_come_in_few_sizes() -> None:
    sizes = set()
    for first in range(0, 131_072, 512):
        (group,) = pieces.groups_of([pieces.Document(None, 0, 512, 0)], 1, first, 0, 0)
        sizes |= {piece.keys.stop - piece.keys.start for piece in group.pieces}
    assert sizes == {512, 1024, 2048, 4096, 8192, 16_384}


def test_dilation_and_short_documents_are_left_to_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(merged, "forward", lambda *_: calls.append(1))
    inputs = [x.detach() for x in qkv(1, 256, 2)]
    blockwise(*inputs, None, 5, Beyond(dilation=7))
    blockwise(*inputs, None, 5)
    short = packed_batch([[8] * 32], 256)
    blockwise(*inputs, starts_of(short))
    assert not calls
    with pytest.raises(TypeError):
        blockwise(*inputs, None, 0)
    assert calls


def test_narrow_types_are_merged_in_float32(small: list[str]) -> None:
    inputs = [x.detach().bfloat16() for x in qkv(2, LENGTH, 2)]
    got = blockwise(*inputs, None)
    assert got.dtype == torch.bfloat16
    exact = blockwise(*(x.float() for x in inputs), None, kernel=PLAIN)
    torch.testing.assert_close(got.float(), exact, rtol=2**-7, atol=2**-8)


def test_every_file_of_the_package_is_known() -> None:
    assert set(BLOCK_KERNELS.known()) == {"cpu", "cudnn", "efficient", "flash", "table"}
    assert BLOCK_KERNELS.found("table") is None
