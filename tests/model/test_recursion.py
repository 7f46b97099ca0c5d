"""Mixture of Recursions: what it computes, what it saves, that it keeps to the past."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.batch import Batch
from lumina.infer.cache import KVCache
from lumina.model.build import build_network
from lumina.model.spec import ModSpec, MoeSpec, MorSpec
from lumina.ops.attention.reference import attention
from networks import packed_batch, random_ids, shifted, tiny_spec

KINDS = {
    "two": {"mor": MorSpec(2, alpha=1.0)},
    "three": {"mor": MorSpec(3, alpha=1.0)},
    "static": {"mor": MorSpec(3, mode="static", alpha=1.0)},
    "depths": {"mor": MorSpec(3, alpha=1.0), "mod": ModSpec(layers=(1, 3))},
    "experts": {"mor": MorSpec(3, alpha=1.0), "moe": MoeSpec(4, 2, 24, (1, 2))},
    "shared": {"mor": MorSpec(3, alpha=1.0, kv_sharing=True)},
    "latent": {
        "mor": MorSpec(3, alpha=1.0, kv_sharing=True),
        **{"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 4},
        "num_kv_heads": 4,
    },
    "token": {"mor": MorSpec(3, alpha=1.0, routing="token_choice")},
    "token depths": {
        "mor": MorSpec(3, alpha=1.0, routing="token_choice"),
        "mod": ModSpec(layers=(1, 3)),
    },
    "token shared": {
        "mor": MorSpec(3, alpha=1.0, routing="token_choice", kv_sharing=True)
    },
}


def recursive(recursions=3, seed=1, **changes):
    """Five blocks, of which three are shared."""
    spec = {"mor": MorSpec(recursions, alpha=1.0)} | changes
    return build_network(tiny_spec(num_layers=5, **spec), seed=seed)


def own_losses(aux):
    """What the routers add to the loss, without weights."""
    return sum(aux[key] for key in aux if key.startswith("mor.") and "loss" in key)


@pytest.mark.covers("MOD-32: shared block applied a variable number of times per token")
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


@pytest.mark.covers("MOD-32: router chooses depth")
def test_the_choice_is_nested_and_shrinks():
    network = recursive(3)
    _, aux = network(packed_batch([[24], [24]], 24))
    entered = aux["mor.statistics"][:, 0].tolist()
    assert entered == [48, 32, 16]
    padded = network(packed_batch([[5]], 24))[1]["mor.statistics"][:, 0]
    assert padded.tolist() == [5, 5, 5]


@pytest.mark.covers("MOD-32: router chooses depth")
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


@pytest.mark.covers("MOD-33: dense compute")
def test_executed_operations_are_those_of_the_chosen_tokens():
    """Against every token going again (static), which is dense computation."""
    once = counted_flops(recursive(1))
    again = {}
    for mode in ("dynamic", "static"):
        network = recursive(mor=MorSpec(3, mode=mode))
        again[mode] = counted_flops(network) - once
    # Passes two and three take 2/3 and 1/3 of the tokens; attention their squares.
    assert again["dynamic"] == pytest.approx(again["static"] / 2, rel=0.1)


@pytest.mark.parametrize(
    "kind", ["three", "depths", "experts", "shared", "token", "token shared"]
)
def test_recomputed_blocks_count_once(kind):
    from lumina.assemble.checkpointing import checkpoint_blocks

    results = []
    for mode in ("none", "full", "selective"):
        network = recursive(**KINDS[kind])
        checkpoint_blocks(network.backbone.blocks, mode)
        sums, aux = network(packed_batch([[10, 8], [24]], 24))
        (sums.loss_sum + own_losses(aux)).backward()
        results.append((aux, [p.grad for p in network.parameters()]))
    for aux, gradients in results[1:]:
        assert all(torch.equal(aux[key], results[0][0][key]) for key in aux)
        for a, b in zip(gradients, results[0][1], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("kind", ["three", "shared", "token", "token shared"])
def test_splitting_the_rows_gives_the_same_gradient(kind):
    batch = packed_batch([[24], [11, 13], [20], [7, 9]], 24)
    names = ("input_ids", "labels", "position_ids", "document_ids")
    gradients = []
    for split in (4, 1):
        network = recursive(**KINDS[kind])
        for begin in range(0, 4, split):
            rows = slice(begin, begin + split)
            part = {name: getattr(batch, name)[rows] for name in names}
            sums, aux = network(replace(batch, **part))
            (sums.loss_sum + own_losses(aux)).backward()
        gradients.append([p.grad for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def by_token(recursions=3, **options):
    options = {"alpha": 1.0, "routing": "token_choice"} | options
    return recursive(mor=MorSpec(recursions, **options))


def passed_alone(network, ids, shared):
    """One document by hand, each token as deep as it chose; and who chose what.

    With `shared` keys by the blocks' own parts: later queries, first keys.
    """
    backbone = network.backbone
    batch = Batch.from_rows(ids)
    context = backbone._context(batch, None)
    first = backbone.blocks[0](backbone.embedding(ids), context)[0]
    normal = torch.nn.functional.rms_norm(first, (32,), None, 1e-5)
    probabilities = (normal @ backbone.recursion.router.weight.T).softmax(-1)[0]
    weight, last = probabilities.max(-1)
    y, kept = first, []
    for depth in range(probabilities.shape[1]):
        chosen = (last >= depth).nonzero()[:, 0]
        few = replace(Batch.from_rows(ids[:, chosen]), position_ids=chosen[None])
        inner = backbone._context(few, None)
        z = y[:, chosen]
        for place, block in enumerate(backbone.blocks[1:-1]):
            if depth == 0:
                normal = block.attention_norm(z)
                kept.append(block.attention.project(normal, inner)[1:])
            if shared and depth:
                q = block.attention.project(block.attention_norm(z), inner)[0]
                k, v = kept[place]
                mask = torch.arange(ids.shape[1]) <= chosen[:, None]
                heads = [t.transpose(1, 2) for t in (q, k, v)]
                seen = attention(*heads, mask[None, None]).transpose(1, 2)
                z = z + block.attention.out(seen.flatten(2))
                z = z + block.feedforward(block.feedforward_norm(z))
            else:
                z = block(z, inner)[0]
        y = y.clone()
        y[:, chosen] = z
    x = first + weight[:, None] * y
    return backbone.norm(backbone.blocks[-1](x, context)[0]), last


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared", [False, True])
def test_a_token_passes_as_often_as_it_chose(shared, training):
    network = by_token(kv_sharing=shared, capacity_factor=3.0).train(training)
    ids = random_ids(1, 24)
    with torch.no_grad():
        found = network.backbone(Batch.from_rows(ids))
        by_hand, last = passed_alone(network, ids, shared)
    assert len(set(last.tolist())) == 3
    torch.testing.assert_close(found.hidden, by_hand, atol=1e-4, rtol=1e-4)
    entered, chosen = found.aux["mor.statistics"].unbind(1)
    assert chosen.tolist() == [(last == depth).sum() for depth in range(3)]
    assert entered.tolist() == [(last >= depth).sum() for depth in range(3)]


def test_a_full_pass_stops_who_comes_later():
    """Each row has places for its share; a token in the past of them never stops."""
    tight, roomy = (by_token(capacity_factor=factor) for factor in (0.5, 3.0))
    batch = packed_batch([[10, 8], [24]], 24)
    entered = [net(batch)[1]["mor.statistics"][:, 0] for net in (tight, roomy)]
    wanted = roomy(batch)[1]["mor.statistics"][:, 1].flip(0).cumsum(0).flip(0)
    assert entered[1].tolist() == wanted.tolist()
    assert entered[0][0] == wanted[0] == 42
    assert entered[0][1] <= 2 * 8 < wanted[1] and entered[0][2] <= 2 * 4
    ids = random_ids(1, 24)
    with torch.no_grad():
        hidden = [
            net.backbone(Batch.from_rows(ids)).hidden[0] for net in (tight, roomy)
        ]
        _, last = passed_alone(roomy, ids, False)
    full = (last >= 1).nonzero()[8, 0]
    moved = (hidden[0] - hidden[1]).abs().amax(-1)
    assert moved[full] > 1e-3
    tight.eval()
    roomy.eval()
    torch.testing.assert_close(tight.logits(ids), roomy.logits(ids))


@pytest.mark.parametrize("shared", [False, True])
def test_token_choice_never_looks_ahead_even_in_training(shared):
    """The choice is a token's own, and places go by order."""
    network = by_token(kv_sharing=shared, capacity_factor=0.7)
    ids = random_ids(2, 24)
    for t in (3, 11, 23):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 100
        moved = (network.logits(changed) - network.logits(ids)).abs().amax(-1)
        assert moved[:, :t].max() < 1e-5
        assert moved[:, t].min() > 0


@pytest.mark.parametrize("shared", [False, True])
def test_cross_entropy_alone_teaches_the_router_of_depths(shared):
    network = by_token(kv_sharing=shared)
    network(packed_batch([[10, 8], [24]], 24))[0].loss_sum.backward()
    norms = network.backbone.recursion.router.weight.grad.norm(dim=1)
    assert (norms > 1e-2).all()
    assert all(p.grad is not None for p in network.parameters())


def test_the_routers_losses_are_those_of_the_paper():
    """R * sum(share * mean probability) and the mean square of logsumexp."""
    network = by_token()
    batch = packed_batch([[10, 8], [20]], 24)
    _, aux = network(batch)
    recursion = network.backbone.recursion
    recursion.load.copy_(aux["mor.statistics"][:, 1] / 38)
    _, aux = network(batch)
    with torch.no_grad():
        backbone = network.backbone
        x = backbone.embedding(batch.input_ids)
        x = backbone.blocks[0](x, backbone._context(batch, None))[0]
        x = torch.nn.functional.rms_norm(x, (32,), None, 1e-5)
        logits = (x @ recursion.router.weight.T)[batch.document_ids >= 0]
    shares = torch.bincount(logits.argmax(-1), minlength=3) / 38
    balance = 3 * (shares * logits.softmax(-1).mean(0)).sum()
    torch.testing.assert_close(aux["mor.balance_loss"] / 38, balance)
    torch.testing.assert_close(
        aux["mor.z_loss"] / 38, logits.logsumexp(-1).square().mean()
    )


def test_the_balance_loss_evens_out_the_depths():
    network = by_token()
    batch = Batch.from_rows(random_ids(8, 24))
    recursion = network.backbone.recursion
    optimizer = torch.optim.Adam([recursion.router.weight], lr=0.02)
    most = []
    for _ in range(80):
        _, aux = network(batch)
        (aux["mor.balance_loss"] / 192).backward()
        assert recursion.router.weight.grad.norm() > 0
        optimizer.step()
        optimizer.zero_grad()
        recursion.take_load(aux["mor.statistics"])
        most.append(recursion.load.max().item())
    assert sum(most[-10:]) / 10 < most[0] and min(most[-10:]) < 0.45


def test_capacity_bounds_what_token_choice_executes():
    """Against every token going all the way."""
    once = counted_flops(recursive(1))
    again = {f: counted_flops(by_token(capacity_factor=f)) - once for f in (0.5, 1, 9)}
    # Of two further passes, 2/3 and 1/3 of the tokens, and half of that.
    assert again[1] == pytest.approx(again[9] / 2, rel=0.1)
    assert again[0.5] == pytest.approx(again[9] / 4, rel=0.15)


def test_shared_keys_are_made_once_and_are_all_that_is_kept():
    ids = random_ids(2, 24)
    held = {}
    for name, mor in {
        "plain": None,
        "shared": MorSpec(3, alpha=1.0, kv_sharing=True),
        "apart": MorSpec(3, alpha=1.0),
    }.items():
        cache = KVCache(2)
        recursive(mor=mor).eval().logits(ids, cache=cache)
        held[name] = cache.nbytes
    assert held["shared"] == held["plain"] < held["apart"]
    flops = [
        counted_flops(recursive(mor=MorSpec(2, kv_sharing=shared)))
        for shared in (False, True)
    ]
    # Three blocks pass 2 * 30 tokens again, without the 32 columns of keys and values;
    # forth, and twice back. Attention is not among what the counter knows here.
    assert flops[0] - flops[1] == 3 * 3 * 2 * (60 * 32 * 32)
