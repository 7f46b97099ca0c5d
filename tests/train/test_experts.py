"""Routed layers changed while they train: live scalars, experts more and fewer."""

from __future__ import annotations

import json

import pytest

from lumina import Trainer
from lumina.errors import LuminaError
from lumina.infer.load import load
from lumina.state.reader import latest_good, open_checkpoint
from training import column, events, in_processes, rows

STEPS = 10
MOE = {
    "use_moe": True,
    "num_experts": 4,
    "moe_intermediate_size": 32,
    "steps": STEPS,
    "moe_bias_update_rate": 0.01,
    "ema_decay": 0.9,
}


def train(config, *requests, **options):
    """Train; `requests` are (step, function of the trainer), in order."""
    waiting = list(requests)

    def on_step(trainer, row):
        while waiting and row["step"] == waiting[0][0]:
            waiting.pop(0)[1](trainer)

    trainer = Trainer(config.replace(**MOE | options), on_step=on_step)
    return trainer, trainer.train().run_dir


def checkpoint(run):
    return open_checkpoint(latest_good(run))


def experts_in(row):
    return [len(layer) for layer in row["moe.load"]]


def past_the_share(row, factor):
    """What of each layer's load is past an expert's share of `factor`."""
    return [
        sum(max(share - factor / len(load), 0) for share in load)
        for load in row["moe.load"]
    ]


def test_metrics_after_a_live_change_are_reckoned_with_the_new_plan(tiny_config):
    trainer, run = train(
        tiny_config,
        (2, lambda t: t.adjust_capacity_factor(0.5)),
        moe_dispatch="capacity",
        capacity_factor=4.0,
    )
    found = rows(run)
    for row, factor in ((found[1], 4.0), (found[3], 0.5), (found[-1], 0.5)):
        expected = pytest.approx(past_the_share(row, factor), abs=1e-4)
        assert row["moe.overflow_fraction"] == expected, row["step"]
    assert max(found[-1]["moe.overflow_fraction"]) > 0
    assert trainer.plan.spec.moe.capacity_factor == 0.5


@pytest.mark.covers(
    "ORC-22: adjust_capacity_factor(x)",
    "ORC-22: adjust_routing_temperature(x)",
    "ORC-22: enable_expert_dropout(p)",
    "ORC-22: get_expert_statistics()",
)
def test_live_routing_changes_without_another_program(tiny_config):
    programs, statistics = [], []
    _, run = train(
        tiny_config,
        (1, lambda t: programs.append(t.program)),
        (2, lambda t: t.adjust_capacity_factor(0.5, "a test")),
        (4, lambda t: t.adjust_routing_temperature(1.5)),
        (5, lambda t: t.adjust_router_jitter(0.1)),
        (5, lambda t: t.enable_expert_dropout(0.2)),
        (STEPS - 1, lambda t: programs.append(t.program)),
        (STEPS - 1, lambda t: statistics.append(t.get_expert_statistics())),
        moe_dispatch="capacity",
        capacity_factor=4.0,
    )
    assert programs[0] is programs[1]
    dropped = [max(row["moe.dropped_fraction"]) for row in rows(run)]
    assert dropped[:3] == [0, 0, 0] and min(dropped[3:]) >= 0.4
    told = [(e["data"]["name"], e["data"]["old"]) for e in events(run, "control")]
    assert told == [
        ("capacity_factor", 4.0),
        ("routing_temperature", 1.0),
        ("router_jitter_noise", 0.0),
        ("expert_dropout", 0.0),
    ]
    # What was set is part of the shape that is saved, and of the model made of it.
    moe = checkpoint(run).meta.spec["moe"]
    assert (moe["capacity_factor"], moe["temperature"]) == (0.5, 1.5)
    assert (moe["jitter"], moe["expert_dropout"]) == (0.1, 0.2)
    network, _ = load(run)
    assert network.backbone.blocks[0].feedforward.temperature == 1.5
    assert statistics[0].keys() == {"0", "1"}
    assert sum(statistics[0]["1"]["load"]) == pytest.approx(1, abs=1e-5)


def test_more_capacity_than_there_is_room_for_assembles_again(tiny_config):
    programs = []
    _, run = train(
        tiny_config,
        (1, lambda t: programs.append(t.program)),
        (1, lambda t: t.adjust_capacity_factor(4.0)),
        (5, lambda t: programs.append(t.program)),
        moe_dispatch="capacity",
        capacity_factor=0.5,
    )
    assert programs[0] is not programs[1]
    dropped = [max(row["moe.dropped_fraction"]) for row in rows(run)]
    assert min(dropped[:2]) > 0.4 and max(dropped[2:]) == 0
    assert events(run, "control")[0]["data"]["seconds"] > 0


def test_capacity_without_drops_is_refused(tiny_config):
    _, run = train(tiny_config, (1, lambda t: t.adjust_capacity_factor(2.0)), steps=4)
    (told,) = events(run, "control")
    assert told["data"]["outcome"].startswith("refused: E002")


@pytest.mark.covers(
    "MOD-24: experts added and pruned during training",
    "ORC-21: add_expert(layer_idx)",
    "ORC-21: prune_expert(layer_idx, expert_idx)",
)
def test_experts_are_added_and_pruned_while_training(tiny_config):
    _, run = train(
        tiny_config,
        (3, lambda t: t.add_expert(1, reason="one is overloaded")),
        (6, lambda t: t.prune_expert(0, 2)),
        (7, lambda t: t.prune_expert()),
    )
    counts = [experts_in(row) for row in rows(run)]
    # Agreed with the metrics of the next step; the last two come together.
    assert counts == [[4, 4]] * 4 + [[5, 5]] * 3 + [[3, 3]] * 3
    assert all(sum(layer) == pytest.approx(1, abs=1e-4)
               for row in rows(run) for layer in row["moe.load"])  # fmt: skip
    losses = column(run, "loss")
    assert losses[-1] < losses[0] and max(losses[4:]) < losses[0]
    told = [e["data"] for e in events(run, "control")]
    assert [(t["name"], t["old"], t["outcome"]) for t in told] == [
        ("add_expert", 4, "applied"),
        ("prune_expert", 5, "applied"),
        ("prune_expert", 4, "applied"),
    ]
    assert all(t["seconds"] > 0 for t in told)
    meta = checkpoint(run).meta
    assert meta.spec["moe"]["num_experts"] == 3
    network, _ = load(run)
    assert network.backbone.blocks[0].feedforward.down.shape[0] == 3


@pytest.mark.slow
def test_a_compiled_run_takes_them_as_a_plain_one_does(tiny_config, tmp_path):
    found = []
    for compiled in (True, False):
        _, run = train(
            tiny_config,
            (2, lambda t: t.add_expert(1)),
            (5, lambda t: t.prune_expert(0, 2)),
            compile=compiled,
            run_dir=str(tmp_path / f"compiled-{compiled}"),
        )
        assert [len(row["moe.load"][0]) for row in rows(run)][-1] == 4
        found.append(column(run, "loss"))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_the_fewest_experts_stay_and_nothing_is_undone(tiny_config):
    refused = []

    def refusals(trainer):
        for ask in (
            lambda: trainer.prune_expert(0, 7),
            lambda: trainer.prune_expert(5, 0),
            lambda: trainer.prune_expert(0),
            lambda: trainer.add_expert(9),
            lambda: trainer.add_expert(how="magic"),
            lambda: trainer.controls.undo(1),
        ):
            with pytest.raises(LuminaError) as caught:
                ask()
            refused.append(caught.value.code)

    _, run = train(
        tiny_config,
        (1, lambda t: t.prune_expert()),
        (3, refusals),
        (3, lambda t: t.prune_expert()),
        (3, lambda t: t.prune_expert()),
        steps=6,
    )
    assert refused == ["E005"] * 6
    outcomes = [e["data"]["outcome"] for e in events(run, "control")]
    assert outcomes[:2] == ["applied", "applied"]
    assert outcomes[2].startswith("refused: E002")
    assert [experts_in(row)[0] for row in rows(run)] == [4, 4, 3, 3, 2, 2]


@pytest.mark.thorough
@pytest.mark.covers("MOD-24: experts added and pruned during training")
def test_a_run_with_other_experts_resumes_to_the_bit(tiny_config, tmp_path):
    requests = (
        (1, lambda t: t.add_expert(how="mean")),
        (2, lambda t: t.adjust_routing_temperature(1.3)),
    )
    _, whole = train(tiny_config.replace(run_dir=str(tmp_path / "whole")), *requests)
    stopped = tiny_config.replace(
        run_dir=str(tmp_path / "stopped"), save_every_n_batches=5
    )
    train(stopped, *requests)
    middle = tmp_path / "stopped" / "checkpoints" / "step-00000005"
    resumed = []
    trainer, run = train(
        stopped.replace(resume=str(middle)),
        (6, lambda t: resumed.append(t.plan.spec.moe.num_experts)),
        (6, lambda t: t.prune_expert()),
    )
    assert (resumed, trainer.plan.spec.moe.num_experts) == ([5], 4)
    assert trainer.plan.spec.moe.temperature == 1.3
    for name in ("loss", "grad_norm", "moe.load"):
        assert column(run, name)[:7] == column(whole, name)[:7], name
    assert experts_in(rows(run)[-1]) == [4, 4]


@pytest.mark.thorough
@pytest.mark.covers("MOD-24: experts added and pruned during training")
def test_two_ranks_add_and_prune_together(tiny_config, tmp_path):
    from programs import expert_rank

    config = tiny_config.replace(
        **MOE, batch_size=2, run_dir=str(tmp_path / "two"), parallel="fsdp2"
    )
    answers = in_processes(expert_rank, 2, config, answers=2)
    journals = [json.dumps(answer[1]) for answer in sorted(answers)]
    assert len(journals[0]) > 2
    _, one = train(
        tiny_config,
        (2, lambda t: t.add_expert()),
        (5, lambda t: t.prune_expert(1, 0)),
        batch_size=4,
    )
    two = tmp_path / "two"
    assert [experts_in(row) for row in rows(two)] == [experts_in(r) for r in rows(one)]
    assert column(two, "loss") == pytest.approx(column(one, "loss"), rel=1e-4)
