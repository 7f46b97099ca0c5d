"""From tokens to the first block: scaling, norm, positions; and the whole network
against one written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import lumina
from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.infer.generate import Decoding, new_cache
from lumina.infer.sampling import Sampling
from lumina.model.build import build_network
from lumina.model.declared import tensor_info
from lumina.plan.count import count_parameters
from networks import packed_batch, random_ids, shifted, tiny_spec

KINDS = ["rope", "learned", "sinusoidal", "none"]


def rms(x, weight):
    return x * weight / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def positions_by_hand(kind, positions, width, weights):
    """One vector for each position, number by number."""
    if kind == "learned":
        table = weights["backbone.position_embedding.weight"]
        return torch.stack([table[p] for p in positions.tolist()])
    rows = []
    for p in positions.tolist():
        row = []
        for pair in range(width // 2):
            angle = p / 10000 ** (2 * pair / width)
            row += [math.sin(angle), math.cos(angle)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def turned(x, positions):
    """Rotary embedding of [S, heads, hd] by complex numbers: halves are the pairs."""
    half = x.shape[-1] // 2
    speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions.double()[:, None] * speed
    z = torch.complex(x[..., :half], x[..., half:])
    z = z * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], dim=-1)


def by_hand(spec, weights, ids, positions):
    """Logits [S, V] of one document: float64, a loop over heads, no fused matrix."""
    x = weights["backbone.embedding.weight"][ids]
    if spec.scale_embeddings:
        x = x * math.sqrt(spec.hidden_size)
    if spec.use_stable_embedding:
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        x = x * weights["backbone.embedding_norm.weight"]
        x = x + weights["backbone.embedding_norm.bias"]
    if spec.pos_encodings in ("learned", "sinusoidal"):
        x = x + positions_by_hand(
            spec.pos_encodings, positions, spec.hidden_size, weights
        )
    hd, kv = spec.head_dim, spec.num_kv_heads
    ahead = torch.ones(len(ids), len(ids)).triu(1).bool()
    for layer in range(spec.num_layers):
        w = {
            name.removeprefix(f"backbone.blocks.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"backbone.blocks.{layer}.")
        }
        y = rms(x, w["attention_norm.weight"])
        q, k, v = (y @ w["attention.qkv.weight"].T).split(
            [spec.num_heads * hd, kv * hd, kv * hd], dim=-1
        )
        q, k, v = (t.unflatten(-1, (-1, hd)) for t in (q, k, v))
        if spec.pos_encodings == "rope":
            q, k = turned(q, positions), turned(k, positions)
        heads = []
        for h in range(spec.num_heads):
            g = h * kv // spec.num_heads
            scores = (q[:, h] @ k[:, g].T / math.sqrt(hd)).masked_fill(ahead, -math.inf)
            heads.append(scores.softmax(-1) @ v[:, g])
        x = x + torch.cat(heads, dim=-1) @ w["attention.out.weight"].T
        y = rms(x, w["feedforward_norm.weight"])
        gate, up = (y @ w["feedforward.gate_up.weight"].T).chunk(2, dim=-1)
        inner = gate * torch.sigmoid(gate) * up
        x = x + inner @ w["feedforward.down.weight"].T
    x = rms(x, weights["backbone.norm.weight"])
    head = "backbone.embedding" if spec.tie_embeddings else "objective.head"
    return (x @ weights[f"{head}.weight"].T)[:, : spec.vocab_size]


def perturbed(spec, seed=0):
    """A network none of whose parameters, norms among them, has a special value."""
    network = build_network(spec, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
    return network


def assert_by_hand(spec):
    """Logits and all gradients, of two rows."""
    network = perturbed(spec)
    ids = random_ids(2, 20, seed=3)
    weights = {
        n: p.detach().double().requires_grad_() for n, p in network.named_parameters()
    }
    expected = torch.stack(
        [by_hand(spec, weights, row, torch.arange(20)) for row in ids]
    )
    got = network.logits(ids)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    g = torch.randn(got.shape, generator=torch.Generator().manual_seed(1))
    (got * g).sum().backward()
    (expected * g.double()).sum().backward()
    for name, parameter in network.named_parameters():
        wanted = weights[name].grad
        error = (parameter.grad.double() - wanted).norm()
        assert error <= 1e-4 * wanted.norm() + 1e-6, name


@pytest.mark.covers(
    "MOD-01: decoder-only transformer",
    "MOD-01: token embedding with optional scaling",
    "MOD-01: option to tie head and embedding",
    "MOD-07: RMSNorm everywhere",
)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_whole_network_is_what_is_written_by_hand(layers, tied, scaled):
    """Embedding, scaled or not, pre-norm blocks, final norm, linear head, tied or not;
    and with dropout the same network, noisy in training only."""
    changes = {"num_layers": layers, "tie_embeddings": tied, "scale_embeddings": scaled}
    spec = tiny_spec(**changes)
    assert_by_hand(spec)

    plain, noisy = perturbed(spec), perturbed(replace(spec, dropout=0.3))
    names = dict(plain.named_parameters())
    assert ("objective.head.weight" in names) != tied
    ids = random_ids(1, 20)
    calm = plain.logits(ids)
    torch.testing.assert_close(noisy.eval().logits(ids), calm, rtol=0, atol=0)
    assert (noisy.train().logits(ids) - calm).abs().max() > 1e-2


def test_the_options_of_a_config_give_that_network(tmp_path):
    """Through a saved file, as a user would."""
    config = lumina.Config(
        preset="debug",
        vocab_size=128,
        scale_embeddings=True,
        tie_embeddings=True,
        use_moe=False,
    )
    config.save(tmp_path / "c.yaml")
    network = lumina.build_model(lumina.Config.load(tmp_path / "c.yaml"))
    ids = random_ids(1, 12)
    weights = {n: p.detach().double() for n, p in network.named_parameters()}
    assert "objective.head.weight" not in weights
    expected = by_hand(network.spec, weights, ids[0], torch.arange(12))
    torch.testing.assert_close(
        network.logits(ids)[0].double(), expected, atol=1e-4, rtol=1e-4
    )
    other = lumina.build_model(config.replace(scale_embeddings=False))
    assert (other.logits(ids) - network.logits(ids)).abs().max() > 1e-3


@pytest.mark.covers("MOD-05")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stable", [False, True])
def test_positions_are_what_is_written_by_hand(kind, stable):
    assert_by_hand(tiny_spec(pos_encodings=kind, use_stable_embedding=stable))


@pytest.mark.covers("MOD-05")
@pytest.mark.parametrize("kind", KINDS)
def test_positions_begin_anew_with_each_document(kind):
    network = perturbed(tiny_spec(pos_encodings=kind))
    packed = packed_batch([[8, 10, 6], [3, 15]], 24)
    hidden = network.backbone(packed).hidden
    for row, sizes in enumerate([[8, 10, 6], [3, 15]]):
        begin = 0
        for size in sizes:
            part = slice(begin, begin + size)
            alone = Batch.from_rows(packed.input_ids[row : row + 1, part])
            torch.testing.assert_close(
                network.backbone(alone).hidden[0], hidden[row, part], rtol=0, atol=1e-5
            )
            begin += size


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_moves_an_earlier_logit_and_order_counts(kind):
    network = perturbed(tiny_spec(pos_encodings=kind))
    ids = random_ids(2, 24)
    before = network.logits(ids)
    for t in (1, 11, 23):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % 100
        after = network.logits(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-3
    if network.spec.num_layers and kind != "none":
        swapped = ids[:, [1, 0, *range(2, 24)]]
        assert (network.logits(swapped)[:, -1] - before[:, -1]).abs().max() > 1e-4


def test_without_positions_one_layer_sees_a_bag_of_words():
    """Order is only who sees whom: in one layer nothing for the last token."""
    network = perturbed(tiny_spec(pos_encodings="none", num_layers=1))
    ids = random_ids(1, 24)
    swapped = ids[:, [*torch.randperm(23).tolist(), 23]]
    torch.testing.assert_close(
        network.logits(swapped)[:, -1], network.logits(ids)[:, -1], rtol=1e-4, atol=1e-5
    )


DEPTHS = {
    "dense": {},
    "window": {"window_size": 5},
    "mod": {"mod": True},
    "mor": {"mor": True},
}


def depth_changes(name):
    from lumina.model.spec import ModSpec, MorSpec

    changes = dict(DEPTHS[name])
    if changes.pop("mod", False):
        changes |= {"mod": ModSpec(layers=(1,), capacity=0.5), "num_layers": 3}
    if changes.pop("mor", False):
        changes |= {"mor": MorSpec(recursions=2), "num_layers": 3}
    return changes


@pytest.mark.covers("MOD-05")
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_equal_uncached_also_behind_padding(kind, depth):
    """Two prompts of different length, side by side, give what each gives alone."""
    network = perturbed(tiny_spec(pos_encodings=kind, **depth_changes(depth))).eval()
    ids = random_ids(2, 24, seed=5)
    prompts = [ids[0, :11].tolist(), ids[1, :4].tolist()]
    decoding = Decoding(network, prompts, Sampling(0.0, 0, 1.0, 0), max_new_tokens=9)
    for _ in decoding:
        pass
    for row, prompt in enumerate(prompts):
        told = list(prompt)
        for _ in range(9):
            logits = network.logits(torch.tensor([told]))
            told.append(int(logits[0, -1].argmax()))
        assert decoding.new_ids[row] == told[len(prompt) :]
    cache = new_cache(network)
    steps = [network.logits(ids[:1, t : t + 1], cache=cache) for t in range(24)]
    torch.testing.assert_close(
        torch.cat(steps, dim=1), network.logits(ids[:1]), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("window", [0, 5])
def test_learned_positions_end_with_the_training_row(window):
    network = perturbed(tiny_spec(pos_encodings="learned", window_size=window)).eval()
    with pytest.raises(LuminaError, match=r"E002.*pos_encodings learned has 24"):
        network.logits(random_ids(1, 25))
    cache = new_cache(network)
    network.logits(random_ids(1, 24), cache=cache)
    with pytest.raises(LuminaError, match=r"E002.*position 25"):
        network.logits(random_ids(1, 1), cache=cache)
    greedy = Sampling(0.0, 0, 1.0, 0)
    with pytest.raises(LuminaError, match=r"E005.*24"):
        Decoding(network, [list(range(24))], greedy)
    # Left padding takes columns, but no positions: the short row goes on to its end.
    decoding = Decoding(network, [[1] * 20, [2] * 4], greedy, max_new_tokens=99)
    for _ in decoding:
        pass
    assert [len(new) for new in decoding.new_ids] == [4, 20]
    assert decoding.reasons == ["context", "context"]


def test_sines_reach_as_far_as_one_likes():
    network = perturbed(tiny_spec(pos_encodings="sinusoidal", window_size=4))
    assert torch.isfinite(network.logits(random_ids(1, 200))).all()
    assert "position" not in " ".join(n for n, _ in network.named_parameters())


def test_learned_positions_are_counted_and_named_as_an_embedding():
    plain, learned = (
        tiny_spec(tie_embeddings=True, pos_encodings=kind)
        for kind in ("rope", "learned")
    )
    info = tensor_info(learned)["backbone.position_embedding.weight"]
    assert (info.role, info.axes) == ("embedding", ("position", "hidden"))
    more, less = count_parameters(learned), count_parameters(plain)
    assert more.total - less.total == more.embedding - less.embedding == 24 * 32
    # Looking up multiplies nothing.
    assert more.active_non_embedding == less.active_non_embedding


def test_a_stable_embedding_starts_bounded_and_normalises():
    """Xavier-uniform; rows of mean 0 and length sqrt(D) whatever the table holds."""
    spec = tiny_spec(use_stable_embedding=True)
    network = build_network(spec)
    table = network.backbone.embedding.weight
    bound = math.sqrt(6 / (128 + 32))
    assert 0.95 * bound < table.abs().max() <= bound
    assert table.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    ids = random_ids(2, 24)
    before = network.logits(ids)
    with torch.no_grad():
        table.mul_(1000).add_(50)
    torch.testing.assert_close(network.logits(ids), before, rtol=1e-2, atol=1e-2)
    info = tensor_info(network.spec)
    assert info["backbone.embedding_norm.weight"].role == "norm"
    assert info["backbone.embedding_norm.bias"].role == "bias"


@pytest.mark.parametrize("change", ["scale_embeddings", "use_stable_embedding"])
def test_gradients_come_back_in_half_precision(change):
    network = perturbed(tiny_spec(pos_encodings="learned", **{change: True}))
    network.backbone.compute_dtype = torch.bfloat16
    ids = random_ids(2, 24)
    sums, _ = network(Batch.from_rows(ids, shifted(ids)))
    sums.loss_sum.backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
