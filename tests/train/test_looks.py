"""Looks at a step: what they find, each against a plain computation."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.batch import IGNORE
from lumina.optim.optimizer import local
from lumina.plan.flops import flops_per_token, layer_flops
from lumina.train.looks import step_times
from lumina.train.looks.attention import (
    FIELDS,
    AttentionLook,
    statistics,
    visible,
)
from lumina.train.looks.layer_profile import bottleneck_scores
from lumina.train.step import train_step
from lumina.train.watch import Watch
from programs import conversations, stream_of, tiny_plan
from stand_ins import stand_in


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def looked(stream, name, **changes):
    """A program after its first step, and what a look at it has found."""
    program = assemble(tiny_plan(measures={name: 1}, **changes))
    size = program.plan.micro_batch_size
    batches = stream.step(stream.start, micro_batch_size=size)
    watch = Watch.of(program, batches, 1)
    values = train_step(program, batches, 0, watch=watch).tolist()
    return program, batches, watch.row(values), watch


@pytest.mark.covers(
    "MON-02: forward_time", "MON-02: backward_time", "MON-02: optimizer_time"
)
def test_the_parts_of_a_step_are_timed(stream, monkeypatch):
    """On a clock that goes one second further at every look at it."""
    clock = itertools.count()
    monkeypatch.setattr(step_times, "time", stand_in(time, perf_counter=clock.__next__))
    program, _, row, _ = looked(stream, "step_times", micro_batch_size=2)
    assert program.plan.grad_accum == 4
    assert row == {"forward_time": 4, "backward_time": 4, "optimizer_time": 1}


@pytest.mark.parametrize(
    "kind", ["dense", "bfloat16", pytest.param("moe", marks=pytest.mark.thorough)]
)
def test_updates_and_gradients_of_groups_are_those_of_their_tensors(stream, kind):
    changes = {"max_grad_norm": 0.5, "micro_batch_size": 4, "moe": kind == "moe"}
    if kind == "bfloat16":
        changes["compute_dtype"] = "bfloat16"
    plan = tiny_plan(**changes)
    program = assemble(plan)
    batches = stream.step(stream.start, micro_batch_size=4)
    for batch in batches.micro_batches:
        losses, aux = program.model(batch)
        total = losses.loss_sum / batches.loss_divisor
        for term in program.terms:
            per_token = term.per_token(batches.tokens, batches.loss_tokens)
            total = total + term.weight * aux[term.key] * per_token
        total.backward()
    slots = program.optimizer.slots
    gradients = {slot.name: slot.gradient().double().clone() for slot in slots}
    before = {slot.name: slot.master.double().clone() for slot in slots}
    program, _, row, _ = looked(stream, "weight_changes", **changes)
    after = {slot.name: slot.master.double() for slot in program.optimizer.slots}

    def norm(tensors, names):
        return math.sqrt(sum(tensors[name].square().sum().item() for name in names))

    moved = {name: after[name] - before[name] for name in before}
    roles = {program.info_of(name).role for name in before}
    assert roles >= ({"expert", "router"} if kind == "moe" else {"matrix", "norm"})
    for role in roles:
        names = [name for name in before if program.info_of(name).role == role]
        wanted = norm(moved, names) / norm(before, names)
        assert row[f"group.{role}.update_ratio"] == pytest.approx(wanted, rel=1e-4)
        gradient = row[f"group.{role}.gradient_norm"]
        assert gradient == pytest.approx(norm(gradients, names), rel=1e-3)
    for layer in range(2):
        names = [name for name in before if f".blocks.{layer}." in name]
        wanted = norm(moved, names) / norm(before, names)
        assert row["layers.update_ratio"][layer] == pytest.approx(wanted, rel=1e-4)
        gradient = row["layers.gradient_norm"][layer]
        assert gradient == pytest.approx(norm(gradients, names), rel=1e-3)


def test_a_step_without_labels_has_no_update(stream):
    program = assemble(tiny_plan(measures={"weight_changes": 1}))
    batches = stream.step(stream.start, micro_batch_size=8)
    empty = [
        replace(batch, labels=torch.full_like(batch.labels, IGNORE))
        for batch in batches.micro_batches
    ]
    batches = replace(batches, micro_batches=empty, loss_tokens=0)
    watch = Watch.of(program, batches, 1)
    assert watch.row(train_step(program, batches, 0, watch=watch).tolist()) == {}


def by_hand(queries, keys, document_ids, window):
    """Statistics of one layer, query by query, in plain Python."""
    rows, length, heads, size = queries.shape
    group = heads // keys.shape[2]
    sums = {
        name: [0.0] * heads for name in ("entropy", "relative", "sparsity", "local")
    }
    cosine = [[0.0] * heads for _ in range(heads)]
    special, count = 0.0, 0
    for row, place in itertools.product(range(rows), range(length)):
        seen = [
            key
            for key in range(place + 1)
            if document_ids[row, key] == document_ids[row, place]
            and (not window or key > place - window)
        ]
        if document_ids[row, place] < 0 or len(seen) < 2:
            continue
        count += 1
        shares = []
        for head in range(heads):
            scores = [
                float(queries[row, place, head] @ keys[row, key, head // group])
                / math.sqrt(size)
                for key in seen
            ]
            top = max(scores)
            weights = [math.exp(score - top) for score in scores]
            weights = [weight / sum(weights) for weight in weights]
            shares.append(weights)
            entropy = -sum(w * math.log2(w) for w in weights)
            sums["entropy"][head] += entropy
            sums["relative"][head] += entropy / math.log2(len(seen))
            few = sum(w < 0.1 / len(seen) for w in weights)
            sums["sparsity"][head] += few / len(seen)
            near = zip(weights, seen, strict=True)
            sums["local"][head] += sum(w for w, key in near if place - key <= 16)
        for one, other in itertools.product(range(heads), repeat=2):
            pairs = zip(shares[one], shares[other], strict=True)
            cosine[one][other] += sum(a * b for a, b in pairs)
        mean = [sum(column) / heads for column in zip(*shares, strict=True)]
        special -= sum(w * math.log2(w) for w in mean)
        special += sum(w * math.log2(w) for x in shares for w in x) / heads
    found = {name: [x / count for x in each] for name, each in sums.items()}
    sizes = [math.sqrt(cosine[head][head]) for head in range(heads)]
    found["alike"] = [
        [cosine[a][b] / sizes[a] / sizes[b] for b in range(heads)] for a in range(heads)
    ]
    return found | {"special": [special / count / math.log2(heads)]}


@pytest.mark.covers(
    "MON-10: average_attention_entropy",
    "MON-10: attention_sparsity",
    "MON-10: head_specialization",
)
@pytest.mark.parametrize("window", [0, 6])
def test_statistics_of_heads_are_those_of_their_weights(window):
    torch.manual_seed(3)
    queries = 3 * torch.randn(2, 24, 4, 8)
    keys = torch.randn(2, 24, 2, 8)
    documents = torch.tensor([[0] * 21 + [-1] * 3, [0] * 3 + [1] * 21])
    found = statistics(queries, keys, visible(documents, window))
    wanted = by_hand(queries, keys, documents, window)
    for name, tensor in zip(FIELDS, found, strict=True):
        expected = torch.tensor(wanted[name])
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5, msg=name)
    assert 0 < found[FIELDS.index("local")].min() < 1 or window


@pytest.mark.covers("MON-10: local_attention_ratio, global_attention_ratio")
def test_all_layers_are_seen_and_nothing_is_left_behind(stream):
    program, _, row, watch = looked(stream, "attention", moe=True)
    [look] = watch.looks
    assert isinstance(look, AttentionLook) and len(look._found) == 2
    assert program.model.training
    each = row["layers.local_attention_ratio"]
    assert row["local_attention_ratio"] == pytest.approx(sum(each) / 2)
    both = row["local_attention_ratio"] + row["global_attention_ratio"]
    assert both == pytest.approx(1)
    assert 0 < row["head_specialization"] < 1
    assert 0 < row["average_attention_entropy"] < math.log2(48)


@pytest.mark.covers("MON-10: collapse and redundant heads")
def test_heads_that_collapse_or_do_the_same_are_named(stream, monkeypatch):
    program = assemble(tiny_plan(measures={"attention": 1}))
    batches = stream.step(stream.start, micro_batch_size=8)
    attention = program.network.backbone.blocks[1].attention
    with torch.no_grad():
        width = 8  # of a head; four of queries, two of keys, two of values
        weight = local(attention.qkv.weight)
        weight[width : 2 * width] = weight[:width]  # head 1 does what head 0 does
        weight[3 * width : 4 * width] *= 1e4  # head 3 looks at one key
    watch = Watch.of(program, batches, 1)
    row = watch.row(train_step(program, batches, 0, watch=watch).tolist())
    [finding] = watch.findings()
    assert finding.kind == "attention_heads"
    assert finding.data == {"collapsed": {"1": [3]}, "redundant": {"1": [1]}}
    assert row["collapsed_heads"] == row["redundant_heads"] == 1
    sparsity = row["layers.attention_sparsity"]
    assert sparsity[1] > sparsity[0]


@pytest.mark.covers("MON-09: flops")
@pytest.mark.parametrize("moe", [False, True])
def test_layers_have_the_operations_that_the_head_does_not(moe):
    spec = tiny_plan(moe).spec
    head = 6 * spec.padded_vocab_size * spec.hidden_size
    norm = 6 * spec.hidden_size  # the last one
    whole = flops_per_token(spec)
    assert sum(layer_flops(spec)) + head + norm == pytest.approx(whole, rel=1e-6)
    assert layer_flops(spec)[0] == layer_flops(spec)[1]


@pytest.mark.covers("MON-09: bottleneck_score")
def test_the_slowest_layer_for_its_work_stands_out():
    assert bottleneck_scores([10, 10, 30], [1, 4, 3]) == pytest.approx([0, 0.75, 0])
    assert bottleneck_scores([10, 10], [0, 0]) == [0, 0]


@pytest.mark.covers("MON-09: forward_time, backward_time", "MON-09: memory_allocated")
@pytest.mark.parametrize("mode", ["none", "full"])
def test_layers_are_timed_and_their_memory_is_counted(stream, monkeypatch, mode):
    clock = itertools.count()
    monkeypatch.setattr(step_times, "time", stand_in(time, perf_counter=clock.__next__))
    program, batches, row, _ = looked(
        stream, "layer_profile", micro_batch_size=4, gradient_checkpointing=mode
    )
    assert len(batches.micro_batches) == 2
    # Two moments around each of two calls. On the way back a tensor between two layers
    # is looked at twice, as the output of one and then as the input of the other.
    assert row["layers.forward_time"] == [2, 2]
    assert row["layers.backward_time"] == [4, 4]
    inputs = 2 * 4 * 48 * 32 * 4  # micro-batches, rows, tokens, width, bytes
    for kept in row["layers.memory_allocated"]:
        assert kept == inputs if mode == "full" else kept > 8 * inputs
    tokens = 8 * 48
    wanted = [one * tokens for one in layer_flops(program.plan.spec)]
    assert row["layers.flops"] == wanted
    assert row["layers.bottleneck_score"] == [0, 0]
    for block in program.network.backbone.blocks:
        assert ("forward" in vars(block)) == (mode == "full")  # the wraps are gone


@pytest.mark.slow
def test_compiled_blocks_are_looked_at_without_compiling_them_again(stream):
    from torch._dynamo.utils import counters

    losses = {}
    for names in ((), ("attention", "layer_profile", "step_times", "weight_changes")):
        torch._dynamo.reset()
        counters.clear()
        program = assemble(tiny_plan(compile=True, measures=dict.fromkeys(names, 2)))
        losses[names] = []
        graphs = []
        for step in range(4):
            batches = stream.step(stream.start, micro_batch_size=8)
            watch = Watch.of(program, batches, step + 1)
            values = train_step(program, batches, step, watch=watch).tolist()
            row = watch.row(values)
            losses[names].append(values[0])
            graphs.append(counters["stats"]["unique_graphs"])
        assert graphs[0] == graphs[-1] > 0
        if names:
            assert len(row["layers.forward_time"]) == 2
            assert row["layers.memory_allocated"] is None
            assert row["average_attention_entropy"] > 0
    one, other = losses.values()
    assert one == other
