"""Metrics by the names of the specification, each against a computation of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lumina.assemble.assemble import assemble
from lumina.batch import IGNORE
from lumina.train.aliases import with_aliases
from lumina.train.step import train_step
from programs import conversations, stream_of, tiny_plan
from step_rows import settled


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def routed(**moe):
    plan = tiny_plan(moe=True, micro_batch_size=4)
    return plan.replace(spec=replace(plan.spec, moe=replace(plan.spec.moe, **moe)))


def stepped(program, stream, folder):
    """The row of the first step, and what each routed layer chose for its tokens."""
    batches = stream.step(stream.start, micro_batch_size=4)
    chosen = []
    for block in program.network.backbone.blocks:
        seen = []
        chosen.append(seen)

        def route(x_td, inner=block.feedforward.route, seen=seen):
            seen.append(inner(x_td))
            return seen[-1]

        block.feedforward.route = route
    values = train_step(program, batches, 0).tolist()
    row = with_aliases(settled(program.plan, folder, {}, values))
    valid = [(b.document_ids >= 0).flatten() for b in batches.micro_batches]
    return row, chosen, valid


@pytest.mark.covers("MON-01: raw_loss")
def test_the_raw_loss_is_the_cross_entropy_without_what_else_is_minimised(
    stream, tmp_path
):
    """Neither smoothed labels nor the losses of the routers are in it."""
    plan = tiny_plan(moe=True, label_smoothing=0.3)
    moe = replace(plan.spec.moe, balance_weight=5.0, z_loss_weight=5.0)
    program = assemble(plan.replace(spec=replace(plan.spec, moe=moe)))
    batches = stream.step(stream.start, micro_batch_size=8)
    [batch] = batches.micro_batches
    with torch.no_grad():
        hidden = program.network.backbone(batch).hidden
        logits = program.network._logits(hidden, None)
    real = logits.flatten(0, 1).float()[:, : plan.spec.vocab_size]
    labels = batch.labels.flatten()
    wanted = F.cross_entropy(real, labels, ignore_index=IGNORE).item()
    smooth = F.cross_entropy(real, labels, ignore_index=IGNORE, label_smoothing=0.3)
    assert abs(smooth.item() - wanted) > 1e-3  # the two can be told apart
    losses, _ = program.model(batch)
    trained = losses.trained_sum / batches.loss_divisor
    assert trained.item() == pytest.approx(smooth.item(), rel=1e-4)
    row = settled(program.plan, tmp_path, {}, train_step(program, batches, 0).tolist())
    assert with_aliases(row)["raw_loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.covers("MON-04: expert_usage", "MON-04: auxiliary_loss")
def test_usage_and_balance_of_the_experts_are_those_of_the_tokens_choices(
    stream, tmp_path
):
    program = assemble(routed())
    row, chosen, valid = stepped(program, stream, tmp_path)
    balance = 0.0
    for layer, (usage, choices) in enumerate(
        zip(row["expert_usage"], chosen, strict=True)
    ):
        ids = torch.cat(
            [one.ids_tk[here] for one, here in zip(choices, valid, strict=True)]
        ).flatten()
        share = [(ids == expert).sum().item() / len(ids) for expert in range(4)]
        assert usage == pytest.approx(share, abs=1e-6), layer
        assert max(share) - min(share) > 0.01  # an even load would prove nothing
        # A new router has the even load before its first step.
        probabilities = torch.cat(
            [
                one.logits_te.softmax(-1)[here]
                for one, here in zip(choices, valid, strict=True)
            ]
        ).mean(0)
        balance += 4 * (probabilities * 0.25).sum().item()
    assert row["auxiliary_loss"] == pytest.approx(balance / 2, rel=1e-5)
    # From the second step on, the load is that of the step before.
    loads = [block.feedforward.load for block in program.network.backbone.blocks]
    for layer, load in enumerate(loads):
        assert load.tolist() == pytest.approx(row["expert_usage"][layer], abs=1e-6)
    again, chosen, valid = stepped(program, stream, tmp_path)
    balance = 0.0
    for usage, choices in zip(row["expert_usage"], chosen, strict=True):
        for_tokens = [one.logits_te.softmax(-1) for one in choices]
        kept = [p[here] for p, here in zip(for_tokens, valid, strict=True)]
        balance += 4 * (torch.cat(kept).mean(0) * torch.tensor(usage)).sum().item()
    assert again["auxiliary_loss"] == pytest.approx(balance / 2, rel=1e-4)
    assert again["auxiliary_loss"] != pytest.approx(row["auxiliary_loss"], rel=1e-4)


@pytest.mark.covers("MON-04: dropped_tokens")
def test_dropped_tokens_are_those_beyond_the_places_of_their_experts(stream, tmp_path):
    program = assemble(routed(dispatch="capacity", capacity_factor=0.75))
    row, chosen, valid = stepped(program, stream, tmp_path)
    for share, choices in zip(row["dropped_tokens"], chosen, strict=True):
        lost = assigned = 0
        for one, here in zip(choices, valid, strict=True):
            places = math.ceil(0.75 * one.ids_tk.numel() / 4)
            for expert in range(4):
                count = (one.ids_tk[here] == expert).sum().item()
                lost, assigned = lost + max(0, count - places), assigned + count
        assert 0 < lost < assigned
        assert share == pytest.approx(lost / assigned, abs=1e-6)
    kept, _, _ = stepped(assemble(routed()), stream, tmp_path)
    assert kept["dropped_tokens"] == [0.0, 0.0]
