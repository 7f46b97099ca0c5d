"""Weighted labels: any split of a step is the same step, and the mean is by weight."""

from __future__ import annotations

import json
import random
import string

import pytest
import torch
from torch.nn import functional as F

from lumina import ConfigPresets
from lumina.assemble.assemble import assemble
from lumina.batch import IGNORE
from lumina.data.prepare import prepare
from lumina.train.step import train_step
from programs import stream_of, tiny_plan


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    """Chats of unequal length and weight, some of them without a label."""
    file = tmp_path_factory.mktemp("weighted") / "chats.jsonl"
    records = []
    for n in range(60):
        answer = {"role": "assistant", "content": "hen, " * (n % 7) + f"so {n}."}
        answer |= {"weight": [0.25, 1, 3][n % 3]}
        asked = {"role": "user", "content": f"How many hens has farm {n}?"}
        records.append({"messages": [asked, answer]})
        # Its first rows have no label.
        letters = "".join(random.Random(n).choices(string.ascii_letters, k=200))
        quiet = {**asked, "content": letters, "train": False}
        records.append({"messages": [quiet, answer]})
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    config = ConfigPresets.debug().replace(
        train_data=(str(file),), tokenizer_vocab_size=300, eval_fraction=0.0,
        role_weights=("user=0.1",), long_conversations="cut",
    )  # fmt: skip
    return stream_of(prepare(config).train)


def step_of(stream, plan):
    return stream.step(where(stream), micro_batch_size=plan.micro_batch_size)


def where(stream):
    """The cursor of the first step with a row that has no label."""
    cursor = stream.start
    for _ in range(40):
        step = stream.step(cursor, micro_batch_size=1)
        if any((b.labels == IGNORE).all() for b in step.micro_batches):
            return cursor
        cursor = step.cursor
    raise AssertionError("every row has a label")


def gradients(program, batches):
    metrics = train_step(program, batches, 0)
    share = 1 - program.plan.beta1
    return metrics, {
        s.name: s.state["exp_avg"] / share for s in program.optimizer.slots
    }


@pytest.mark.covers("DAT-14: assistant tokens weighted", "TRN-19")
@pytest.mark.parametrize("micro_batch_size", [8, 1])
def test_a_step_is_the_mean_by_weight_on_any_split(stream, micro_batch_size):
    plan = tiny_plan(micro_batch_size=micro_batch_size)
    batches = step_of(stream, plan)
    labels = [(b.labels != IGNORE).sum().item() for b in batches.micro_batches]
    assert sum(labels) == batches.loss_tokens
    assert (0 in labels) == (micro_batch_size == 1)
    metrics, found = gradients(assemble(plan), batches)
    # Written out: one mean over all rows of the step.
    reference = assemble(plan)
    total, weight = 0.0, 0.0
    for batch in batches.micro_batches:
        hidden = reference.network.backbone(batch).hidden
        logits = reference.network.objective.logits(
            hidden, reference.network.backbone.embedding.weight
            if plan.spec.tie_embeddings else None,
        )  # fmt: skip
        each = F.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), reduction="none",
            ignore_index=IGNORE,
        )  # fmt: skip
        total = total + (each * batch.loss_weights.flatten()).sum()
        weight += float(batch.loss_weights.sum())
    assert batches.loss_weight == pytest.approx(weight, rel=1e-6)
    (total / weight).backward()
    assert metrics[0].item() == pytest.approx(total.item() / weight, rel=1e-5)
    wanted = dict(reference.network.named_parameters())
    for name, gradient in found.items():
        expected = wanted[name].grad
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            gradient, expected, rtol=1e-4, atol=1e-5 * scale, msg=name
        )


def test_ranks_that_hold_unequal_weights_make_the_same_step(stream):
    plan = tiny_plan(micro_batch_size=2)
    whole = step_of(stream, plan)
    halves = [
        stream.step(where(stream), rank=r, data_ranks=2, micro_batch_size=2)
        for r in (0, 1)
    ]
    shares = [
        sum(float(b.loss_weights.sum()) for b in half.micro_batches) for half in halves
    ]
    assert shares[0] != pytest.approx(shares[1], rel=1e-3)
    assert {half.loss_divisor for half in halves} == {whole.loss_divisor}
    # What each rank adds to the sum, over the divisor that both know, is the whole.
    program = assemble(plan)
    with torch.no_grad():
        parts = [
            sum(program.model(b)[0].loss_sum for b in half.micro_batches)
            for half in halves
        ]
    metrics = train_step(program, whole, 0)
    assert metrics[0].item() == pytest.approx(
        float(sum(parts)) / whole.loss_divisor, rel=1e-5
    )
