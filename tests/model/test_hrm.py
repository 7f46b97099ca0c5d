"""Hierarchical reasoning: its equations, its gradient, and when it halts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.batch import IGNORE, Batch
from lumina.model.aux_keys import HALTING, PUZZLE_COLUMNS, PUZZLE_STATISTICS
from lumina.model.build import build_network
from lumina.model.hrm import Carry, HierarchicalReasoner
from lumina.model.network import Network
from lumina.model.spec import HrmSpec, ModelSpec

WIDTH, HEADS, LENGTH, VOCABULARY = 32, 2, 9, 7


def make_spec(**hrm: Any) -> ModelSpec:
    chosen = {"h_layers": 1, "l_layers": 2, "halt_max_steps": 4} | hrm
    return ModelSpec(
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_layers=chosen["h_layers"] + chosen["l_layers"],
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=WIDTH // HEADS,
        intermediate_size=48,
        seq_length=LENGTH,
        hrm=HrmSpec(**chosen),
    )


def make_network(seed: int = 0, **hrm: Any) -> Network:
    return build_network(make_spec(**hrm), seed=seed).train()


def make_batch(rows: int = 4, seed: int = 0, explores: float = 1.0) -> Batch:
    """Puzzles whose draws explore where `explores` is below 0.1."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=g)
    labels = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=g)
    draws = torch.tensor([[explores, 0.999]]).expand(rows, 2)
    return replace(Batch.from_rows(ids, labels), uniforms=draws)


def say(network: Network, halt: float, go_on: float) -> None:
    """Make the halting head say the same of every row."""
    with torch.no_grad():
        network.backbone.halting.bias.copy_(torch.tensor([halt, go_on]))


# -- the equations, written a second time ------------------------------------------


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


def turn(x: Tensor) -> Tensor:
    """Rotary positions, halves of a head against each other; x is [B, S, H, hd]."""
    half = x.shape[-1] // 2
    inverse = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(x.shape[1])[:, None, None] * inverse
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def plain_block(x: Tensor, p: dict[str, Tensor], index: int) -> Tensor:
    w = {k: p[f"backbone.blocks.{index}.{k}.weight"] for k in (
        "attention.qkv", "attention.out", "feedforward.gate_up", "feedforward.down"
    )}  # fmt: skip
    q, k, v = (x @ w["attention.qkv"].T).unflatten(-1, (3, HEADS, -1)).unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", turn(q), turn(k))
    seen = (scores / (WIDTH // HEADS) ** 0.5).softmax(-1)
    mixed = torch.einsum("bhqk,bkhd->bqhd", seen, v).flatten(2)
    x = norm(x + mixed @ w["attention.out"].T)
    gate, up = (x @ w["feedforward.gate_up"].T).chunk(2, -1)
    return norm(x + (F.silu(gate) * up) @ w["feedforward.down"].T)


def plain_segment(
    z_h: Tensor, z_l: Tensor, ids: Tensor, p: dict[str, Tensor], spec: ModelSpec
) -> tuple[Tensor, Tensor]:
    """A segment by the paper: detached before the last update of each module."""
    hrm = spec.hrm
    assert hrm is not None
    front = p["backbone.puzzle_embedding.weight"][torch.zeros(len(ids), 1).long()]
    tokens = p["backbone.embedding.weight"][ids]
    e = torch.cat((front, tokens), 1) * WIDTH**0.5

    def low(z: Tensor, x: Tensor) -> Tensor:
        z = z + x
        for i in range(hrm.l_layers):
            z = plain_block(z, p, i)
        return z

    def high(z: Tensor, x: Tensor) -> Tensor:
        if hrm.variant == "trm":
            return low(z, x)
        z = z + x
        for i in range(hrm.l_layers, hrm.l_layers + hrm.h_layers):
            z = plain_block(z, p, i)
        return z

    for cycle in range(hrm.h_cycles):
        for step in range(hrm.l_cycles):
            one_step = cycle == hrm.h_cycles - 1 and step == hrm.l_cycles - 1
            whole = cycle == hrm.h_cycles - 1 and step == 0
            if one_step if hrm.variant == "hrm" else whole:
                z_h, z_l = z_h.detach(), z_l.detach()
            z_l = low(z_l, z_h + e)
        z_h = high(z_h, z_l)
    return z_h, z_l


@pytest.mark.covers(
    "MOD-12: hierarchical recurrence with high-level and low-level blocks"
)
@pytest.mark.parametrize(
    "hrm",
    [
        {},
        {"h_cycles": 3, "l_cycles": 1, "h_layers": 2},
        {"variant": "trm", "h_layers": 0, "h_cycles": 2, "l_cycles": 3},
    ],
)
def test_a_segment_and_its_gradient_are_those_of_the_equations(hrm: Any) -> None:
    network, batch = make_network(**hrm), make_batch()
    vectors = network.backbone.puzzle_embedding
    vectors.touched = []
    losses, _ = network(batch)
    carry = losses.carry
    losses.loss_sum.backward()
    (_, rows), table = vectors.touched[0], vectors.weight
    table.grad = rows.grad.sum(0, keepdim=True)  # all have one puzzle

    p = {k: v.detach().clone().requires_grad_() for k, v in network.named_parameters()}
    begin = [
        getattr(network.backbone, name).expand(4, LENGTH + 1, WIDTH)
        for name in ("h_init", "l_init")
    ]
    z_h, z_l = plain_segment(*begin, batch.input_ids, p, network.spec)
    torch.testing.assert_close(carry.z_h, z_h.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(carry.z_l, z_l.detach(), rtol=1e-4, atol=1e-5)

    logits = (z_h[:, 1:] @ p["objective.head.weight"].T).double()
    s = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
    log_p = (s / s.sum(-1, keepdim=True)).log()
    loss = -log_p.gather(-1, batch.labels[..., None]).mean((1, 2)).sum()
    torch.testing.assert_close(losses.loss_sum, loss.float(), rtol=1e-4, atol=1e-5)
    loss.backward()
    for name, parameter in network.named_parameters():
        if "halting" in name:
            continue
        assert parameter.grad is not None and p[name].grad is not None
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(
            parameter.grad, p[name].grad, rtol=2e-3, atol=1e-5, msg=name
        )


@pytest.mark.covers(
    "MOD-12: hierarchical recurrence with high-level and low-level blocks"
)
def test_the_reference_size_has_its_number_of_parameters() -> None:
    spec = replace(
        make_spec(), vocab_size=11, padded_vocab_size=11, hidden_size=512,
        num_layers=8, num_heads=8, num_kv_heads=8, head_dim=64,
        intermediate_size=1536, seq_length=81, hrm=HrmSpec(),
    )  # fmt: skip
    network = build_network(spec, device="meta")
    count = sum(p.numel() for p in network.parameters())
    # Two modules of four blocks, tokens in and out, the halting head; and one puzzle's
    # vector, which the reference keeps beside its 27,275,266 parameters.
    assert count == 27_275_266 + 512


def test_weights_begin_as_the_reference_begins_them() -> None:
    network = make_network()
    reasoner = network.backbone
    assert isinstance(reasoner, HierarchicalReasoner)
    assert reasoner.halting.weight.abs().max() == 0
    assert (reasoner.halting.bias == -5).all()
    assert reasoner.puzzle_embedding.weight.abs().max() == 0
    weight = reasoner.blocks[0].feedforward.gate_up.weight
    assert weight.std().item() == pytest.approx(WIDTH**-0.5, rel=0.05)
    # Truncated: nothing past two standard deviations of the uncut normal.
    assert weight.abs().max() <= 2 / 0.8796 * WIDTH**-0.5 + 1e-6
    assert not reasoner.h_init.requires_grad


# -- the carry ----------------------------------------------------------------------


@pytest.mark.covers("MOD-12: recurrent carry state between segments")
def test_states_go_on_detached_and_only_halted_rows_take_new_puzzles() -> None:
    network = make_network(halt_exploration=0.0)
    first, second = make_batch(seed=1), make_batch(seed=2)
    carry = network(first)[0].carry
    assert not carry.z_h.requires_grad and not carry.z_l.requires_grad
    halted = torch.tensor([True, False, True, False])
    carry = Carry(**(carry.tensors() | {"halted": halted}))
    after = network(second, carry)[0].carry
    assert after.steps.tolist() == [1, 2, 1, 2]
    rows = halted[:, None]
    expected = torch.where(rows, second.input_ids, first.input_ids)
    assert torch.equal(after.input_ids, expected)
    assert torch.equal(after.labels, torch.where(rows, second.labels, first.labels))
    fresh = network(second)[0].carry
    torch.testing.assert_close(after.z_h[halted], fresh.z_h[halted])
    assert not torch.allclose(after.z_h[~halted], fresh.z_h[~halted])


def test_segments_in_a_row_are_the_evaluation() -> None:
    network, batch = make_network(halt_exploration=0.0), make_batch()
    carry = None
    for _ in range(4):
        losses, _ = network(batch, carry)
        carry = losses.carry
    assert carry.halted.all()
    network.eval()
    evaluated, _ = network(batch)
    torch.testing.assert_close(evaluated.loss_sum, losses.loss_sum)


# -- halting ------------------------------------------------------------------------


@pytest.mark.covers("MOD-13: halting (q) head")
def test_a_row_halts_when_the_head_says_so_or_at_the_limit() -> None:
    network, batch = make_network(), make_batch()
    say(network, halt=1.0, go_on=0.0)
    assert network(batch)[0].carry.halted.all()
    say(network, halt=0.0, go_on=1.0)
    carry, halted = None, []
    for _ in range(5):
        losses, aux = network(batch, carry)
        carry = losses.carry
        halted.append(carry.halted.all().item())
        if carry.halted.all():
            counted = dict(
                zip(PUZZLE_COLUMNS, aux[PUZZLE_STATISTICS].tolist(), strict=True)
            )
            assert counted["steps"] / counted["halted"] == 4
    assert halted == [False, False, False, True, False]


@pytest.mark.covers("MOD-13: halting (q) head")
def test_exploration_keeps_some_rows_going() -> None:
    network, batch = make_network(), make_batch()
    say(network, halt=1.0, go_on=0.0)
    draws = torch.tensor([[0.05, 0.0], [0.05, 0.999], [0.05, 0.5], [0.2, 0.999]])
    batch = replace(batch, uniforms=draws)
    # The first three draw 2, 4 and 3 segments at least; the last one does not explore.
    seen, carry = [], None
    for _ in range(4):
        if carry is not None:  # whoever halted stays out of the way
            carry = Carry(**(carry.tensors() | {"halted": torch.zeros(4).bool()}))
        carry = network(batch, carry)[0].carry
        seen.append(carry.halted.tolist())
    assert seen == [
        [False, False, False, True],
        [True, False, False, True],
        [True, False, True, True],
        [True, True, True, True],
    ]


def test_going_on_is_worth_what_the_next_segment_says() -> None:
    network, batch = make_network(halt_exploration=0.0), make_batch()
    with torch.no_grad():
        network.backbone.halting.weight.normal_()
    thought = network.backbone(batch)
    following = network.backbone(
        batch, Carry(**(thought.carry.tensors() | {"halted": torch.zeros(4).bool()}))
    )
    best = torch.maximum(following.q_halt, following.q_continue)
    torch.testing.assert_close(thought.target, best.sigmoid())
    last = Carry(**(thought.carry.tensors() | {
        "halted": torch.zeros(4).bool(), "steps": torch.full((4,), 3)
    }))  # fmt: skip
    final = network.backbone(batch, last)
    torch.testing.assert_close(final.target, network.backbone(
        batch, replace(final.carry, halted=torch.zeros(4).bool())
    ).q_halt.sigmoid())  # fmt: skip


def test_the_one_network_variant_halts_on_the_sign_and_runs_no_second_forward() -> None:
    network = make_network(variant="trm", h_layers=0, halt_exploration=0.0)
    calls = []
    network.backbone.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    say(network, halt=0.1, go_on=9.0)
    losses, aux = network(make_batch())
    assert losses.carry.halted.all()
    assert aux[PUZZLE_STATISTICS][PUZZLE_COLUMNS.index("continue_loss")] == 0
    assert len(calls) == 2 * 3
    say(network, halt=-0.1, go_on=-9.0)
    assert not network(make_batch())[0].carry.halted.any()


def test_evaluation_always_spends_every_segment() -> None:
    network, batch = make_network().eval(), make_batch()
    with torch.no_grad():
        before = network(batch)[0].loss_sum
        say(network, halt=9.0, go_on=-9.0)
        after = network(batch)[0].loss_sum
    torch.testing.assert_close(before, after)


# -- the objective ------------------------------------------------------------------


def test_a_puzzle_is_exact_when_every_labelled_cell_is_right() -> None:
    network = make_network(halt_max_steps=1).eval()
    batch = make_batch(rows=3)
    with torch.no_grad():
        best = network.logits(batch.input_ids).argmax(-1)
        labels = best.clone()
        labels[1, 0] = (best[1, 0] + 1) % VOCABULARY
        labels[2, 1:] = IGNORE
        batch = replace(batch, labels=labels)
        losses, _ = network(batch)
        assert losses.terms["exact"] == 2
        expected = 2 + (LENGTH - 1) / LENGTH
        assert losses.terms["correct"].item() == pytest.approx(expected)
        empty = replace(batch, labels=torch.full_like(labels, IGNORE))
        losses, aux = network(empty)
        assert losses.weight_sum == losses.loss_sum == losses.terms["exact"] == 0
        assert aux[HALTING] == 0


def test_other_rows_never_matter() -> None:
    network, batch = make_network(halt_exploration=0.0), make_batch()
    whole = network(batch)[0].carry
    alone = replace(
        Batch.from_rows(batch.input_ids[2:3], batch.labels[2:3]),
        uniforms=torch.ones(1, 2),
    )
    torch.testing.assert_close(network(alone)[0].carry.z_h[0], whole.z_h[2])


@pytest.mark.thorough
def test_blocks_compile_once_with_gradient_and_once_without() -> None:
    """Twelve calls of three blocks a step, training and evaluation: two graphs."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    network, plain = make_network(h_layers=2), make_network(h_layers=2)
    for block in network.backbone.blocks:
        block.compile(backend="aot_eager")
    carry = expected = None
    for seed in range(3):
        batch = make_batch(seed=seed, rows=8)
        losses, aux = network(batch, carry)
        (losses.loss_sum + aux[HALTING]).backward()
        told, _ = plain(batch, expected)
        carry, expected = losses.carry, told.carry
        torch.testing.assert_close(losses.loss_sum, told.loss_sum)
    with torch.no_grad():
        network.eval()(batch)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_it_learns_and_knows_when_it_is_right() -> None:
    def task(seed: int, rows: int) -> Batch:
        batch = make_batch(rows=rows, seed=seed)
        draws = torch.rand(rows, 2, generator=torch.Generator().manual_seed(seed))
        return replace(batch, labels=batch.input_ids % 6 + 1, uniforms=draws)

    network = make_network(halt_max_steps=2, halt_exploration=0.5)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    carry = None
    for step in range(80):
        losses, aux = network(task(step, 16), carry)
        carry = losses.carry
        ((losses.loss_sum + 0.5 * aux[HALTING]) / 16).backward()
        optimizer.step()
        optimizer.zero_grad()
    unseen = task(999, 64)
    with torch.no_grad():
        assert network.eval()(unseen)[0].terms["exact"] > 60
        assert network.backbone(unseen).q_halt.sigmoid().mean() > 0.5
