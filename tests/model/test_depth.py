"""Mixture of Depths: what it computes, what it saves, and that it keeps to the past."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.batch import Batch
from lumina.infer.cache import KVCache
from lumina.model.build import build_network
from lumina.model.spec import ModSpec, MoeSpec, MorSpec
from networks import packed_batch, random_ids, shifted, tiny_spec

KINDS = {
    "block": {},
    "feedforward": {"scope": "feedforward"},
    "fixed": {"routing": "fixed"},
    "random": {"routing": "random"},
    "static": {"mode": "static"},
}
EXPERTS = MoeSpec(num_experts=4, top_k=2, intermediate_size=24, layers=(1, 2))


def depth(seed=1, layers=(1, 3), **changes):
    """Four blocks, of which `layers` choose; spec fields by name, others of ModSpec."""
    shape = {
        k: changes.pop(k) for k in ("window_size", "moe", "init_std") if k in changes
    }
    capacity = changes.get("capacity", 0.5)
    mod = ModSpec(**({"layers": layers, "ladder": (capacity,)} | changes))
    return build_network(tiny_spec(num_layers=4, mod=mod, **shape), seed=seed)


def same_weights(network, **spec):
    """Another network with this one's weights, as far as it has them."""
    other = build_network(replace(network.spec, **spec), seed=7)
    other.load_state_dict(network.state_dict(), strict=False)
    return other


@pytest.mark.covers("MOD-28: learned router scores all tokens")
@pytest.mark.parametrize("scope", ["block", "feedforward"])
def test_cross_entropy_alone_teaches_the_router(scope):
    network = depth(scope=scope)
    sums, _ = network(packed_batch([[10, 8], [24]], 24))
    sums.loss_sum.backward()
    for layer in (1, 3):
        routing = network.backbone.blocks[layer].depth
        assert routing.router.weight.grad.norm() > 1e-3
        assert routing.predictor.weight.grad is None


def test_the_predictors_loss_teaches_the_predictor_and_nothing_else():
    network = depth()
    _, aux = network(packed_batch([[10, 8], [24]], 24))
    aux["mod.predictor_loss"].backward()
    taught = {n for n, p in network.named_parameters() if p.grad is not None}
    assert taught == {
        f"backbone.blocks.{i}.depth.predictor.{leaf}"
        for i in (1, 3)
        for leaf in ("weight", "bias")
    }
    assert all(network.get_parameter(n).grad.norm() > 1e-3 for n in taught)


def test_the_predictor_learns_whom_the_router_chooses():
    network = depth(layers=(1,))
    batch = Batch.from_rows(random_ids(8, 24))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    right = []
    for _ in range(60):
        _, aux = network(batch)
        (aux["mod.predictor_loss"] / 192).backward()
        optimizer.step()
        optimizer.zero_grad()
        right.append(aux["mod.statistics"][0, 3].item() / 192)
    assert right[-1] > 0.85 > right[0]


@pytest.mark.parametrize("kind", KINDS)
def test_other_rows_do_not_change_a_row(kind):
    network = depth(**KINDS[kind])
    if kind == "random":
        network.eval()
    one = packed_batch([[10, 8], [24]], 24)
    ids = one.input_ids.clone()
    ids[1] = (ids[1] + 17) % 100
    other = replace(one, input_ids=ids)
    hidden = [network.backbone(batch).hidden[0] for batch in (one, other)]
    assert torch.equal(*hidden)


def test_padding_is_chosen_last_and_changes_nothing():
    network = depth()
    batch = packed_batch([[10, 8]], 24)
    ids = batch.input_ids.clone()
    ids[0, 18:] = 55
    outputs = [network(b) for b in (batch, replace(batch, input_ids=ids))]
    torch.testing.assert_close(outputs[0][0].loss_sum, outputs[1][0].loss_sum)
    for _, aux in outputs:
        # Twelve places for eighteen tokens: none is left for padding.
        assert aux["mod.statistics"][:, 0].tolist() == [12, 12]
        assert aux["mod.statistics"][:, 4].tolist() == [18, 18]
    few = network(packed_batch([[5]], 24))[1]["mod.statistics"]
    assert few[:, 0].tolist() == [5, 5]


def test_chosen_tokens_see_only_their_own_document():
    """In training: what the first document says never reaches the second.

    The choice is made by position here, since a learned one compares the documents.
    """
    for routing in ("fixed", "random"):
        network = depth(routing=routing)
        batch = packed_batch([[9, 15]], 24)
        ids = batch.input_ids.clone()
        ids[0, :9] = (ids[0, :9] + 31) % 100
        hidden = []
        for one in (batch, replace(batch, input_ids=ids)):
            torch.manual_seed(3)
            hidden.append(network.backbone(one).hidden[0])
        assert torch.equal(hidden[0][9:], hidden[1][9:])
        assert not torch.allclose(hidden[0][:9], hidden[1][:9])


@pytest.mark.parametrize("window", [0, 5])
def test_a_packed_row_is_its_documents_one_by_one(window):
    """With positions deciding, documents in one row give what they give alone."""
    network = depth(routing="fixed", window_size=window)
    batch = packed_batch([[10, 8, 6]], 24)
    packed = network.backbone(batch).hidden[0]
    begin = 0
    for size in (10, 8, 6):
        part = slice(begin, begin + size)
        alone = network.backbone(Batch.from_rows(batch.input_ids[:, part])).hidden[0]
        torch.testing.assert_close(packed[part], alone, atol=1e-4, rtol=1e-4)
        begin += size


@pytest.mark.covers("MOD-30")
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_never_looks_ahead(kind, window):
    network = depth(window_size=window, **KINDS[kind]).eval()
    ids = random_ids(2, 24)
    for t in (3, 11, 23):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 100
        moved = (network.logits(changed) - network.logits(ids)).abs().amax(-1)
        assert moved[:, :t].max() == 0
        assert moved[:, t].min() > 0


@pytest.mark.covers("MOD-30", "INF-10: MoD")
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("kind", [*KINDS, "experts"])
def test_cached_logits_are_the_uncached_ones(kind, window):
    kinds = KINDS | {"experts": {"moe": EXPERTS}}
    network = depth(window_size=window, **kinds[kind]).eval()
    ids = random_ids(2, 40)
    cache = KVCache(2, window=window)
    parts = [network.logits(ids[:, :7], cache=cache)]
    parts += [network.logits(ids[:, 7:9], cache=cache)]
    parts += [network.logits(ids[:, i : i + 1], cache=cache) for i in range(9, 40)]
    cached = torch.cat(parts, dim=1)
    torch.testing.assert_close(cached, network.logits(ids), atol=1e-4, rtol=1e-4)


def test_a_skipped_token_leaves_no_key():
    network = depth().eval()
    ids = random_ids(2, 30)
    cache = KVCache(2)
    network.logits(ids, cache=cache)
    held = cache.nbytes
    dense = same_weights(network, mod=None).eval()
    full = KVCache(2)
    dense.logits(ids, cache=full)
    assert held < full.nbytes
    chosen = [int(c._counts.sum()) for c in cache._chosen.values()]
    for count, layer in zip(chosen, (1, 3), strict=True):
        hidden = _input_of(network, layer, ids)
        routing = network.backbone.blocks[layer].depth
        assert count == int((routing.predictor(hidden, routing.eps) > 0).sum())


def _input_of(network, layer, ids):
    seen = []
    block = network.backbone.blocks[layer]
    hook = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.logits(ids)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("scope", ["block", "feedforward"])
def test_a_window_counts_the_tokens_that_pass_by(scope):
    """Chosen tokens see those of the last five places of the row, chosen or not.

    Against every score in the open, by a mask over original places.
    """
    fast = depth(layers=(0, 1), window_size=5, scope=scope, capacity=0.6)
    plain = build_network(fast.spec, attention="reference", seed=1)
    for batch in (
        packed_batch([[10, 8], [24]], 24),
        Batch.from_rows(random_ids(2, 24)),
    ):
        torch.testing.assert_close(
            fast.backbone(batch).hidden, plain.backbone(batch).hidden
        )
    block = fast.backbone.blocks[0]
    seen = []
    original = block.attention.forward
    block.attention.forward = lambda x, context: (
        seen.append(context) or original(x, context)
    )
    fast.backbone(Batch.from_rows(random_ids(2, 24)))
    (context,) = seen
    mask = context.pattern.mask.expand(2, -1, -1, -1)[:, 0] == 0
    if scope == "block":
        column = context.tokens.columns
        assert column.shape == (2, 15)
    else:
        column = torch.arange(24).expand(2, -1)
    back = column[:, :, None] - column[:, None, :]
    assert torch.equal(mask, (back >= 0) & (back < 5))


def test_the_cache_of_chosen_keys_is_bounded_by_the_window():
    network = depth(layers=(0, 1, 2, 3), window_size=12).eval()
    with torch.no_grad():
        for block in network.backbone.blocks:
            block.depth.predictor.bias.fill_(0.5)
    ids = random_ids(2, 200)
    cache = KVCache(2, window=12)
    parts, held = [], []
    for begin in (*range(0, 60, 20), *range(60, 200)):
        end = begin + (20 if begin < 60 else 1)
        parts.append(network.logits(ids[:, begin:end], cache=cache))
        held.append(cache.nbytes)
    assert held[-1] == held[30]
    torch.testing.assert_close(
        torch.cat(parts, dim=1), network.logits(ids), atol=1e-4, rtol=1e-4
    )


def test_a_cache_that_is_rewound_forgets_chosen_keys():
    network = depth().eval()
    ids = random_ids(1, 20)
    cache = KVCache(1)
    network.logits(ids, cache=cache)
    assert cache.rewind(8)
    rest = network.logits(ids[:, 8:], cache=cache)
    torch.testing.assert_close(rest, network.logits(ids)[:, 8:], atol=1e-4, rtol=1e-4)


def counted_flops(network, length=64, rows=2):
    ids = random_ids(rows, length)
    with FlopCounterMode(display=False) as counter:
        sums, _ = network(Batch.from_rows(ids, shifted(ids)))
        sums.loss_sum.backward()
    return counter.get_total_flops()


@pytest.mark.covers("MOD-28: top fraction mod_capacity_factor takes the full MLP")
@pytest.mark.parametrize("scope", ["block", "feedforward"])
def test_executed_operations_fall_with_capacity(scope):
    """Counted by torch from what ran, and in proportion."""

    def flops(capacity):
        return counted_flops(depth(scope=scope, capacity=capacity))

    eighth, half, whole = flops(0.125), flops(0.5), flops(1.0)
    assert eighth < half < whole
    assert (whole - half) / (whole - eighth) == pytest.approx(0.5 / 0.875, rel=0.12)


@pytest.mark.covers("MOD-33: dense compute")
def test_static_mode_is_another_function_and_costs_the_dense_model():
    network = depth(capacity=0.5).eval()
    ids = random_ids(2, 24)
    dynamic = network.logits(ids)
    network.backbone.routing = "static"
    soft = network.logits(ids)
    assert (soft - dynamic).abs().max() > 0.1
    static = depth(mode="static")
    dense = build_network(replace(static.spec, mod=None), seed=1)
    assert counted_flops(static) == pytest.approx(counted_flops(dense), rel=0.01)


@pytest.mark.covers("MOD-33: soft weighted sum over all tokens")
@pytest.mark.parametrize("scope", ["block", "feedforward"])
def test_static_mode_weighs_what_the_block_adds_to_every_token(scope):
    """x + 2 sigmoid(router) f(x), with f that of the dense block, by hand."""
    network = depth(layers=(1,), mode="static", scope=scope)
    dense = same_weights(network, mod=None).backbone.blocks[1]
    block = network.backbone.blocks[1]
    seen = {}
    block.register_forward_hook(
        lambda module, given, found: seen.update(given=given, found=found[0])
    )
    network(packed_batch([[10, 8], [24]], 24))
    x, context = seen["given"]
    start = x + dense.attend(x, context) if scope == "feedforward" else x
    unit = start * torch.rsqrt(start.square().mean(-1, keepdim=True) + 1e-5)
    weight = 2 * torch.sigmoid(unit @ block.depth.router.weight.T)
    assert weight.std() > 0.01 and (weight < 2).all()  # every token has its own
    whole = dense(x, context)[0] - start
    torch.testing.assert_close(seen["found"], start + weight * whole)


@pytest.mark.covers("MOD-31: use_moe and use_mod both true")
@pytest.mark.parametrize("layers", [(0, 3), (1, 2), (0, 1, 2, 3)])
def test_experts_and_depths_in_one_model(layers):
    """Experts in layers 1 and 2; choosing in the dense layers, in theirs, in all."""
    network = depth(moe=EXPERTS, layers=layers)
    sums, aux = network(packed_batch([[10, 8], [24]], 24))
    total = sums.loss_sum + aux["moe.balance_loss"] + aux["mod.predictor_loss"]
    total.backward()
    assert all(p.grad.norm() > 0 for p in network.parameters())
    per_token = 12 * 2 if 1 in layers else 42
    assert aux["moe.counts"].sum(1).tolist() == [per_token * 2] * 2
    assert aux["mod.statistics"].shape == (len(layers), 6)


def test_recomputed_blocks_count_once():
    from lumina.assemble.checkpointing import checkpoint_blocks

    results = []
    for mode in ("none", "full", "selective"):
        network = depth(routing="random" if mode else "learned")
        checkpoint_blocks(network.backbone.blocks, mode)
        torch.manual_seed(0)
        sums, aux = network(packed_batch([[10, 8], [24]], 24))
        sums.loss_sum.backward()
        gradient = network.backbone.blocks[1].attention.qkv.weight.grad
        results.append((sums.loss_sum.item(), aux["mod.statistics"], gradient))
    for loss, statistics, gradient in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(statistics, results[0][1])
        assert torch.equal(gradient, results[0][2])


def test_splitting_the_rows_gives_the_same_gradient():
    """Rows choose for themselves, so learned and fixed routing split exactly."""
    batch = packed_batch([[24], [11, 13], [20], [7, 9]], 24)
    gradients = []
    for split in (4, 1):
        network = depth()
        for begin in range(0, 4, split):
            rows = slice(begin, begin + split)
            part = replace(
                batch,
                **{
                    name: getattr(batch, name)[rows]
                    for name in ("input_ids", "labels", "position_ids", "document_ids")
                },
            )
            sums, aux = network(part)
            (sums.loss_sum + aux["mod.predictor_loss"]).backward()
        gradients.append({n: p.grad for n, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradient, gradients[1][name], atol=1e-4, rtol=1e-3, msg=name
        )


@pytest.mark.thorough
def test_each_capacity_is_compiled_once_and_whole():
    """Going back to a capacity compiles nothing, and no graph is cut in two."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    plain = depth(ladder=(0.25, 0.5))
    compiled = depth(ladder=(0.25, 0.5))
    for block in compiled.backbone.blocks:
        block.compile(backend="aot_eager")
    graphs = []
    for step, capacity in enumerate((0.5, 0.25, 0.5, 0.25)):
        batch = packed_batch([[10, 8], [24]], 24, seed=step)
        losses = []
        for network in (plain, compiled):
            network.backbone.capacity = capacity
            sums, aux = network(batch)
            (sums.loss_sum + aux["mod.predictor_loss"]).backward()
            losses.append(sums.loss_sum)
        torch.testing.assert_close(*losses)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[1] == graphs[0] + 1
    assert graphs[3] == graphs[2] == graphs[1]
    assert not counters["graph_break"]
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()


@pytest.mark.parametrize("holes", [False, True])
def test_segments_of_chosen_tokens_are_their_documents(holes):
    """For the variable-length kernel: what it lets see, against a mask of documents."""
    from lumina.model.context import Tokens
    from lumina.model.subset_context import segments
    from lumina.ops.depth.selection import top_places, wanted_first

    batch = packed_batch([[10, 8], [24], [3, 1, 9], [24]], 24)
    g = torch.Generator().manual_seed(3)
    score = torch.rand(4, 24, generator=g)
    real = batch.document_ids >= 0
    if holes:
        wanted = (score > 0.4) & real
        wanted[3] = False
        index = wanted_first(wanted, 16)
        documents = batch.document_ids.gather(1, index)
        documents = documents.masked_fill(~wanted.gather(1, index), -1)
    else:
        index = top_places(score, real, 16)
        documents = batch.document_ids.gather(1, index)
    tokens = Tokens(
        index, index, documents, batch.cu_seqlens, 24, False, "varlen", 0,
        torch.bfloat16, holes,
    )  # fmt: skip
    starts = segments(tokens)
    assert (starts.diff() >= 0).all() and starts[-1] == 64
    of = torch.searchsorted(starts, torch.arange(64, dtype=torch.int32), right=True)
    flat = (documents + 100 * torch.arange(4)[:, None]).flatten()
    taken = documents.flatten() >= 0
    together = (of[:, None] == of[None, :])[taken][:, taken]
    assert torch.equal(together, (flat[:, None] == flat[None, :])[taken][:, taken])
    assert not (of[:, None] == of[None, :])[taken][:, ~taken].any()


@pytest.mark.parametrize("recursive", [False, True])
def test_losses_are_told_apart_by_who_was_chosen(recursive):
    """Against a plain cross entropy, token by token and layer by layer."""
    network = depth(layers=(1, 2), capacity=0.4)
    if recursive:
        mor = MorSpec(2, alpha=1.0)
        network = build_network(replace(network.spec, mor=mor), seed=1)
    batch = packed_batch([[10, 8], [24]], 24)
    layers = []
    for layer in (1, 2):
        block = network.backbone.blocks[layer]
        block.register_forward_hook(
            lambda _, given, out: layers.append((given[0], out[0]))
        )
    _, aux = network(batch)
    assert "mod.chosen" not in aux
    network(batch)
    hidden = network.backbone(batch).hidden
    logits = network.objective.logits(hidden).flatten(0, 1)
    labels = batch.labels.flatten()
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    counted = labels != -100
    by_hand = torch.zeros(4)
    for before, after in layers[:2]:
        chosen = (before != after).any(-1).flatten() & counted
        skipped = ~chosen & counted
        for place, who in enumerate((chosen, skipped)):
            by_hand[2 * place] += each[who].sum() / 2
            by_hand[2 * place + 1] += who.sum() / 2
    torch.testing.assert_close(aux["mod.losses"], by_hand)
    assert by_hand[1] + by_hand[3] == counted.sum()
