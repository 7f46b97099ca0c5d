"""What a step reports beside its loss, each against a plain computation of its own."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from lumina.assemble.assemble import assemble
from lumina.batch import IGNORE
from lumina.model.kinds.moe import Experts
from lumina.model.token_counts.accuracy import Accuracy
from lumina.observe import utilisation
from lumina.observe.utilisation import Utilisation
from lumina.plan.flops import flops_per_token, hardware_flops_per_token
from lumina.train.counts import divide_counts
from lumina.train.memory_figures import (
    MemoryFigures,
    fragmentation,
    own_bytes,
    risk,
    used_bytes,
)
from lumina.train.pace import Pace
from lumina.train.step import SCALARS, Measured, train_step
from lumina.train.watch import Watch
from programs import conversations, stream_of, tiny_plan
from step_rows import settled


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def counted(program, values):
    behind = values[len(SCALARS) + len(program.terms) :]
    return dict(divide_counts(behind, program.counts))


@pytest.mark.covers("MON-01: token_accuracy", "MON-01: sequence_accuracy")
@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_accuracies_are_those_of_the_scores(stream, tmp_path, micro_batch_size):
    plan = tiny_plan(micro_batch_size=micro_batch_size, measures={"accuracy": 1})
    program = assemble(plan)
    batches = stream.step(stream.start, micro_batch_size=micro_batch_size)
    tokens = right = documents = whole = 0
    # Some documents are right everywhere, the others in every other place.
    changed = []
    for batch in batches.micro_batches:
        with torch.no_grad():
            hidden = program.network.backbone(batch).hidden
            best = program.network._logits(hidden, None).argmax(-1)
        other_places = torch.arange(best.shape[1]) % 2 == 0
        labels = torch.where(
            (batch.labels != IGNORE) & ((batch.document_ids % 2 == 0) | other_places),
            best,
            batch.labels,
        )
        changed.append(replace(batch, labels=labels))
        for row in range(len(labels)):
            for document in batch.document_ids[row].unique():
                places = (batch.document_ids[row] == document) & (labels[row] != IGNORE)
                hits = (best[row] == labels[row])[places]
                tokens, right = tokens + len(hits), right + int(hits.sum())
                documents += bool(len(hits))
                whole += bool(len(hits)) and bool(hits.all())
    assert 0 < whole < documents and whole / documents != right / tokens
    values = train_step(program, replace(batches, micro_batches=changed), 0)
    assert counted(program, values)[Accuracy.key].tolist() == [
        tokens, right, documents, whole
    ]  # fmt: skip
    row = settled(plan, tmp_path, {}, values.tolist())
    assert row["token_accuracy"] == pytest.approx(right / tokens)
    assert row["sequence_accuracy"] == pytest.approx(whole / documents)


def test_what_bears_no_loss_is_neither_right_nor_wrong(stream):
    program = assemble(tiny_plan(measures={"accuracy": 1}))
    batches = stream.step(stream.start, micro_batch_size=8)
    [batch] = batches.micro_batches
    weights = (torch.arange(batch.labels.shape[1]) % 2).float()
    weighted = replace(batch, loss_weights=weights.expand(batch.labels.shape))
    values = train_step(program, replace(batches, micro_batches=[weighted]), 0)
    found = counted(program, values)[Accuracy.key]
    assert found[0] == ((batch.labels != IGNORE) & (weights > 0)).sum()


@pytest.mark.covers("MON-01: gradient_variance")
@pytest.mark.parametrize("micro_batch_size", [8, 4])
def test_the_variance_is_that_of_all_elements_of_the_gradient(stream, micro_batch_size):
    plan = tiny_plan(micro_batch_size=micro_batch_size, max_grad_norm=0.01)
    program = assemble(plan)
    batches = stream.step(stream.start, micro_batch_size=micro_batch_size)
    for batch in batches.micro_batches:
        losses, _ = program.model(batch)
        (losses.loss_sum / batches.loss_divisor).backward()
    parts = [slot.gradient().flatten() for slot in program.optimizer.slots]
    wanted = torch.cat(parts).double()
    program.optimizer.zero_grad()
    program.replan(plan.replace(measures={"gradient_variance": 3}))
    assert Watch.of(program, batches, 2).looks == ()
    watch = Watch.of(program, batches, 3)
    values = train_step(program, batches, 2, watch=watch).tolist()
    row = watch.row(values)
    assert row["gradient_variance"] == pytest.approx(
        wanted.var(correction=0).item(), rel=1e-5
    )
    assert values[1] == pytest.approx(wanted.norm().item(), rel=1e-5)


@pytest.mark.covers("MON-01: effective_learning_rate", "MON-01: clipped_gradients")
def test_clipping_is_counted_and_takes_from_the_rate(stream, tmp_path):
    for limit, wanted in ((0.0, 1.0), (1e9, 1.0), (0.01, None)):
        plan = tiny_plan(max_grad_norm=limit)
        program = assemble(plan)
        batches = stream.step(stream.start, micro_batch_size=8)
        values = train_step(program, batches, 0).tolist()
        row = settled(plan, tmp_path, {}, values)
        norm = row["grad_norm"]
        clip = min(1.0, limit / norm) if wanted is None else wanted
        assert row["effective_learning_rate"] == pytest.approx(1e-3 * clip, rel=1e-4)
        assert row["clipped_gradients"] == (wanted is None)
    values[SCALARS.index("skipped")], values[SCALARS.index("clip")] = 1.0, 0.0
    row = settled(plan, tmp_path, {}, values)
    assert row["effective_learning_rate"] == 0 and row["clipped_gradients"] == 0
    row = settled(plan, tmp_path, {"loss_tokens": 0}, values)
    assert row["effective_learning_rate"] is None


def test_what_a_process_measured_comes_back_in_its_row(stream, tmp_path):
    plan = tiny_plan()
    program = assemble(plan)
    batches = stream.step(stream.start, micro_batch_size=8)
    values = train_step(program, batches, 0, measured=Measured(0.25, 1.5)).tolist()
    row = settled(plan, tmp_path, {}, values)
    assert row["agreed_memory_share"] == 0.25 and row["agreed_step_seconds"] == 1.5
    values = train_step(program, batches, 1).tolist()
    row = settled(plan, tmp_path, {}, values)
    assert row["agreed_memory_share"] is row["agreed_step_seconds"] is None


def test_a_step_that_was_skipped_was_not_clipped(stream):
    program = assemble(tiny_plan(max_grad_norm=0.01))
    batches = stream.step(stream.start, micro_batch_size=8)
    with torch.no_grad():
        program.optimizer.slots[0].parameter.fill_(math.nan)
    values = train_step(program, batches, 0)
    assert values[SCALARS.index("skipped")] == 1
    assert values[SCALARS.index("clip")] == 0


@pytest.mark.covers(
    "MON-02: samples_per_second", "MON-02: steps_per_second", "MON-02: epoch_time"
)
def test_rates_and_the_time_of_a_pass():
    pace, plan = Pace("some card", "bfloat16"), tiny_plan()
    rows = [
        pace.row(plan, step, 0.5, 100, step * 0.4) for step in range(1, 8)
    ]  # passes end in steps 3, 5 and 8
    assert rows[0]["samples_per_second"] == 16 and rows[0]["steps_per_second"] == 2
    assert rows[0]["mfu"] is rows[0]["hfu"] is None
    ends = {
        n: row["epoch_time"] for n, row in enumerate(rows, 1) if "epoch_time" in row
    }
    assert ends == {3: 1.5, 5: 1.0}
    resumed = Pace("some card", "bfloat16")
    rows = [resumed.row(plan, step, 0.5, 100, step * 0.4) for step in range(2, 8)]
    assert [step for step, row in enumerate(rows, 2) if "epoch_time" in row] == [5]
    assert "epoch_time" not in pace.row(plan, 9, 0.5, 100, None)


@pytest.mark.covers("MON-02: hfu")
def test_full_checkpointing_computes_the_blocks_again():
    plan = tiny_plan(gradient_checkpointing="full", flops_per_token=1e6)
    head = 6 * plan.spec.vocab_size * plan.spec.hidden_size
    row = Pace("NVIDIA H100", "bfloat16").row(plan, 1, 0.5, 100, None)
    assert row["mfu"] == pytest.approx(200 * 1e6 / 989e12)
    assert row["hfu"] == pytest.approx(200 * (1e6 + (1e6 - head) / 3) / 989e12)
    kept = plan.replace(gradient_checkpointing="selective")
    row = Pace("NVIDIA H100", "bfloat16").row(kept, 1, 0.5, 100, None)
    assert row["hfu"] == row["mfu"]


@pytest.mark.thorough
@pytest.mark.covers("MON-02: hfu")
def test_hardware_utilisation_counts_what_is_computed_again(stream):
    """The share of it is that of the products that PyTorch executes."""
    done = {}
    for mode in ("none", "full"):
        program = assemble(
            tiny_plan(gradient_checkpointing=mode, attention="reference")
        )
        batches = stream.step(stream.start, micro_batch_size=8)
        with set_checkpoint_early_stop(False), FlopCounterMode(display=False) as c:
            train_step(program, batches, 0)
        done[mode] = c.get_total_flops()
    plan = tiny_plan(gradient_checkpointing="full")
    plan = plan.replace(flops_per_token=flops_per_token(plan.spec))
    again = hardware_flops_per_token(plan) / plan.flops_per_token
    # The counter takes attention for twice the work, for it does not see the mask.
    assert again == pytest.approx(done["full"] / done["none"], rel=0.03)


@pytest.mark.covers(
    "MON-03: memory_utilization",
    "MON-03: memory_allocated, memory_peak",
    "MEM-16: fragmentation metric",
    "MON-03: memory_reserved, memory_fragmentation",
    "MON-03: activation_memory",
)
def test_memory_of_a_gpu(monkeypatch):
    from lumina.train import memory_figures

    told = {"allocated": 600, "peak": 900, "reserved": 800, "taken": 800}
    monkeypatch.setattr(memory_figures, "_cuda_bytes", lambda: told)
    held = {"model": 100, "optimizer": 200, "gradient": 150}
    row = MemoryFigures("cuda", 1000).row(1, held)
    assert row["memory_allocated_bytes"] == 600 and row["memory_peak_bytes"] == 900
    assert row["memory_utilization"] == 0.8 and row["memory_reserved"] == 800
    assert row["memory_fragmentation"] == pytest.approx(0.25)
    assert row["activation_memory"] == 450
    assert row["oom_risk_score"] == pytest.approx(1 / 3)
    assert fragmentation(0, 0) is None


def test_memory_of_a_process_is_its_own():
    held = torch.ones(2**23)  # 32 MiB
    row = MemoryFigures("cpu", 10 * 2**30).row(1, None)
    assert held.nbytes < row["memory_allocated_bytes"] <= row["memory_peak_bytes"]
    share = row["memory_utilization"] * 10 * 2**30
    assert held.nbytes < share <= row["memory_allocated_bytes"]
    assert row["memory_reserved"] is row["memory_fragmentation"] is None
    assert MemoryFigures("cpu", None).row(1, None)["oom_risk_score"] is None


def test_the_pages_of_a_mapped_file_are_no_pressure(tmp_path, monkeypatch):
    """The system drops them when memory is short; a token store is such a file."""
    from lumina.train import memory_figures

    told = tmp_path / "status"
    monkeypatch.setattr(memory_figures, "STATUS", told)
    told.write_text(
        "Name:\tpython\nVmHWM:\t  999000 kB\nVmRSS:\t  972800 kB\n"
        "RssAnon:\t  102400 kB\nRssFile:\t  819200 kB\nRssShmem:\t   51200 kB\n"
    )
    row = MemoryFigures("cpu", 1000 * 2**20).row(1, None)
    assert row["memory_utilization"] == 0.15 and row["oom_risk_score"] == 0
    assert used_bytes("cpu") == 150 * 2**20
    # A system that does not tell them apart, and one without such a file.
    told.write_text("Name:\tpython\nVmRSS:\t  972800 kB\n")
    assert own_bytes(7) == 7
    told.unlink()
    assert own_bytes(7) == 7


@pytest.mark.covers("MON-03: oom_risk_score", "MEM-27: OOM risk score")
def test_the_risk_rises_with_what_is_used_and_with_its_growth():
    def of(*shares, window=3):
        return risk(deque(enumerate(shares), maxlen=window))

    assert of(0.2) == of(0.7) == 0 and of(1.0) == of(1.4) == 1
    assert of(0.85) == pytest.approx(0.5)
    # 0.001 of it in every step: in 100 steps it would be 0.1 more.
    assert of(0.588, 0.589, 0.590) == 0
    assert of(0.748, 0.749, 0.750) == pytest.approx(0.5)
    assert of(0.750, 0.749, 0.748) == pytest.approx((0.748 - 0.7) / 0.3)
    assert of(0.749, 0.750) == pytest.approx(0.05 / 0.3)  # too few to see a growth


@pytest.mark.covers("MON-03: model_memory, optimizer_memory, gradient_memory")
@pytest.mark.parametrize("micro_batch_size", [8, 4])
def test_held_bytes_are_those_of_the_tensors(micro_batch_size):
    program = assemble(tiny_plan(micro_batch_size=micro_batch_size, ema_decay=0.9))
    count = sum(p.numel() for p in program.network.parameters())
    assert program.held["model"] >= 4 * count
    assert program.held["model"] - 4 * count == sum(
        b.nbytes for b in program.network.buffers()
    )
    assert program.held["optimizer"] == 3 * 4 * count  # two moments and an average
    assert program.held["gradient"] == 4 * count
    half = assemble(
        tiny_plan(compute_dtype="bfloat16", micro_batch_size=micro_batch_size)
    )
    apart = sum(
        s.master.numel()
        for s in half.optimizer.slots
        if s.parameter.element_size() == 2
    )
    assert apart and half.held["model"] >= 4 * count + 2 * apart
    sums = 4 * apart if micro_batch_size == 4 else 0
    assert half.held["gradient"] == 4 * (count - apart) + 2 * apart + sums


@pytest.mark.covers(
    "MON-04: expert_load_variance, expert_balance_score",
    "MON-04: capacity_utilization",
    "MON-04: expert_collapse_count, expert_imbalance_ratio",
)
def test_figures_of_experts_by_hand():
    plan = tiny_plan(moe=True)
    moe = replace(plan.spec.moe, dispatch="capacity", capacity_factor=1.25)
    limited = plan.replace(spec=replace(plan.spec, moe=moe))
    counts = torch.tensor([[10.0, 30.0, 58.0, 2.0], [25.0, 25.0, 50.0, 0.0]])
    found = {
        "moe.counts": counts,
        "moe.dropped": torch.tensor([20.0, 0.0]),
        "moe.probability": counts,
        "moe.router": torch.tensor([[50.0, 30.0, 50.0], [25.0, 40.0, 50.0]]),
    }
    row = Experts().metrics(limited, found)
    for layer, load in enumerate(counts.tolist()):
        mean = sum(load) / 4
        std = math.sqrt(sum((x - mean) ** 2 for x in load) / 4)
        assert row["moe.balance_score"][layer] == pytest.approx(1 - std / mean)
        assert row["moe.load_variance"][layer] == pytest.approx((std / mean) ** 2)
    assert row["moe.imbalance_ratio"] == [29.0, None]
    assert row["moe.collapsed_experts"] == [1, 1]  # 2 of 100 is less than 2.5
    assert row["moe.experts_per_token"] == pytest.approx([1.6, 2.0])
    assert row["moe.capacity_utilization"] == pytest.approx([80 / 125, 100 / 125])
    assert row["moe.router_entropy"] == [1.0, 0.5]
    assert row["moe.router_confidence"] == pytest.approx([0.6, 0.8])
    assert Experts().metrics(plan, found)["moe.capacity_utilization"] is None


@pytest.mark.covers(
    "MON-04: routing_entropy, routing_confidence", "MON-04: avg_experts_per_token"
)
def test_the_router_is_judged_by_its_probabilities(stream):
    program = assemble(tiny_plan(moe=True, micro_batch_size=4))
    batches = stream.step(stream.start, micro_batch_size=4)
    seen = []
    layer = program.network.backbone.blocks[1].feedforward
    inner = layer.route

    def route(x_td):
        seen.append(inner(x_td))
        return seen[-1]

    layer.route = route
    values = train_step(program, batches, 0)
    found = counted(program, values)
    valid = torch.cat([(b.document_ids >= 0).flatten() for b in batches.micro_batches])
    probs = torch.cat([one.logits_te for one in seen]).softmax(-1)[valid].double()
    entropy = -(probs * probs.log()).sum(-1).mean().item()
    row = Experts().metrics(program.plan, {k: v.cpu() for k, v in found.items()})
    assert 0 < valid.sum() < len(valid)
    assert row["moe.router_entropy"][1] == pytest.approx(entropy, rel=1e-4)
    surest = probs.max(-1).values.mean().item()
    assert row["moe.router_confidence"][1] == pytest.approx(surest, rel=1e-4)
    assert row["moe.experts_per_token"] == pytest.approx([2.0, 2.0])
    torch.testing.assert_close(found["moe.probability"][1], probs.sum(0).float())


@pytest.mark.covers("MON-17: utilisation of CPU, host memory")
def test_the_machine_is_read(tmp_path, monkeypatch):
    # What others use of it changes from one moment to the next.
    told = SimpleNamespace(percent=37.5)
    monkeypatch.setattr("psutil.virtual_memory", lambda: told)
    row = Utilisation(tmp_path, "cpu").row()
    assert set(row) == {
        "cpu_utilization",
        "host_memory_utilization",
        "disk_utilization",
        "disk_free_bytes",
    }
    assert all(0 <= row[key] <= 1 for key in row if key != "disk_free_bytes")
    assert row["host_memory_utilization"] == 0.375
    assert row["disk_free_bytes"] > 0


def test_a_gpu_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(utilisation, "installed", lambda name: name != "pynvml")
    without = Utilisation(tmp_path, "cuda")
    assert "luminaai[gpu]" in without.missing
    assert "gpu_utilization" not in without.row()
    assert Utilisation(tmp_path, "cpu").missing == ""
