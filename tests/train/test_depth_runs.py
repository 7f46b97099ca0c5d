"""Runs of models whose tokens choose their depth: ranks, resuming, live changes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import lumina
from lumina.config import Config, ConfigPresets
from lumina.errors import LuminaError
from lumina.infer.generate import generate
from lumina.observe.console import Console
from lumina.plan.plan import Plan
from machines import gpu, plan_for
from training import (
    DENSE,
    MOE,
    assert_same_run,
    column,
    events,
    start,
    words,
)

MODELS = {
    "depths": [*DENSE, *words("--use-mod --mod-pattern all")],
    "hybrid": [*MOE, *words("--use-mod --mod-pattern all")],
    "recursions": [*DENSE, *words("--use-mor --num-layers 4 --mor-recursions 3")],
    "both": [*DENSE, *words("--use-mor --use-mod --num-layers 4")],
    "tokens": [
        *DENSE,
        *words("--use-mor --num-layers 4 --mor-recursions 3 --mor-kv-sharing"),
        *words("--mor-routing token_choice"),
    ],
}
FLAGS = words(
    "--precision fp32 --save-every-n-batches 3 --eval-every-n-batches 3 "
    "--lr-scheduler constant"
)


@pytest.fixture(scope="module")
def whole(trainings):
    """Six steps in one go, by model; made when first asked for."""
    made = {}

    def get(model):
        if model not in made:
            flags = [*MODELS[model], *FLAGS, "--steps", "6"]
            made[model] = trainings.train(f"whole-{model}", *flags)
        return made[model]

    return get


@pytest.mark.covers("CKP-14")
@pytest.mark.parametrize("model", list(MODELS))
def test_a_resumed_run_is_the_uninterrupted_one(trainings, whole, model):
    """Bit for bit."""
    flags = [*MODELS[model], *FLAGS]
    name = f"resumed-{model}"
    trainings.train(name, *flags, "--steps", "3")
    found = trainings.train(name, *flags, "--steps", "6", "--auto-resume")
    assert_same_run(found, whole(model))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "parallel"),
    [
        ("hybrid", "fsdp2"),
        ("depths", "ddp"),
        ("both", "fsdp2"),
        ("recursions", "ddp"),
        ("tokens", "fsdp2"),
        ("tokens", "ddp"),
    ],
)
def test_two_ranks_give_the_losses_of_one(trainings, whole, model, parallel):
    found = trainings.train_on_ranks(
        f"{parallel}-{model}",
        *MODELS[model],
        *FLAGS,
        *words(f"--steps 6 --batch-size 2 --parallel {parallel}"),
    )
    alone = whole(model)
    for name in ("loss", "grad_norm", "eval_loss", "mod.predictor_loss"):
        # Experts choose by scores that rounding may order otherwise.
        assert column(found, name) == pytest.approx(
            column(alone, name), rel=1e-3, abs=1e-4
        ), name


@pytest.mark.parametrize(("model", "leaf"), [("depths", "mod"), ("recursions", "mor")])
def test_export_refuses_by_name(trainings, whole, model, leaf, tmp_path):
    run = whole(model)
    log = tmp_path / "log"
    running = start(["export", str(run), str(tmp_path / "out")], log)
    assert running.wait() == 2
    assert "E002" in running.output and leaf in running.output
    assert not (tmp_path / "out").exists()


@pytest.mark.covers("MOD-30")
@pytest.mark.parametrize("model", list(MODELS))
def test_a_trained_run_generates_what_it_scores(whole, model):
    network, tokenizer = lumina.load(whole(model))
    ids = tokenizer.encode("The cat went to")
    given = list(generate(network, ids, max_new_tokens=10, temperature=0.0))
    assert given
    for token in given:
        with torch.inference_mode():
            assert int(network.logits(torch.tensor([ids]))[0, -1].argmax()) == token
        ids.append(token)


@pytest.mark.covers(
    "ORC-23: adjust_mod_capacity(x)",
    "ORC-23: get_mod_statistics() avg_selected_ratio",
    "ORC-23: get_mod_statistics() total_compute_savings",
)
def test_capacity_is_adjusted_while_training(tiny_config):
    """Up, down and back, live; the statistics follow."""
    seen = []

    def on_step(trainer, row):
        seen.append(trainer.get_mod_statistics())
        metrics = trainer.get_current_metrics()
        assert metrics["selected_token_ratio"] == row["mod.selected_ratio"]
        if row["step"] in (2, 4):
            trainer.adjust_mod_capacity({2: 0.125, 4: 1.0}[row["step"]])

    config = tiny_config.replace(
        use_mod=True, mod_pattern="all", mod_capacity_ladder=[0.125, 1.0], steps=7
    )
    run = lumina.Trainer(config, on_step=on_step).train()
    ratios = [one["avg_selected_ratio"] for one in seen]
    assert ratios[3] < ratios[1] / 2 < ratios[1] < ratios[6] == 1.0
    savings = [one["total_compute_savings"] for one in seen]
    assert savings[3] > 1.5 * savings[1] > 0 >= savings[6] > -5
    plan = Plan.from_dict(json.loads((run.run_dir / "plan.json").read_text()))
    for value, ratio in zip(savings, ratios, strict=True):
        mod = replace(plan.spec.mod, capacity=ratio)
        planned = plan.replace(spec=replace(plan.spec, mod=mod))
        assert value == pytest.approx(planned.flops_saved_by("mod"))
    changes = [e["data"] for e in events(run.run_dir, "control")]
    assert [c["outcome"] for c in changes] == ["applied"] * 2
    assert [(c["old"], c["value"]) for c in changes] == [(0.5, 0.125), (0.125, 1.0)]


@pytest.mark.covers("CKP-02: configuration and metadata")
def test_a_capacity_outlives_a_resume_and_is_refused_without_depths(tiny_config):
    def on_step(trainer, row):
        if row["step"] == 2:
            trainer.adjust_mod_capacity(0.125)

    config = tiny_config.replace(
        use_mod=True, mod_pattern="all", steps=4, lr_scheduler="constant"
    )
    lumina.Trainer(config, on_step=on_step).train()
    more = config.replace(steps=6, auto_resume=True)
    run = lumina.Trainer(more).train()
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    assert max(rows[-1]["mod.selected_ratio"]) < min(rows[0]["mod.selected_ratio"]) / 2
    dense = tiny_config.replace(steps=4, run_dir=str(run.run_dir) + "-dense")
    run = lumina.Trainer(dense, on_step=on_step).train()
    (change,) = [e["data"] for e in events(run.run_dir, "control")]
    assert "refused" in change["outcome"]


@pytest.mark.covers("MON-05", "ORC-25: get_current_metrics()")
def test_every_metric_of_depths_is_reported_under_its_name(tiny_config):
    """In the row of the file, and under the names of `get_current_metrics`."""
    seen = []

    def on_step(trainer, row):
        seen.append((row, trainer.get_current_metrics()))

    config = tiny_config.replace(use_mod=True, num_layers=4, steps=3)
    lumina.Trainer(config, on_step=on_step).train()
    for row, metrics in seen:
        (ratio, _), (accuracy, _) = (
            metrics["selected_token_ratio"],
            metrics["routing_accuracy"],
        )
        assert 0 < ratio < 1 and 0 <= accuracy <= 1
        mean = sum(metrics["selected_token_ratio"]) / 2
        assert metrics["compute_savings"] == pytest.approx(100 * (1 - mean), abs=1e-4)
        assert 0 < metrics["flops_reduction"] < metrics["compute_savings"]
        for score, lowest in zip(
            metrics["avg_routing_score"], metrics["routing_threshold"], strict=True
        ):
            assert 0 < lowest < score < 1
        chosen, skipped = metrics["selected_token_loss"], metrics["skipped_token_loss"]
        assert min(chosen, skipped) < row["loss"] < max(chosen, skipped)
        assert row["mod.selected_token_loss"] == chosen


def test_the_metrics_of_depths_are_those_of_the_choice(tiny_config):
    config = tiny_config.replace(use_mod=True, mod_pattern="all", steps=12)
    run = lumina.Trainer(config).train()
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    for row in rows:
        ratio = row["mod.selected_ratio"]
        assert row["mod.compute_savings"] == pytest.approx(
            100 * (1 - sum(ratio) / 2), abs=1e-4
        )
        for threshold, score in zip(
            row["mod.threshold"], row["mod.router_score"], strict=True
        ):
            assert 0 < threshold < score < 1
        assert all(0 <= value <= 1 for value in row["mod.predictor_accuracy"])
        assert 5 < row["mod.flops_reduction"] < 60
    first, last = rows[0]["mod.predictor_loss"], rows[-1]["mod.predictor_loss"]
    assert last < first


@pytest.mark.covers("PRE-12: with MoD/MoR")
@pytest.mark.parametrize("name", ["100M", "250M", "500M", "1B"])
def test_hydra_sizes_train(tiny_config, name):
    """The plan as it is; a run with its blocks, narrowed."""
    preset = ConfigPresets.get(name)
    roomy = gpu()
    plan = plan_for(preset, roomy)
    dense = preset.replace(use_mod=False, use_mor=False)
    assert plan.parameters > 0.9e8
    assert plan.flops_per_token != plan_for(dense, roomy).flops_per_token
    config = tiny_config.replace(
        use_mod=preset.mod.use_mod, use_mor=preset.mor.use_mor, num_layers=4, steps=3
    )
    run = lumina.Trainer(config).train()
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    assert len(rows[0]["mod.selected_ratio"]) == 2 and rows[0]["mor.mean_depth"] > 1
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("model", ["depths", "recursions"])
def test_the_gap_between_static_and_dynamic_is_measured_and_printed(
    trainings, whole, model
):
    """Trained one way, the other is another function: the run says by how much."""
    (event,) = events(whole(model), "routing_modes")
    losses = event["data"]["losses"]
    assert list(losses) == ["predictor", "top_k", "static"]
    last = column(whole(model), "eval_loss")[-1]
    assert losses["predictor"] == pytest.approx(last, abs=1e-6)
    assert losses["static"] != pytest.approx(last, abs=1e-6)
    printed = " ".join(trainings.output(f"whole-{model}").split())
    assert f"static {losses['static']:.4f}" in printed


@pytest.mark.parametrize("switch", ["mod", "mor"])
def test_static_mode_trains_and_every_token_is_computed(trainings, switch):
    flags = words(f"--use-{switch} --{switch}-mode static --num-layers 4 --steps 6")
    run = trainings.train(f"static-{switch}", *DENSE, *FLAGS, *flags)
    losses = column(run, "loss")
    assert losses[-1] < losses[0]
    (event,) = events(run, "routing_modes")
    assert list(event["data"]["losses"]) == ["static", "top_k"]


def test_a_schedule_of_capacities(tiny_config):
    """Early, middle and late parts of the run take fewer and fewer tokens."""
    config = tiny_config.replace(
        use_mod=True, mod_pattern="all", mod_capacity_schedule=[0.5, 0.25, 0.125]
    )
    run = lumina.Trainer(config.replace(steps=9)).train()
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    chosen = [sum(row["mod.selected_ratio"]) / 2 for row in rows]
    early, middle, late = chosen[:3], chosen[3:6], chosen[6:]
    assert min(early) > max(middle) and min(middle) > max(late)


@pytest.fixture
def graphs(monkeypatch):
    """Counts traced graphs; the backend runs them as they are."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    compile_block = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: compile_block(self, backend="eager", **options),
    )
    torch._dynamo.reset()
    counters.clear()

    def count():
        assert not counters["graph_break"]
        return counters["stats"]["unique_graphs"]

    yield count
    torch._dynamo.reset()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "routing", ["learned", pytest.param("fixed", marks=pytest.mark.slow)]
)
def test_every_capacity_is_compiled_before_the_first_step(
    tiny_config, graphs, monkeypatch, routing
):
    """Schedule, control and evaluation then find their code; losses stay to the bit."""
    from lumina.train import warm_up

    def run(name, warm):
        seen, told = [], []
        config = tiny_config.replace(
            run_dir=f"{tiny_config.run.run_dir}-{name}",
            use_mod=True,
            mod_routing_strategy=routing,
            mod_pattern="all",
            mod_capacity_schedule=[0.5, 0.25],
            num_layers=1,
            steps=4,
            eval_every_n_batches=1,
            compile=True,
        )
        if not warm:
            monkeypatch.setattr(warm_up, "warm_up", lambda *_: None)

        def on_step(trainer, row):
            seen.append(graphs())
            if row["step"] == 3:
                trainer.adjust_mod_capacity(0.5)

        console = Console(stream=io.StringIO(), live=False)
        console.message = told.append
        done = lumina.Trainer(config, console=console, on_step=on_step).train()
        assert sum("of 2 capacities" in line for line in told) == 2 * warm
        return seen, [
            (row["loss"], row["grad_norm"], row["eval_loss"])
            for row in map(json.loads, (done.run_dir / "metrics.jsonl").open())
        ]

    seen, losses = run("warm", True)
    assert len(set(seen)) == 1 and seen[0] > 0
    torch._dynamo.reset()
    cold, same = run("cold", False)
    assert cold[2] > cold[1]
    assert same == losses


def test_only_several_capacities_of_compiled_blocks_need_warming_up():
    from lumina.train.warm_up import capacities_to_compile

    def found(compile, **leaves):
        config = Config(use_mod=True, vocab_size=300, steps=3, **leaves)
        plan = plan_for(config).replace(compile=compile)
        return capacities_to_compile(SimpleNamespace(plan=plan))

    assert found(compile=True, mod_capacity_ladder=[0.125]) == (0.125, 0.5)
    assert found(compile=False, mod_capacity_ladder=[0.125]) == ()
    assert found(compile=True, mod_capacity_ladder=[0.5]) == ()
    assert found(compile=True, mod_capacity_ladder=[0.1], mod_mode="static") == ()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "between"),
    [
        ("expert_choice", 5 * 2),
        pytest.param("token_choice", 1 + 2 * 2 + 1, marks=pytest.mark.slow),
    ],
)
def test_a_recursion_is_compiled_once_for_each_depth(
    tiny_config, graphs, model, between
):
    """One graph for each length, whole, and none after the first step."""
    seen = []
    config = tiny_config.replace(
        use_mor=True,
        mor_routing=model,
        mor_recursions=3,
        num_layers=4,
        compile=True,
        steps=5,
        eval_every_n_batches=0,
    )
    for compiled in (True, False):
        run = lumina.Trainer(
            config.replace(
                compile=compiled, run_dir=f"{config.run.run_dir}-{compiled}"
            ),
            on_step=lambda trainer, row: seen.append((graphs(), row["loss"])),
        ).train()
        assert run.steps == 5
    # Three lengths of blocks, and what is done to rows between them.
    counts = [count for count, _ in seen[:4]]
    assert set(counts) == {between + 3}  # then it evaluates
    for (_, one), (_, two) in zip(seen[:5], seen[5:], strict=True):
        assert one == pytest.approx(two, rel=1e-4)


@pytest.mark.thorough
@pytest.mark.covers(
    "PRE-06: ~200M active", "PRE-06: described as 32x MoD", "PRE-06: CPU"
)
def test_debug_200m_trains(tiny_config):
    """Its plan at its own size, on a processor; its blocks in a narrow run."""
    preset = ConfigPresets.debug_200m()
    plan = plan_for(preset.replace(device="cpu", batch_size=1, steps=1))
    assert plan.parameters == pytest.approx(2e8, rel=0.15)
    assert len(plan.spec.mod.layers) == 13
    config = ConfigPresets.debug_200m().replace(
        train_data=tiny_config.data.train_data,
        run_dir=tiny_config.run.run_dir,
        tokenizer_vocab_size=300,
        vocab_size=None,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        seq_length=32,
        global_batch_size=4,
        steps=3,
        warmup_steps=0,
        device="cpu",
    )
    run = lumina.Trainer(config).train()
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    assert len(rows[0]["mod.selected_ratio"]) == 13
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_senseless_combinations_are_refused(tiny_config):
    for leaves in (
        {"use_mor": True, "num_layers": 2},
        {"use_mor": True, "mor_routing": "token_choice", "mor_mode": "static"},
        {"use_mor": True, "use_mod": True, "mor_kv_sharing": True},
        {"use_mod": True, "mod_mode": "static", "mod_routing_strategy": "fixed"},
        {"use_mod": True, "mod_capacity_ladder": [0.5, 1.5]},
    ):
        with pytest.raises(LuminaError) as caught:
            tiny_config.replace(**({"num_layers": 4} | leaves))
        assert caught.value.code in ("E002", "E005") and caught.value.hint
