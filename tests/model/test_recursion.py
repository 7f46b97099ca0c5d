"""Mixture of Recursions: what it computes, what it saves, that it keeps to the past."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.infer.cache import KVCache
from lumina.model.interface import Batch
from lumina.model.network import build_network
from lumina.model.spec import ModSpec, MoeSpec, MorSpec
from networks import packed_batch, random_ids, shifted, tiny_spec

KINDS = {
    "two": {"mor": MorSpec(2, alpha=1.0)},
    "three": {"mor": MorSpec(3, alpha=1.0)},
    "static": {"mor": MorSpec(3, mode="static", alpha=1.0)},
    "depths": {"mor": MorSpec(3, alpha=1.0), "mod": ModSpec(layers=(1, 3))},
    "experts": {"mor": MorSpec(3, alpha=1.0), "moe": MoeSpec(4, 2, 24, (1, 2))},
}


def recursive(recursions=3, seed=1, **changes):
    """Five blocks, of which three are shared."""
    spec = {"mor": MorSpec(recursions, alpha=1.0)} | changes
    return build_network(tiny_spec(num_layers=5, **spec), seed=seed)


def test_one_recursion_is_the_plain_transformer():
    once, plain = recursive(1), recursive(mor=None)
    assert [n for n, _ in once.named_parameters()] == [
        n for n, _ in plain.named_parameters()
    ]
    batch = packed_batch([[10, 8], [24]], 24)
    sums = [net(batch)[0].loss_sum for net in (once, plain)]
    assert torch.equal(*sums)
    for total in sums:
        total.backward()
    for a, b in zip(once.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_shared_blocks_are_passed_as_often_as_was_chosen():
    """By hand, block by block: nested choice, weights, and who sees whom."""
    network = recursive(2)
    ids = random_ids(1, 24)
    backbone = network.backbone
    with torch.no_grad():
        found = backbone(Batch.from_rows(ids)).hidden
        context = backbone._context(Batch.from_rows(ids), None)
        x = backbone.blocks[0](backbone.embedding(ids), context)[0]
        for block in backbone.blocks[1:-1]:
            x = block(x, context)[0]
        normal = torch.nn.functional.rms_norm(x, (32,), None, 1e-5)
        logits = (normal @ backbone.recursion.router.weight[0])[0]
        chosen = logits.topk(12).indices.sort().values
        few = Batch.from_rows(ids[:, chosen])
        few = replace(few, position_ids=chosen[None])
        inner = backbone._context(few, None)
        y = x[:, chosen]
        for block in backbone.blocks[1:-1]:
            y = block(y, inner)[0]
        x[:, chosen] += torch.sigmoid(logits[chosen])[:, None] * y
        x = backbone.norm(backbone.blocks[-1](x, context)[0])
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


@pytest.mark.covers("MOD-32")
def test_the_choice_is_nested_and_shrinks():
    network = recursive(3)
    _, aux = network(packed_batch([[24], [24]], 24))
    entered = aux["mor.statistics"][:, 0].tolist()
    assert entered == [48, 32, 16]
    padded = network(packed_batch([[5]], 24))[1]["mor.statistics"][:, 0]
    assert padded.tolist() == [5, 5, 5]


@pytest.mark.covers("MOD-32")
def test_cross_entropy_alone_teaches_every_router():
    network = recursive(3)
    network(packed_batch([[10, 8], [24]], 24))[0].loss_sum.backward()
    norms = network.backbone.recursion.router.weight.grad.norm(dim=1)
    assert (norms > 1e-2).all()


def test_the_routers_own_loss_reaches_them_and_they_learn_the_choice():
    network = recursive(3)
    batch = Batch.from_rows(random_ids(8, 24))
    router = network.backbone.recursion.router.weight
    optimizer = torch.optim.Adam([router], lr=0.02)
    right = []
    for _ in range(60):
        _, aux = network(batch)
        (aux["mor.router_loss"] / 384).backward()
        assert router.grad.norm() > 0
        optimizer.step()
        optimizer.zero_grad()
        entered, told = aux["mor.statistics"].unbind(1)
        right.append((told[1:].sum() / entered[:-1].sum()).item())
    assert right[-1] > 0.8 and right[-1] > right[0] + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_and_padding_do_not_change_a_row(kind):
    network = recursive(**KINDS[kind])
    one = packed_batch([[10, 8], [24]], 24)
    ids = one.input_ids.clone()
    ids[1] = (ids[1] + 17) % 100
    ids[0, 18:] = 55
    other = replace(one, input_ids=ids)
    hidden = [network.backbone(batch).hidden[0, :18] for batch in (one, other)]
    torch.testing.assert_close(*hidden, atol=1e-6, rtol=1e-6)


@pytest.mark.covers("MOD-32")
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_never_looks_ahead(kind, window):
    network = recursive(window_size=window, **KINDS[kind]).eval()
    ids = random_ids(2, 24)
    for t in (3, 11, 23):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 100
        moved = (network.logits(changed) - network.logits(ids)).abs().amax(-1)
        assert moved[:, :t].max() < 1e-5
        assert moved[:, t].min() > 0


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_are_the_uncached_ones(kind, window):
    network = recursive(window_size=window, **KINDS[kind]).eval()
    ids = random_ids(2, 40)
    cache = KVCache(2, window=window)
    parts = [network.logits(ids[:, :7], cache=cache)]
    parts += [network.logits(ids[:, 7:9], cache=cache)]
    parts += [network.logits(ids[:, i : i + 1], cache=cache) for i in range(9, 40)]
    cached = torch.cat(parts, dim=1)
    torch.testing.assert_close(cached, network.logits(ids), atol=1e-4, rtol=1e-4)


def counted_flops(network, length=60):
    ids = random_ids(2, length)
    with FlopCounterMode(display=False) as counter:
        sums, _ = network(Batch.from_rows(ids, shifted(ids)))
        sums.loss_sum.backward()
    return counter.get_total_flops()


@pytest.mark.covers("MOD-33")
def test_executed_operations_are_those_of_the_chosen_tokens():
    """Against every token going again (static), which is dense computation."""
    once = counted_flops(recursive(1))
    again = {}
    for mode in ("dynamic", "static"):
        network = recursive(mor=MorSpec(3, mode=mode))
        again[mode] = counted_flops(network) - once
    # Passes two and three take 2/3 and 1/3 of the tokens; attention their squares.
    assert again["dynamic"] == pytest.approx(again["static"] / 2, rel=0.1)


@pytest.mark.parametrize("kind", ["three", "depths", "experts"])
def test_recomputed_blocks_count_once(kind):
    from lumina.assemble.checkpointing import checkpoint_blocks

    results = []
    for mode in ("none", "full", "selective"):
        network = recursive(**KINDS[kind])
        checkpoint_blocks(network.backbone.blocks, mode)
        sums, aux = network(packed_batch([[10, 8], [24]], 24))
        (sums.loss_sum + aux["mor.router_loss"]).backward()
        results.append((aux, [p.grad for p in network.parameters()]))
    for aux, gradients in results[1:]:
        assert all(torch.equal(aux[key], results[0][0][key]) for key in aux)
        for a, b in zip(gradients, results[0][1], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_splitting_the_rows_gives_the_same_gradient():
    batch = packed_batch([[24], [11, 13], [20], [7, 9]], 24)
    names = ("input_ids", "labels", "position_ids", "document_ids")
    gradients = []
    for split in (4, 1):
        network = recursive(3)
        for begin in range(0, 4, split):
            rows = slice(begin, begin + split)
            part = {name: getattr(batch, name)[rows] for name in names}
            sums, aux = network(replace(batch, **part))
            (sums.loss_sum + aux["mor.router_loss"]).backward()
        gradients.append([p.grad for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_random_tokens_cannot_be_predicted_by_peeking():
    network = recursive(3, init_std=0.05)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(30):
        ids = random_ids(8, 24, seed=step)
        sums, aux = network(Batch.from_rows(ids, shifted(ids)))
        (sums.loss_sum / 184 + aux["mor.router_loss"] / 384).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    ids = random_ids(64, 24, seed=999)
    with torch.no_grad():
        sums, _ = network(Batch.from_rows(ids, shifted(ids)))
    assert sums.loss_sum / sums.weight_sum > math.log(100) - 0.02
