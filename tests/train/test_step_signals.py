"""Signals of a step that are on by default, each against a plain computation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.assemble.counted import counted_metrics
from lumina.batch import IGNORE, Batch
from lumina.config import ConfigPresets
from lumina.optim.optimizer import local
from lumina.train.counts import divide_counts
from lumina.train.looks import update_rms
from lumina.train.looks.update_rms import sampled
from lumina.train.step import SCALARS, train_step
from lumina.train.watch import Watch
from machines import plan_for
from programs import conversations, stream_of, tiny_plan


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def step_of(stream, *names, step=0, **changes):
    """A program, the batches of its first step, and that step's row, not yet taken."""
    program = assemble(tiny_plan(measures=dict.fromkeys(names, 1), **changes))
    size = program.plan.micro_batch_size
    batches = stream.step(stream.start, micro_batch_size=size)

    def take(batches=batches):
        watch = Watch.of(program, batches, step + 1)
        values = train_step(program, batches, step, watch=watch).tolist()
        rest = torch.tensor(values[len(SCALARS) + len(program.terms) :])
        counted = dict(divide_counts(rest, program.counts))
        return counted_metrics(program.plan, counted) | watch.row(values)

    return program, batches, take


def logits_of(program, batch):
    network = program.network
    out = network.backbone(batch)
    return network.objective.logits(out.hidden, network._tied).double()


@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_log_z_is_the_mean_of_the_tokens_that_bear_loss(stream, micro_batch_size):
    program, batches, take = step_of(stream, "log_z", micro_batch_size=micro_batch_size)
    weights = (torch.arange(48) % 3).float()
    changed = [
        replace(one, loss_weights=weights.expand(one.labels.shape))
        for one in batches.micro_batches
    ]
    found = []
    for batch in changed:
        with torch.no_grad():
            log_z = torch.logsumexp(logits_of(program, batch), -1)
        found += log_z[(batch.labels != IGNORE) & (weights > 0)].tolist()
    row = take(replace(batches, micro_batches=changed))
    assert row["log_z"] == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_a_step_without_labels_has_no_signal(stream):
    names = ("log_z", "gradient_groups", "update_rms")
    _, batches, take = step_of(stream, *names)
    empty = [
        replace(batch, labels=torch.full_like(batch.labels, IGNORE))
        for batch in batches.micro_batches
    ]
    row = take(replace(batches, micro_batches=empty, loss_tokens=0))
    assert row == {"log_z": None}


@pytest.mark.parametrize("kind", ["dense", "moe", "float16"])
def test_gradients_and_updates_of_groups_are_those_of_their_tensors(stream, kind):
    changes = {"max_grad_norm": 0.5, "micro_batch_size": 4, "moe": kind == "moe"}
    if kind == "float16":  # whose gradients are scaled
        changes["compute_dtype"] = "float16"
    program, batches, take = step_of(stream, "gradient_groups", "update_rms", **changes)
    other, _, _ = step_of(stream, **changes)
    scale = other.loss_scale.value
    for index, batch in enumerate(batches.micro_batches):
        with other.gradient_sync(last=index == 1):
            losses, aux = other.model(batch)
            total = losses.loss_sum / batches.loss_divisor
            for term in other.terms:
                per_token = term.per_token(batches.tokens, batches.loss_tokens)
                total = total + term.weight * aux[term.key] * per_token
            (total * scale).backward()
    gradients = {x.name: x.gradient().double() / scale for x in other.optimizer.slots}
    slots = program.optimizer.slots
    before = {slot.name: slot.master.double().clone() for slot in slots}
    row = take()
    roles = {slot.name: program.info_of(slot.name).role for slot in slots}
    assert set(roles.values()) >= (
        {"expert", "router"} if kind == "moe" else {"matrix", "norm", "embedding"}
    )
    for role in set(roles.values()):
        mine = [slot for slot in slots if roles[slot.name] == role]
        squares = sum(gradients[slot.name].square().sum() for slot in mine)
        moved = [slot.master.double() - before[slot.name] for slot in mine]
        elements = sum(one.numel() for one in moved)
        change = sum(one.square().sum() for one in moved) / elements
        wanted = {"gradient_norm": squares**0.5, "update_rms": change**0.5}
        for key, value in wanted.items():
            assert value > 0
            found = row[f"group.{role}.{key}"]
            assert found == pytest.approx(value.item(), rel=1e-3), (role, key)
    found = [key for key in row if key.startswith("group.")]
    assert len(found) == 2 * len(set(roles.values()))


def test_a_sample_of_a_large_tensor_says_nearly_the_same(stream, monkeypatch):
    whole = step_of(stream, "update_rms")[2]()
    monkeypatch.setattr(update_rms.sampled, "__defaults__", (500,))
    some = step_of(stream, "update_rms")[2]()
    assert whole.keys() == some.keys() and whole != some
    for key, value in some.items():
        assert value == pytest.approx(whole[key], rel=0.15), key


@pytest.mark.parametrize("shape", [(7,), (64, 48), (1000, 96), (3, 50, 30)])
def test_a_sample_is_within_its_bound_and_sees_every_column(shape):
    tensor = torch.arange(math.prod(shape)).view(shape)
    found = sampled(tensor, 300)
    assert 75 < len(found) <= 300 or len(found) == tensor.numel() <= 300
    if len(found) >= 10 * shape[-1] or len(found) == tensor.numel():
        assert len((found % shape[-1]).unique()) == shape[-1]
    assert found.data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("window", [0, 6])
def test_the_largest_attention_logit_is_that_of_the_first_row(stream, window):
    spec = replace(tiny_plan().spec, window_size=window)
    program, batches, take = step_of(stream, "attention_logits", spec=spec)
    batch = batches.micro_batches[0]
    ids = batch.document_ids[0].tolist()
    assert len(set(ids)) > 1
    seen = []
    for block in program.network.backbone.blocks:
        block.attention.register_forward_hook(
            lambda module, args, _: seen.append((module, *args))
        )
    with torch.no_grad():
        program.network.backbone(batch.first(1))
    largest = -math.inf
    for module, x, context in seen:
        with torch.no_grad():
            queries, keys, _ = module.project(x, context)
        for place in range(len(ids)):
            for key in range(place + 1):
                if ids[key] != ids[place] or (window and key <= place - window):
                    continue
                for head in range(4):
                    score = queries[0, place, head] @ keys[0, key, head // 2]
                    largest = max(largest, score.item() / math.sqrt(8))
    assert len(seen) == 2
    assert take()["largest_attention_logit"] == pytest.approx(largest, rel=1e-4)


def test_signals_change_nothing(stream):
    names = ("log_z", "gradient_groups", "update_rms", "attention_logits")
    weights = []
    for some in ((), names):
        program, _, take = step_of(stream, *some, moe=True)
        row = take()
        assert bool(row.get("log_z")) == bool(some)
        weights.append([local(slot.master) for slot in program.optimizer.slots])
    assert all(map(torch.equal, *weights))


def test_what_a_run_measures_by_itself():
    def measures(steps=200, **changes):
        config = ConfigPresets.debug().replace(
            steps=steps, epochs=None, device="cpu", **changes
        )
        return plan_for(config).measures

    found = measures()
    assert {"log_z": 1, "gradient_groups": 1}.items() <= found.items()
    assert found["attention_logits"] == 10
    assert measures(steps=2000)["attention_logits"] == 40
    assert measures(steps=10**6)["attention_logits"] == 100
    assert measures(metrics="basic", attention_logits_every=7)["attention_logits"] == 7
    for without in (
        {"metrics": "basic"}, {"qk_clip": 100.0}, {"use_mod": True, "num_layers": 4},
        {"attention_logits_every": 0},
    ):  # fmt: skip
        assert "attention_logits" not in measures(**without)
    early = measures(optimizer_in_backward=True, max_grad_norm=0.0, grad_accum=1)
    assert "log_z" in early
    assert not {"gradient_groups", "update_rms"} & early.keys()


def test_a_batch_is_one_row(stream):
    """Rows that follow one another in a batch do not see each other."""
    _, batches, take = step_of(stream, "attention_logits")
    rows = torch.randint(0, 300, (8, 48))
    largest = []
    for one in (rows, rows[:1]):
        batch = Batch.from_rows(one)
        largest.append(
            take(replace(batches, micro_batches=[batch], loss_tokens=0))[
                "largest_attention_logit"
            ]
        )
    assert largest[0] == largest[1] > 0
