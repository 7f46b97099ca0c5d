"""The backbone: what a token may see, packing, windows, padding, recomputation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from lumina.batch import IGNORE, Batch
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.spec import ModSpec, MoeSpec
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import causal_mask
from networks import packed_batch, random_ids, shifted, tiny_spec

BACKENDS = ["reference", "sdpa", "varlen"]
SPECS = {
    "plain": {},
    "window": {"window_size": 4},
    "rms": {"qk_norm": "rms"},
    "l2": {"qk_norm": "l2"},
    "rms-full": {"qk_norm": "rms_full"},
    "bias": {"attention_bias": True},
    "latent": {
        "num_kv_heads": 4,
        "mla_kv_rank": 20,
        "mla_q_rank": 12,
        "mla_rope_dim": 4,
        "mla_value_dim": 6,
    },
    "yarn": {
        "rope_scaling": "yarn",
        "rope_factor": 4.0,
        "rope_original_length": 12,
        "tie_embeddings": True,
    },
}


def hidden_of(network, batch):
    return network.backbone(batch).hidden


def gradients_of(network, batch):
    """Loss sum and the gradient of every parameter."""
    network.zero_grad()
    sums, _ = network(batch)
    sums.loss_sum.backward()
    return sums.loss_sum.detach(), {n: p.grad for n, p in network.named_parameters()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SPECS)
def test_changing_a_token_moves_no_earlier_logit(kind, backend):
    network = build_network(tiny_spec(**SPECS[kind]), attention=backend)
    ids = random_ids(2, 24)
    before = network.logits(ids)
    for t in (1, 9, 23):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 100
        after = network.logits(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_changing_a_packed_token_moves_its_document_from_there_on(backend):
    network = build_network(tiny_spec(), attention=backend)
    batch = packed_batch([[8, 10, 6]], 24)
    before = hidden_of(network, batch)
    ids = batch.input_ids.clone()
    ids[0, 11] = (ids[0, 11] + 1) % 100
    after = hidden_of(network, replace(batch, input_ids=ids))
    moved = (after - before).abs().amax(-1)[0] > 1e-5
    assert moved[11:18].all()
    assert not moved[:11].any() and not moved[18:].any()


@pytest.mark.covers(
    "DAT-40: block-diagonal attention and reset positions, no cross-contamination"
)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", SPECS)
def test_packed_documents_equal_the_same_documents_alone(kind, backend):
    network = build_network(tiny_spec(**SPECS[kind]), attention=backend)
    lengths = [[8, 10, 6], [3, 15], [24]]
    packed = packed_batch(lengths, 24)
    hidden = hidden_of(network, packed)
    loss, gradients = gradients_of(network, packed)

    loss_alone, alone = torch.zeros(()), None
    for row, sizes in enumerate(lengths):
        begin = 0
        for size in sizes:
            part = slice(begin, begin + size)
            document = Batch.from_rows(
                packed.input_ids[row : row + 1, part],
                packed.labels[row : row + 1, part],
            )
            torch.testing.assert_close(
                hidden_of(network, document)[0], hidden[row, part], rtol=0, atol=1e-5
            )
            one_loss, one = gradients_of(network, document)
            loss_alone = loss_alone + one_loss
            alone = one if alone is None else {n: alone[n] + one[n] for n in one}
            begin += size
    torch.testing.assert_close(loss, loss_alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_padding_is_finite_and_weighs_nothing(backend):
    network = build_network(tiny_spec(), attention=backend)
    rows = packed_batch([[8, 7], [24]], 24)
    loss, gradients = gradients_of(network, rows)
    more = packed_batch([[8, 7], [24], []], 24)
    more = replace(
        more,
        input_ids=torch.cat([rows.input_ids, torch.zeros(1, 24, dtype=torch.long)]),
        labels=torch.cat([rows.labels, torch.full((1, 24), IGNORE)]),
    )
    assert torch.isfinite(hidden_of(network, more)).all()
    padded_loss, padded = gradients_of(network, more)
    torch.testing.assert_close(padded_loss, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(padded, gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.covers("MOD-08: --window-size (none/0 = full)")
@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_window_is_what_its_mask_says(window, monkeypatch):
    ids = random_ids(2, 24)
    windowed = build_network(tiny_spec(window_size=window)).logits(ids)
    masked = build_network(tiny_spec(), attention="reference")
    pattern = Pattern("reference", causal_mask(24, 24, window, None))
    monkeypatch.setattr(
        "lumina.model.transformer.make_pattern", lambda *args, **kwargs: pattern
    )
    torch.testing.assert_close(windowed, masked.logits(ids), rtol=1e-5, atol=1e-5)


def test_a_window_bounds_how_far_a_token_reaches():
    """Two layers of window 4: a token moves the 6 after it and no more."""
    network = build_network(tiny_spec(window_size=4))
    ids = random_ids(1, 24)
    changed = ids.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 100
    moved = (network.logits(changed) - network.logits(ids)).abs().amax(-1)[0] > 1e-5
    assert moved[5:12].all()
    assert not moved[12:].any()


@pytest.mark.covers("MOD-07: QK-norm as an option")
@pytest.mark.parametrize("qk_norm", ["rms", "rms_full", "l2"])
def test_normalised_queries_do_not_care_how_large_their_matrix_is(qk_norm):
    network = build_network(tiny_spec(qk_norm=qk_norm, init_std=1.0, norm_eps=1e-12))
    ids = random_ids(1, 24)
    before = network.logits(ids)
    with torch.no_grad():
        for block in network.backbone.blocks:
            block.attention.qkv.weight[: (4 + 2) * 8] *= 10  # queries and keys
    torch.testing.assert_close(network.logits(ids), before, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        network.backbone.blocks[0].attention.q_norm.weight *= 3
    assert (network.logits(ids) - before).abs().max() > 1e-2


@pytest.mark.covers("MOD-07: QK-norm as an option")
def test_l2_norm_has_one_scale_a_head():
    network = build_network(tiny_spec(qk_norm="l2"))
    attention = network.backbone.blocks[0].attention
    assert attention.q_norm.weight.shape == (4,)
    assert attention.k_norm.weight.shape == (2,)
    heads = attention.q_norm(torch.randn(1, 5, 4, 8))
    length = torch.full((1, 5, 4), 8**0.5)
    torch.testing.assert_close(heads.norm(dim=-1), length, rtol=1e-3, atol=1e-3)


def test_dropout_acts_in_training_only():
    ids = random_ids(2, 24)
    plain = build_network(tiny_spec()).logits(ids)
    network = build_network(tiny_spec(dropout=0.5))
    torch.testing.assert_close(network.eval().logits(ids), plain, rtol=0, atol=0)
    network.train()
    torch.manual_seed(0)
    first = network.logits(ids)
    assert (first - plain).abs().max() > 1e-2
    assert (network.logits(ids) - first).abs().max() > 1e-2
    torch.manual_seed(0)
    torch.testing.assert_close(network.logits(ids), first, rtol=0, atol=0)


@pytest.mark.covers("MOD-01: dropout option")
@pytest.mark.parametrize("kind", ["dense", "experts", "depth"])
@pytest.mark.parametrize("dropout", [0.1, 0.4])
def test_dropout_zeroes_its_share_of_each_branch(kind, dropout):
    sparse = {
        "dense": {},
        "experts": {"moe": MoeSpec(4, 2, 16, layers=(0, 1))},
        "depth": {"mod": ModSpec(layers=(1,), capacity=1.0, ladder=(1.0,))},
    }[kind]
    network = build_network(tiny_spec(dropout=dropout, **sparse), seed=1)
    found = {}

    def kept(name, branch):
        def call(*inputs):
            outcome = branch(*inputs)
            block, training = branch.__self__, branch.__self__.training
            added = outcome[0] if isinstance(outcome, tuple) else outcome
            block.eval()
            whole = branch(*inputs)
            block.train(training)
            found[name] = added, whole[0] if isinstance(whole, tuple) else whole
            return outcome

        return call

    for index, block in enumerate(network.backbone.blocks):
        for name in ("attend", "feed"):
            setattr(block, name, kept(f"{index} {name}", getattr(block, name)))
    torch.manual_seed(0)
    network.train()(Batch.from_rows(random_ids(64, 24)))
    assert len(found) == 4
    for name, (added, whole) in found.items():
        zeroed = (added == 0) & (whole != 0)
        # About 49,000 values: five standard deviations are 0.011 at most.
        assert zeroed.float().mean().item() == pytest.approx(dropout, abs=0.012), name
        torch.testing.assert_close(
            added[~zeroed], whole[~zeroed] / (1 - dropout), msg=name
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("batch", ["rows", "packed"])
def test_recomputed_blocks_give_the_same_gradients(batch, dropout):
    network = build_network(tiny_spec(dropout=dropout, qk_norm="rms"))
    ids = random_ids(2, 24)
    made = {
        "rows": Batch.from_rows(ids, shifted(ids)),
        "packed": packed_batch([[8, 10, 6], [20]], 24),
    }[batch]
    torch.manual_seed(1)
    kept = gradients_of(network, made)
    for block in network.backbone.blocks:
        inner = block.forward
        block.forward = lambda x, context, inner=inner: checkpoint(
            inner, x, context, use_reentrant=False
        )
    torch.manual_seed(1)
    torch.testing.assert_close(gradients_of(network, made), kept, rtol=0, atol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", SPECS)
def test_blocks_compile_without_a_break(kind):
    network = build_network(tiny_spec(**SPECS[kind]))
    ids = random_ids(2, 24)
    batches = [
        Batch.from_rows(ids, shifted(ids)),
        packed_batch([[8, 10, 6], [20]], 24),
    ]
    eager = [gradients_of(network, batch) for batch in batches]
    torch._dynamo.reset()
    for block in network.backbone.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    for batch, expected in zip(batches, eager, strict=True):
        got = gradients_of(network, batch)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in network.named_parameters()]
    assert names == list(build_network(tiny_spec(**SPECS[kind])).state_dict())


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("masters", [True, False])
def test_bfloat16_stays_near_float32(kind, masters):
    """Activations in bfloat16, weights cast as they are used or beforehand."""
    spec = tiny_spec(**SPECS[kind] | {"init_std": 0.05})
    ids = random_ids(2, 24)
    exact = build_network(spec).logits(ids)
    network = build_network(spec)
    network.backbone.compute_dtype = torch.bfloat16
    if not masters:
        network.to(torch.bfloat16)
    assert hidden_of(network, Batch.from_rows(ids)).dtype == torch.bfloat16
    got = network.logits(ids)
    assert got.dtype == torch.float32
    assert (got - exact).norm() / exact.norm() < 0.03
    _, gradients = gradients_of(network, packed_batch([[8, 10, 6], [20]], 24))
    kept = torch.float32 if masters else torch.bfloat16
    assert {g.dtype for g in gradients.values()} == {kept}
    assert all(torch.isfinite(g).all() for g in gradients.values())


def test_an_unknown_backend_is_refused_by_name():
    with pytest.raises(LuminaError, match=r"E005.*'flash9'"):
        build_network(tiny_spec(), attention="flash9")


@pytest.mark.gpu
@pytest.mark.covers("MOD-08: works with flash attention")
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_backends_agree_on_packed_documents(dtype, kind):
    changes = SPECS[kind] | {"head_dim": 64, "init_std": 0.05}
    batch = packed_batch([[8, 10, 6], [20]], 24).to("cuda")
    results = {}
    for backend in BACKENDS:
        network = build_network(tiny_spec(**changes), attention=backend, device="cuda")
        network.backbone.compute_dtype = dtype
        results[backend] = gradients_of(network, batch)[1]
    bound = 1e-4 if dtype == torch.float32 else 0.05
    for backend in ("sdpa", "varlen"):
        for name, exact in results["reference"].items():
            difference = (results[backend][name] - exact).norm()
            assert difference <= bound * exact.norm() + 1e-6, (backend, name)
