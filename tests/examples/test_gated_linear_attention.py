"""Gated linear attention as a plug-in: right, causal, and cheap to generate with."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from infer.networks import tiny
from lumina.batch import Batch
from lumina.infer.cache import KVCache
from lumina.infer.generate import Decoding
from lumina.infer.sampling import Sampling
from lumina.model.registry import load_plugins
from lumina.model.spec import PartsSpec
from lumina.plan.count import count_parameters
from lumina.plan.flops import flops_per_token

FILE = Path(__file__).parents[2] / "examples" / "gated_linear_attention.py"
OPTIONS = {"chunk": 8, "gate_rank": 4, "gate_scale": 16.0}
PATTERNS = {
    "linear": ("gated_linear",) * 3,
    "hybrid": ("gated_linear", "", "gated_linear"),
}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    load_plugins([str(FILE)])
    return next(
        m for m in sys.modules.values() if getattr(m, "__file__", "") == str(FILE)
    )


def network(pattern: str = "linear", **changes):
    parts = PartsSpec(
        attention=PATTERNS[pattern],
        options={"gated_linear": OPTIONS},
        plugins=(str(FILE),),
    )
    return tiny(parts=parts, num_layers=3, **changes).eval()


@pytest.mark.parametrize("length", [1, 7, 32, 45])
@pytest.mark.parametrize("chunk", [1, 8, 16])
def test_chunks_are_the_recurrence(
    example: ModuleType, length: int, chunk: int
) -> None:
    """Values and gradients, over documents that begin anywhere and a state before."""
    generator = torch.Generator().manual_seed(length * 100 + chunk)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    q, k, v = (random(3, length, 2, n) for n in (4, 4, 5))
    state = random(3, 2, 4, 5)
    fall = torch.rand(3, length, 2, 4, generator=generator) * example.SLOWEST
    fall.requires_grad_()
    starts = torch.rand(3, length, generator=generator) < 0.15
    inputs = (q, k, v, fall, state)
    weights = torch.randn(3, length, 2, 5, generator=generator)
    found = []
    for more, compute in (((), example.recurrent), ((chunk,), example.chunked)):
        o, after = compute(q, k, v, fall, starts, state, *more)
        loss = (o * weights).sum() + after.cos().sum()
        found.append((o, after, *torch.autograd.grad(loss, inputs)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_documents_of_a_row_do_not_see_each_other(example: ModuleType) -> None:
    model = network()
    ids = torch.randint(0, 61, (1, 24), generator=torch.Generator().manual_seed(1))
    places = torch.arange(24)[None]
    packed = Batch(
        input_ids=ids,
        labels=ids,
        position_ids=torch.where(places < 11, places, places - 11),
        document_ids=(places >= 11).long(),
        cu_seqlens=torch.tensor([0, 11, 24], dtype=torch.int32),
        max_seqlen=16,
    )
    together = model.backbone(packed).hidden
    alone = [
        model.backbone(Batch.from_rows(x)).hidden for x in (ids[:, :11], ids[:, 11:])
    ]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_past_matters_and_the_future_does_not(
    example: ModuleType, pattern: str
) -> None:
    model = network(pattern)
    ids = torch.randint(0, 60, (1, 24), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 11] += 1
    one, two = (model.logits(x) for x in (ids, other))
    assert torch.equal(one[:, :11], two[:, :11])
    assert not torch.allclose(one[:, 12:], two[:, 12:])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_generation_with_the_state_is_without(
    example: ModuleType, pattern: str
) -> None:
    """Prompts of different length side by side, in pieces, against whole rows."""
    model = network(pattern)
    generator = torch.Generator().manual_seed(2)
    prompts = [
        torch.randint(0, 61, (n,), generator=generator).tolist() for n in (3, 17, 9)
    ]
    greedy = Sampling(temperature=0.0)
    made = Decoding(model, prompts, greedy, max_new_tokens=8)
    for _ in made:
        pass
    for prompt, new in zip(prompts, made.new_ids, strict=True):
        ids = list(prompt)
        for token in new:
            scores = model.logits(torch.tensor([ids]))[0, -1]
            assert int(scores.argmax()) == token
            ids.append(token)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_cached_logits_are_the_whole_rows(example: ModuleType, pattern: str) -> None:
    model = network(pattern)
    ids = torch.randint(0, 61, (2, 30), generator=torch.Generator().manual_seed(3))
    whole = model.logits(ids)
    cache = KVCache(2)
    parts = [model.logits(part, cache=cache) for part in ids.split([13, 1, 1, 15], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
    assert not cache.rewind(20)  # a state does not go back; the text is read again
    assert cache.length == 30 and cache.rewind(30)
    assert cache.rewind(0) and not cache.recall(0)


def test_the_state_does_not_grow(example: ModuleType) -> None:
    model, sizes = network(), []
    cache = KVCache(1)
    for _ in range(4):
        model.logits(torch.zeros(1, 16, dtype=torch.long), cache=cache)
        sizes.append(cache.nbytes)
    heads, keys, values = 4, 16 // 4, 32 // 4
    assert sizes == [3 * heads * keys * values * 4] * 4


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_plan_counts_what_is_built_and_executed(
    example: ModuleType, pattern: str
) -> None:
    model = network(pattern, seq_length=64, hidden_size=32).train()
    spec = model.spec
    built = sum(p.numel() for p in model.parameters())
    assert count_parameters(spec).total == built
    # The CPU's own attention is not counted, the reference's is.
    model.backbone.attention = "reference"
    batch = Batch.from_rows(*torch.randint(0, 61, (2, 2, 64)))
    with FlopCounterMode(display=False) as counter:
        losses, _ = model(batch)
        losses.loss_sum.backward()
    executed = counter.get_total_flops() / 128
    planned = flops_per_token(spec)
    if pattern == "hybrid":  # the reference computes the future too, and masks it
        executed -= 6 * spec.num_heads * spec.head_dim * 64
    assert executed == pytest.approx(planned, rel=0.03)
