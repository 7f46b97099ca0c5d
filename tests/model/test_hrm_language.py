"""A reasoner that halts token by token: its equations, its gradient, its cache."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.infer.cache import KVCache
from lumina.infer.generate import Decoding
from lumina.infer.sampling import Sampling
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.spec import HrmSpec
from networks import packed_batch, random_ids, shifted, tiny_spec

WIDTH, HEADS, KV, SEGMENTS = 32, 4, 2, 4


def make_network(seed: int = 0, halting: float = 0.3, **options: Any) -> Network:
    """One whose halting head has an opinion: tokens halt after 1 to 4 segments."""
    outer = {k: options.pop(k) for k in list(options) if k == "tie_embeddings"}
    hrm = {
        "mode": "language_model",
        "h_layers": 1,
        "l_layers": 2,
        "halt_max_steps": SEGMENTS,
        "halt_exploration": 0.0,
    } | options
    layers = hrm["l_layers"] + (hrm["h_layers"] if hrm.get("variant") != "trm" else 0)
    hrm["h_layers"] = layers - hrm["l_layers"]
    spec = tiny_spec(num_layers=layers, hrm=HrmSpec(**hrm), **outer)
    network = build_network(spec, seed=seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head = network.backbone.halting
        head.weight.normal_(0, halting, generator=g)
        head.bias.copy_(torch.tensor([-0.4, 0.0]))
    return network.train()


# -- the equations, token by token and segment by segment ----------------------------


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def turn(x: Tensor, position: int) -> Tensor:
    """Rotary position of one token's heads, halves against each other."""
    half = x.shape[-1] // 2
    angle = position * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Plain:
    """One document, the straightforward way. Segments outside, tokens inside.

    `keys[a]` holds, token by token, the keys and values of application `a` as the
    current segment has them; a halted token's stay.
    """

    def __init__(self, network: Network) -> None:
        self.p = dict(network.named_parameters()) | dict(network.named_buffers())
        self.hrm = network.spec.hrm
        self.tied = network.spec.tie_embeddings
        cycle = "l" * self.hrm.l_cycles + "h"
        self.order = cycle * self.hrm.h_cycles
        last = 2 if self.hrm.variant == "hrm" else self.hrm.l_cycles + 1
        self.first_learning = len(self.order) - last

    def block(
        self, x: Tensor, index: int, position: int, cell: dict[int, Any], waits: bool
    ) -> Tensor:
        """One token through one block; `cell` maps tokens to (k, v)."""

        def weight(name: str) -> Tensor:
            return self.p[f"backbone.blocks.{index}.{name}.weight"]

        qkv = (weight("attention.qkv") @ x).view(-1, WIDTH // HEADS)
        q, k, v = qkv.split((HEADS, KV, KV))
        if not waits:
            cell[position] = (turn(k, position), v)
        q = turn(q, position)
        mixed = []
        for head in range(HEADS):
            shared = head // (HEADS // KV)
            ks = torch.stack([cell[t][0][shared] for t in range(position + 1)])
            vs = torch.stack([cell[t][1][shared] for t in range(position + 1)])
            scores = ks @ q[head] / math.sqrt(WIDTH // HEADS)
            mixed.append(scores.softmax(0) @ vs)
        x = norm(x + weight("attention.out") @ torch.cat(mixed))
        gate, up = (weight("feedforward.gate_up") @ x).chunk(2)
        return norm(x + weight("feedforward.down") @ (F.silu(gate) * up))

    def module(self, update: str) -> range:
        low = self.hrm.l_layers
        if update == "l" or self.hrm.variant == "trm":
            return range(low)
        return range(low, low + self.hrm.h_layers)

    def think(self, ids: Tensor) -> list[list[dict[str, Any]]]:
        """For every token, what it came to in each segment that it took.

        "next" is what it came to in the one after, taken or not: a token that does not
        take it still has the keys that it halted with.
        """
        table = self.p["backbone.embedding.weight"]
        inits = [self.p[f"backbone.{n}_init"] for n in "hl"]
        states = [list(inits) for _ in ids]
        active = [True] * len(ids)
        told: list[list[dict[str, Tensor]]] = [[] for _ in ids]
        cells: dict[int, dict[int, Any]] = {}
        for _ in range(self.hrm.halt_max_steps):
            for cell in cells.values():  # what went before is no longer learned from
                for t in cell:
                    cell[t] = tuple(x.detach() for x in cell[t])
            self.segment(ids, table, states, active, cells)
            for t in range(len(ids)):
                q = self.p["backbone.halting.weight"] @ states[t][0]
                q = q + self.p["backbone.halting.bias"]
                z_h = states[t][0]
                head = table if self.tied else self.p["objective.head.weight"]
                now = {"logits": (head @ z_h)[:100], "q": q, "z": z_h}
                if told[t]:
                    told[t][-1].setdefault("next", now)
                if not active[t]:
                    continue
                told[t].append(now)
                bar = q[1] if self.hrm.variant == "hrm" else 0.0
                active[t] = not bool(q[0] > bar)
                states[t] = [s.detach() for s in states[t]]
        return told

    def segment(
        self,
        ids: Tensor,
        table: Tensor,
        states: list[list[Tensor]],
        active: list[bool],
        cells: dict[int, dict[int, Any]],
    ) -> None:
        place = 0
        for index, update in enumerate(self.order):
            blocks = self.module(update)
            for t in range(len(ids)):
                with torch.set_grad_enabled(index >= self.first_learning):
                    z_h, z_l = states[t]
                    e = table[ids[t]] * math.sqrt(WIDTH)
                    x = z_l + (z_h + e) if update == "l" else z_h + z_l
                    # Within a block every token needs those before it, in its layer.
                    for offset, block in enumerate(blocks):
                        cell = cells.setdefault(place + offset, {})
                        x = self.block(x, block, t, cell, not active[t])
                    states[t][0 if update == "h" else 1] = x
            place += len(blocks)


def plain_losses(told: list[list[dict[str, Tensor]]], labels: Tensor) -> dict[str, Any]:
    """The losses of one document: learned, reported, halting, continuing."""
    found = dict.fromkeys(("learned", "final", "halt", "go_on", "right"), 0.0)
    for thoughts, label in zip(told, labels, strict=True):
        if label == IGNORE:
            continue
        count = len(thoughts)
        for m, one in enumerate(thoughts):
            loss = F.cross_entropy(one["logits"][None], label[None])
            right = (one["logits"].argmax() == label).float()
            found["learned"] += loss / count
            found["halt"] += (
                F.binary_cross_entropy_with_logits(one["q"][0], right) / count
            )
            if m + 1 < SEGMENTS:
                q = one["next"]["q"].detach()
                target = q[1].sigmoid()
                if m + 2 == SEGMENTS or q[0] > q[1]:
                    target = (one["next"]["logits"].argmax() == label).float()
                found["go_on"] += (
                    F.binary_cross_entropy_with_logits(one["q"][1], target) / count
                )
        found["final"] += loss.detach()
        found["right"] += right
    return found


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "trm"}, {"h_cycles": 1, "l_cycles": 3}, {"tie_embeddings": True}],
    ids=["hrm", "trm", "cycles", "tied"],
)
def test_it_is_the_plain_loop(options: dict[str, Any]) -> None:
    """States, logits, losses and every gradient, over two documents of a packed row."""
    network = make_network(seed=3, **options)
    batch = packed_batch([[5, 4], [7]], 10, seed=1)
    output = network.backbone(batch)
    losses, aux = network(batch)
    trm = options.get("variant") == "trm"
    total = losses.loss_sum + aux["act.halt_loss"]
    total = total + (0 if trm else aux["act.continue_loss"])
    total.backward()
    fast = {n: p.grad for n, p in network.named_parameters()}
    network.zero_grad()

    plain, wanted, spent = Plain(network), [], []
    for row, begin, size in ((0, 0, 5), (0, 5, 4), (1, 0, 7)):
        part = slice(begin, begin + size)
        told = plain.think(batch.input_ids[row, part])
        wanted.append(plain_losses(told, batch.labels[row, part]))
        for offset, thoughts in enumerate(told):
            t = begin + offset
            spent.append(len(thoughts))
            assert int(output.active[:, row, t].sum()) == len(thoughts)
            torch.testing.assert_close(
                output.hidden[row, t], thoughts[-1]["z"], rtol=1e-3, atol=5e-4
            )
    assert len(set(spent)) > 2, spent
    for name, got in (
        ("final", losses.loss_sum),
        ("halt", aux["act.halt_loss"]),
        ("go_on", aux.get("act.continue_loss", torch.zeros(()))),
        ("right", losses.terms["correct"]),
    ):
        if name != "go_on" or not trm:
            torch.testing.assert_close(
                got.detach(), torch.as_tensor(sum(w[name] for w in wanted)).detach(),
                rtol=1e-4, atol=1e-4,
            )  # fmt: skip
    total = sum(w["learned"] + w["halt"] + (0 if trm else w["go_on"]) for w in wanted)
    total.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(
            fast[name],
            parameter.grad,
            rtol=1e-3,
            atol=1e-4,
            msg=lambda m, n=name: n + m,
        )
    assert losses.weight_sum == 4 + 3 + 6


def test_it_is_causal_in_thought_and_in_time() -> None:
    """Another token changes nothing before it: logits, segments, halting logits."""
    network = make_network(seed=1).eval()
    ids = random_ids(2, 12, seed=5)
    other = ids.clone()
    other[:, 7] = (other[:, 7] + 1) % 100
    one, two = (network.backbone(Batch.from_rows(x)) for x in (ids, other))
    assert torch.equal(one.active[:, :, :7], two.active[:, :, :7])
    torch.testing.assert_close(one.hidden[:, :7], two.hidden[:, :7], rtol=0, atol=0)
    torch.testing.assert_close(one.q_halt[:, :, :7], two.q_halt[:, :, :7])
    assert not torch.allclose(one.hidden[:, 7:], two.hidden[:, 7:])


def test_documents_of_a_row_do_not_see_each_other() -> None:
    network = make_network(seed=2).eval()
    batch = packed_batch([[6, 5]], 12, seed=4)
    together = network.backbone(batch)
    for part in (slice(0, 6), slice(6, 11)):
        alone = network.backbone(Batch.from_rows(batch.input_ids[:, part]))
        torch.testing.assert_close(
            together.hidden[:, part], alone.hidden, rtol=1e-4, atol=1e-5
        )
        assert torch.equal(together.active[:, :, part], alone.active)


@pytest.mark.parametrize("variant", ["hrm", "trm"])
@pytest.mark.parametrize("pieces", [(12,), (1,) * 12, (5, 1, 1, 5), (3, 9)])
def test_cached_logits_are_the_uncached_ones(
    variant: str, pieces: tuple[int, ...]
) -> None:
    network = make_network(seed=4, variant=variant).eval()
    ids = random_ids(3, 12, seed=6)
    whole = network.logits(ids)
    assert len(network.backbone(Batch.from_rows(ids)).active.sum(0).unique()) > 2
    cache = KVCache(3)
    cached = torch.cat(
        [network.logits(x, cache=cache) for x in ids.split(pieces, 1)], 1
    )
    torch.testing.assert_close(cached, whole, rtol=1e-4, atol=1e-5)


def test_prompts_of_different_length_side_by_side() -> None:
    network = make_network(seed=5).eval()
    ids = random_ids(2, 9, seed=7)
    cache = KVCache(2, padding=torch.tensor([0, 4]))
    padded = ids.clone()
    padded[1, :4] = 0
    got = [network.logits(padded[:, :7], cache=cache)[:, -1]]
    got += [network.logits(padded[:, c : c + 1], cache=cache)[:, -1] for c in (7, 8)]
    for row, first in ((0, 0), (1, 4)):
        alone = network.logits(ids[row : row + 1, first:])[0, -3:]
        torch.testing.assert_close(
            torch.stack([g[row] for g in got]), alone, rtol=1e-4, atol=1e-5
        )


def test_several_prompts_are_continued_as_each_alone_without_a_cache() -> None:
    """Greedy; rows end at different times and leave the batch."""
    network = make_network(seed=5).eval()
    prompts = [random_ids(1, n, seed=n)[0].tolist() for n in (3, 9, 6)]
    alone = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(network.logits(torch.tensor([ids]))[0, -1].argmax()))
        alone.append(ids[len(prompt) :])
    stop = alone[0][3]
    decoding = Decoding(
        network, prompts, Sampling(temperature=0.0), max_new_tokens=8, stop_ids={stop}
    )
    for _ in decoding:
        pass
    for got, wanted in zip(decoding.new_ids, alone, strict=True):
        until = wanted.index(stop) if stop in wanted else None
        assert got == wanted[:until]


def test_a_token_that_halted_is_not_computed_again() -> None:
    """Continuing text, the blocks see only the tokens that go on, and stop early."""
    network = make_network(seed=4).eval()
    ids = random_ids(1, 12, seed=6)
    spent = network.backbone(Batch.from_rows(ids)).active.sum(0)[0].tolist()
    seen: list[int] = []
    network.backbone.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    cache = KVCache(1)
    network.logits(ids[:, :8], cache=cache)
    low_updates = 4
    wanted = sum(spent[:8]) * low_updates
    assert sum(seen) == wanted < 8 * SEGMENTS * low_updates
    for t in range(8, 12):
        seen.clear()
        network.logits(ids[:, t : t + 1], cache=cache)
        assert sum(seen) == spent[t] * low_updates


@pytest.mark.parametrize("variant", ["hrm", "trm"])
def test_evaluation_without_halted_tokens_is_evaluation(variant: str) -> None:
    """Packed rows, with padding: the same states and losses from fewer tokens."""
    network = make_network(seed=7, variant=variant).eval()
    batch = packed_batch([[5, 4], [7], [12]], 12, seed=1)
    whole, (told, _) = network.backbone(batch), network(batch)
    seen: list[int] = []
    network.backbone.blocks[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    network.backbone.skips_halted = True
    with torch.no_grad():
        few, (losses, _) = network.backbone(batch), network(batch)
    valid = batch.document_ids >= 0
    torch.testing.assert_close(
        few.hidden[valid], whole.hidden[valid], rtol=1e-3, atol=1e-4
    )
    assert torch.equal(few.spent, whole.spent)
    assert len(few.spent[valid].unique()) > 2
    torch.testing.assert_close(losses.loss_sum, told.loss_sum, rtol=1e-4, atol=1e-4)
    assert losses.terms["segments"] == few.spent[batch.labels != IGNORE].sum()
    for terms in (losses.terms, told.terms):
        assert terms["correct"] == told.terms["correct"]
    times = 4 if variant == "hrm" else 6  # the block's in a segment
    widest = sum(int((few.spent > m).sum(1).max()) for m in range(SEGMENTS))
    assert sum(seen) == 2 * times * widest < 2 * times * SEGMENTS * 12
    assert few.spent[~valid].sum() == 0


def test_only_segments_somebody_came_to_are_kept() -> None:
    """A head that halts at once leaves one segment's keys; one that never does, all."""
    ids, sizes = random_ids(1, 6), {}
    for bias in (9.0, -9.0):
        network = make_network(seed=0, halting=0.0).eval()
        with torch.no_grad():
            network.backbone.halting.bias.copy_(torch.tensor([bias, 0.0]))
        cache = KVCache(1)
        network.logits(ids, cache=cache)
        sizes[bias] = cache.nbytes
    assert sizes[-9.0] == SEGMENTS * sizes[9.0]


def test_exploration_makes_tokens_go_on() -> None:
    """Where the head would halt at once, a token that draws takes 2 to M segments."""
    ids = random_ids(8, 24)
    batch = Batch.from_rows(ids, shifted(ids))
    for share, low, high in ((0.0, 0.0, 0.0), (0.5, 0.35, 0.65)):
        network = make_network(halting=0.0, halt_exploration=share)
        with torch.no_grad():
            network.backbone.halting.bias.copy_(torch.tensor([9.0, 0.0]))
        torch.manual_seed(0)
        spent = network.backbone(batch).active.sum(0)
        assert low <= (spent > 1).float().mean() <= high
        assert not share or set(spent.unique().tolist()) == {1, 2, 3, 4}
        torch.manual_seed(0)
        assert torch.equal(network.backbone(batch).active.sum(0), spent)
        assert bool((network.eval().backbone(batch).active.sum(0) == 1).all())


def test_padding_and_prompts_count_in_no_loss() -> None:
    """Neither tokens without a label nor padding move a sum or a gradient."""
    network = make_network(seed=6)
    batch = packed_batch([[6], [9]], 12, seed=2)
    labels = batch.labels.clone()
    labels[1, :4] = IGNORE
    garbage = batch.input_ids.clone()
    garbage[0, 6:] = 50
    one = network(replace(batch, labels=labels))
    two = network(replace(batch, labels=labels, input_ids=garbage))
    assert one[0].weight_sum == 5 + 4
    for key in one[1]:
        torch.testing.assert_close(one[1][key], two[1][key], rtol=1e-5, atol=1e-6)
    assert one[1]["act.statistics"][0, 0] == 9
    torch.testing.assert_close(one[0].loss_sum, two[0].loss_sum)


def test_what_is_counted() -> None:
    network = make_network(seed=6)
    batch = packed_batch([[6], [9]], 12, seed=2)
    output = network.backbone(batch)
    counted = network(batch)[1]["act.statistics"]
    valid = batch.labels != IGNORE
    spent = (output.active & valid).sum(0)[valid]
    logits = network.logits(batch.input_ids)  # documents are the whole rows' beginnings
    for m in range(SEGMENTS):
        assert counted[m, 0] == (spent > m).sum()
        assert counted[m, 1] == (spent == m + 1).sum()
    right = logits.argmax(-1) == batch.labels
    assert counted[:, 2].sum() == right[valid].sum()
    assert counted[:, 3].sum() <= counted[:, 0].sum()
    losses, _ = network.eval()(batch)
    told = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"
    )
    torch.testing.assert_close(losses.loss_sum, told, rtol=1e-4, atol=1e-4)
