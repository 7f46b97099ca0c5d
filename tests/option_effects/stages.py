"""Options of training modes and phases: what is trained on when, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest

from option_effects import shows
from tiny_runs import Run, Runs, write_conversations


def two_parts(runs: Runs) -> dict[str, Any]:
    """Base text and conversations; two steps of each part of a run."""
    chat = write_conversations(runs.folder / "chat.jsonl", 60)
    return {
        "train_data": (),
        "base_training_paths": (str(runs.data),),
        "finetuning_paths": (str(chat),),
        "eval_batches": 4,
        "steps": 2,
    }


def hybrid(runs: Runs) -> dict[str, Any]:
    return two_parts(runs) | {"training_mode": "hybrid", "steps": None}


def shares(run: Run) -> list[float]:
    found: list[float] = run.column("source.base.weight")
    return found


@pytest.mark.covers(
    "DAT-08: Mode base_only",
    "DAT-09: Mode finetuning_only",
    "DAT-09: JSONL",
    "DAT-10: sequential base then finetune",
)
@shows("training_mode")
def modes(runs: Runs) -> None:
    wanted = {
        "base_only": [1.0] * 2,
        "finetuning_only": [0.0] * 2,
        "hybrid": [1.0] * 2 + [0.0] * 2,
        "interleaved": [0.7] * 2,
    }
    for mode, found in wanted.items():
        run = runs.train(**two_parts(runs), training_mode=mode)
        assert shares(run) == found
        # Both are measured, whatever is trained on.
        names = ("source.base.eval_loss", "source.finetuning.eval_loss")
        assert set(names) <= run.rows[-1].keys()


@pytest.mark.covers("DAT-07: base_training_paths", "DAT-07: finetuning_paths")
@pytest.mark.thorough
@shows("base_training_paths", "finetuning_paths")
def paths(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text("Entirely different words, over and over.\n" * 40)
    mixed = two_parts(runs) | {"training_mode": "interleaved"}
    losses = [
        runs.train(**mixed | changed).column("loss")
        for changed in (
            {},
            {"base_training_paths": (str(other),)},
            {"finetuning_paths": (str(other),)},
        )
    ]
    assert losses[0] != losses[1] and losses[0] != losses[2]


@pytest.mark.covers("DAT-07: base_eval_paths", "DAT-07: finetuning_eval_paths")
@pytest.mark.thorough
@shows("base_eval_paths", "finetuning_eval_paths")
def held_out(runs: Runs) -> None:
    other = runs.folder / "other.txt"
    other.write_text("Entirely different words, over and over.\n" * 40)
    mixed = two_parts(runs) | {"training_mode": "interleaved"}
    for name in ("base", "finetuning"):
        split, given = runs.both(f"{name}_eval_paths", (), (str(other),), **mixed)
        key = f"source.{name}.eval_loss"
        assert split.rows[-1][key] != given.rows[-1][key]


@pytest.mark.covers("DAT-44")
@shows("phases")
def phases(runs: Runs) -> None:
    one, two = runs.both(
        "phases",
        (),
        ("first: steps=2", "second: steps=3 learning_rate=0.0005 seq_length=16"),
        steps=2,
    )
    assert len(one.rows) == 2
    assert two.column("learning_rate") == [3e-3] * 2 + [5e-4] * 3
    assert two.rows[-1]["loss_tokens"] <= 4 * 16 < two.rows[0]["loss_tokens"]
    assert "phase 2 of 2" in two.printed


@pytest.mark.covers("DAT-10: base_num_epochs", "DAT-10: ft_num_epochs")
@pytest.mark.thorough
@shows("base_num_epochs", "ft_num_epochs")
def lengths(runs: Runs) -> None:
    """Rows of each part, from its epochs."""
    run = runs.train(**hybrid(runs), base_num_epochs=0.1, ft_num_epochs=0.5)
    longer = runs.train(**hybrid(runs), base_num_epochs=0.2, ft_num_epochs=1.0)
    for share in (1.0, 0.0):
        counts = [shares(one).count(share) for one in (run, longer)]
        assert counts[1] == pytest.approx(2 * counts[0], abs=1)


@pytest.mark.covers("DAT-10: base_learning_rate", "DAT-10: ft_learning_rate")
@shows("base_learning_rate", "ft_learning_rate")
def rates(runs: Runs) -> None:
    start = hybrid(runs) | {"steps": 1, "learning_rate": None}
    del start["learning_rate"]
    run = runs.train(**start, base_learning_rate=2e-3, ft_learning_rate=4e-4)
    assert run.column("learning_rate") == [2e-3, 4e-4]


@pytest.mark.covers("DAT-10: phase_transition_warmup_steps")
@pytest.mark.thorough
@shows("phase_transition_warmup_steps")
def transition(runs: Runs) -> None:
    start = two_parts(runs) | {"training_mode": "hybrid", "steps": 3}
    none, two = runs.both("phase_transition_warmup_steps", 0, 2, **start)
    assert none.column("learning_rate") == [3e-3] * 6
    assert two.column("learning_rate") == [3e-3] * 3 + [1.5e-3, 3e-3, 3e-3]


@pytest.mark.covers("DAT-11: base_finetuning_ratio")
@pytest.mark.thorough
@shows("base_finetuning_ratio")
def ratio(runs: Runs) -> None:
    mixed = two_parts(runs) | {"training_mode": "interleaved"}
    few, many = runs.both("base_finetuning_ratio", 0.25, 0.75, **mixed)
    assert [part["row"] for part in few.cursor["parts"]] == [2, 6]
    assert [part["row"] for part in many.cursor["parts"]] == [6, 2]


def adaptive(runs: Runs) -> dict[str, Any]:
    """Shares that may change after every second step."""
    return two_parts(runs) | {
        "training_mode": "interleaved",
        "interleaving_strategy": "adaptive",
        "adjustment_window": 2,
        "base_finetuning_ratio": 0.5,
        "steps": 7,
    }


@pytest.mark.covers("DAT-11: adaptive or fixed", "DAT-12")
@shows("interleaving_strategy")
def strategies(runs: Runs) -> None:
    fixed, moved = runs.both("interleaving_strategy", "fixed", "adaptive", **{
        name: value for name, value in adaptive(runs).items()
        if name not in ("interleaving_strategy", "adjustment_window")
    } | {"adjustment_window": 2})  # fmt: skip
    assert shares(fixed) == [0.5] * 7
    # The perplexity is far above its threshold: more base text, two steps later.
    assert shares(moved) == pytest.approx([0.5] * 4 + [0.55] * 2 + [0.6])
    scheduled = {"interleaving_strategy": "scheduled", "source_schedule": ("0:0.25",)}
    mixed = two_parts(runs) | {"training_mode": "interleaved"}
    assert shares(runs.train(**mixed | scheduled)) == [0.25] * 2


@pytest.mark.covers("DAT-11: adjustment_window")
@pytest.mark.thorough
@shows("adjustment_window")
def window(runs: Runs) -> None:
    run = runs.train(**adaptive(runs) | {"adjustment_window": 4})
    assert shares(run) == pytest.approx([0.5] * 6 + [0.55])


@pytest.mark.covers("DAT-11: max_base_ratio", "DAT-11: base_perplexity_threshold")
@pytest.mark.thorough
@shows("max_base_ratio", "base_perplexity_threshold")
def upwards(runs: Runs) -> None:
    bound = runs.train(**adaptive(runs), max_base_ratio=0.52)
    assert max(shares(bound)) == 0.52
    content = runs.train(**adaptive(runs), base_perplexity_threshold=1e9)
    assert shares(content) == [0.5] * 7


@pytest.mark.covers("DAT-11: min_base_ratio", "DAT-11: task_accuracy_threshold")
@pytest.mark.thorough
@shows("min_base_ratio", "task_accuracy_threshold")
def downwards(runs: Runs) -> None:
    """Accuracy comes with an evaluation; 1e-9 of it is always enough."""
    start = adaptive(runs) | {
        "base_perplexity_threshold": 1e9, "eval_every_n_batches": 2,
    }  # fmt: skip
    bound = runs.train(**start, task_accuracy_threshold=1.0, min_base_ratio=0.48)
    assert min(shares(bound)) == 0.48
    content = runs.train(**start, task_accuracy_threshold=1e-9)
    assert shares(content) == [0.5] * 7


@pytest.mark.covers("DAT-10: transition detected by convergence")
@pytest.mark.thorough
@shows("phase_transition", "convergence_window", "convergence_threshold")
def convergence(runs: Runs) -> None:
    """With a rate of nearly nothing the loss is level after two windows."""

    def steps(rate: float = 1e-9, **options: Any) -> int:
        phases = (f"first: steps=12 learning_rate={rate}", "second: steps=1")
        return len(runs.train(phases=phases, steps=None, **options).rows)

    start: dict[str, Any] = {
        "phase_transition": "convergence",
        "convergence_window": 3,
        "convergence_threshold": 0.5,
    }
    assert steps() == 13
    assert steps(**start) == 6 + 1 + 1
    assert steps(**start | {"convergence_window": 5}) == 10 + 1 + 1
    falls = {"rate": 1e-2, "convergence_threshold": 1e-6}
    assert steps(**start | falls) == 13


def distances(run: Run) -> list[float]:
    found: list[float] = run.column("base_distance")
    return found


@pytest.mark.covers(
    "DAT-13: penalty toward base weights",
    "DAT-13: forgetting metrics reported",
    "DAT-10: preserve_base_knowledge",
)
@shows("preserve_base_knowledge", "preservation_strength")
def preservation(runs: Runs) -> None:
    """The second phase stays nearer to where it began, the more the stronger."""
    start = two_parts(runs) | {"training_mode": "hybrid", "steps": 4}
    free = runs.train(**start)
    runs_kept = [
        runs.train(
            **start, preserve_base_knowledge=True, preservation_strength=strength
        )
        for strength in (0.5, 3.0)
    ]
    assert not distances(free) and all(map(distances, runs_kept))
    weak, strong = (distances(run)[-1] for run in runs_kept)
    assert 0 < strong < 0.7 * weak
    plan = json.loads((runs_kept[0].folder / "plan.json").read_text())
    assert plan["memory"]["base_weights"] == 4 * plan["parameters"]
    # The first phase has nothing to keep: both are the same until its end.
    losses = [run.column("loss") for run in (free, *runs_kept)]
    assert losses[0][:5] == losses[1][:5] == losses[2][:5]
    assert losses[0][6:] != losses[1][6:]
    last = runs_kept[1].rows[-1]
    for name in ("base", "finetuning"):
        assert last[f"source.{name}.eval_change"] != 0
    told = [e for e in free.events if e["kind"] == "held_out_changes"]
    assert set(told[-1]["data"]["changes"]) == {"base", "finetuning"}
    text = runs.refused("E002", preserve_base_knowledge=True)
    assert "begins with random ones" in text


@pytest.mark.covers(
    "DAT-13: penalty toward base distribution", "DAT-13: forgetting metrics reported"
)
@shows("preservation_method", "preservation_temperature")
def distillation(runs: Runs) -> None:
    """Scores on base text stay nearer to those before, and both changes are told of."""
    base = runs.train(steps=3)
    start = two_parts(runs) | {
        "training_mode": "interleaved", "base_finetuning_ratio": 0.25, "steps": 4,
        "preserve_base_knowledge": True, "init_from": str(base.folder),
    }  # fmt: skip
    weights, outputs = runs.both("preservation_method", "weights", "outputs", **start)
    assert "base_divergence" not in weights.rows[0]
    assert "base_distance" not in outputs.rows[-1]
    # The first step has the base model itself before it, and the same loss.
    assert outputs.first_loss == pytest.approx(weights.first_loss, rel=1e-5)
    assert outputs.rows[0]["base_divergence"] == pytest.approx(0, abs=1e-5)
    for name in ("base", "finetuning"):
        assert outputs.rows[-1][f"source.{name}.eval_change"] != 0
    strong, hot = (
        runs.train(**start, preservation_method="outputs", **one)
        for one in ({"preservation_strength": 100.0}, {"preservation_temperature": 9.0})
    )
    ends = [run.column("base_divergence")[-1] for run in (outputs, strong, hot)]
    assert 0 < ends[1] < 0.5 * ends[0]
    assert ends[2] < 0.5 * ends[0]  # what is compared is nearly even
    plan = json.loads((outputs.folder / "plan.json").read_text())
    assert plan["memory"]["base_weights"] == 4 * plan["parameters"]
    alone = start | {"training_mode": "finetuning_only", "base_finetuning_ratio": None}
    text = runs.refused("E002", **alone, preservation_method="outputs")
    assert "reads rows of base, and the run takes none" in text
    text = runs.refused(
        "E002", preserve_base_knowledge=True, preservation_method="outputs"
    )
    assert "there are no sources" in text


@shows("phase_optimizer")
def kept_optimizer(runs: Runs) -> None:
    """The moments go on, or begin at zero; the weights are the same at first."""
    start = {"phases": ("one: steps=3", "two: steps=2"), "steps": None}
    anew, kept = runs.both("phase_optimizer", "reset", "keep", **start)
    assert anew.column("loss")[:4] == kept.column("loss")[:4]
    assert anew.column("loss")[4] != kept.column("loss")[4]
    sizes = [
        sum(float(t.square().sum()) for t in run.slot("exp_avg_sq").values())
        for run in (anew, kept)
    ]
    assert sizes[0] < sizes[1]


@pytest.mark.covers("DAT-43")
@pytest.mark.thorough
@shows("context_schedule")
def growing_rows(runs: Runs) -> None:
    """Tokens of a step and the learning rate go on as if nothing had happened."""
    start = {"steps": 6, "lr_scheduler": "cosine", "warmup_steps": 2, "seq_length": 16,
             "global_batch_size": 8, "batch_size": None}  # fmt: skip
    still, grown = runs.both("context_schedule", (), ("0:16", "2:32", "4:64"), **start)
    assert grown.column("learning_rate") == still.column("learning_rate")
    plan = json.loads((grown.folder / "plan.json").read_text())
    assert plan["spec"]["seq_length"] == 64 and plan["global_batch_size"] == 2
    tokens = [row["loss_tokens"] for row in grown.rows]
    assert all(0.5 * 128 < count <= 128 for count in tokens)
    assert grown.column("loss")[:2] == still.column("loss")[:2]
    assert grown.column("loss")[2:] != still.column("loss")[2:]
    epochs = runs.train(
        context_schedule=("0e:32", "0.2e:64"), epochs=0.4, steps=None, seq_length=32,
    )  # fmt: skip
    begun = [e["data"]["phase"] for e in epochs.events if e["kind"] == "phase_begins"]
    assert begun == ["context-2"]
