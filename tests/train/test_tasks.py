"""Models of several tasks, from the command to an exported head."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.objective.multi_task import LOSSES
from lumina.model.objective.task_weights import TaskWeights
from lumina.model.spec import TaskSpec
from lumina.plan.count import count_parameters
from lumina.plan.flops import flops_per_token
from networks import packed_batch, random_ids, tiny_spec
from tiny_runs import Run, Runs, story
from training import SHAPE, Trainings, column, rows, words

NAMES = ("story", "code", "count")
WEIGHTS = ("0.4", "0.3", "0.3")


def write_tasks(folder: Path) -> tuple[str, ...]:
    """Three kinds of text, of different amount."""
    texts = {
        "story": story(120),
        "code": "<|endoftext|>".join(f"y = x * {n} + 1\n" for n in range(60)),
        "count": "<|endoftext|>".join(f"{n} {n + 1} {n + 2}\n" for n in range(40)),
    }
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return tuple(f"{name}={folder / name}.txt" for name in texts)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def options(runs: Runs, **changes: Any) -> dict[str, Any]:
    start = {"tasks": write_tasks(runs.folder), "train_data": (), "eval_batches": 6}
    return start | changes


@pytest.mark.covers(
    "MOD-36: shared backbone, one linear head per task",
    "MOD-36: task_id in forward",
    "MOD-36: task_weights",
    "MOD-36: per-task metrics",
    "MOD-36: balancing",
)
@pytest.mark.parametrize("strategy", ["proportional", "round_robin"])
def test_several_tasks_from_the_command_to_their_heads(
    strategy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shared backbone, a head each; sampling, weights, balancing, metrics by task."""
    run = tmp_path / "run"
    flags = ["--tasks", *write_tasks(tmp_path), "--task-weights", *WEIGHTS]
    flags += words(
        f"--task-sampling-strategy {strategy} --task-balancing dwa "
        "--task-balancing-window 2 --no-use-moe --no-tie-embeddings --steps 8"
    )
    assert main(["train", *SHAPE, *flags, "--run-dir", str(run)]) == 0
    # Each task has a loss, a share of the tokens and a weight in every step's row.
    for step in range(8):
        shares = [column(run, f"task.{name}.tokens")[step] for name in NAMES]
        losses = [column(run, f"task.{name}.loss")[step] for name in NAMES]
        weights = [column(run, f"task.{name}.weight")[step] for name in NAMES]
        assert sum(shares) == pytest.approx(1)
        mean = sum(s * x for s, x in zip(shares, losses, strict=True) if s)
        assert column(run, "loss")[step] == pytest.approx(mean, rel=1e-5)
        assert sum(weights) == pytest.approx(1)
        if step < 4:
            assert weights == pytest.approx([0.4, 0.3, 0.3])
    assert weights != pytest.approx([0.4, 0.3, 0.3], abs=1e-5)
    totals = [sum(column(run, f"task.{name}.tokens")) for name in NAMES]
    if strategy == "proportional":
        assert totals[0] > 2 * totals[2]
    for name in NAMES:
        assert column(run, f"task.{name}.eval_loss")
    # One backbone; every task answers with its own head.
    network, tokenizer = lumina.load(run)
    heads = [n for n, _ in network.named_parameters() if "objective" in n]
    assert len(heads) == 3
    ids = torch.tensor([tokenizer.encode("The cat went")])
    with torch.no_grad():
        logits = {name: network.logits(ids, task_id=name) for name in NAMES}
    assert not torch.equal(logits["story"], logits["code"])
    capsys.readouterr()
    answers = ["generate", str(run), "--prompt", "The", "--max-new-tokens", "5"]
    assert main(answers) == 2 and "story, code, count" in capsys.readouterr().err
    assert main([*answers, "--task", "story", "--temperature", "0"]) == 0
    assert main([*answers, "--task", "verse"]) == 2
    # Its head alone, as an ordinary model that others read.
    for name in NAMES[:2]:
        exported = tmp_path / f"{name}-alone"
        assert main(["export", str(run), str(exported), "--task", name]) == 0
        alone, _ = lumina.load(exported)
        with torch.no_grad():
            torch.testing.assert_close(alone.logits(ids), logits[name])
    assert main(["export", str(run), str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("strategy", ["proportional", "round_robin"])
def test_a_resumed_run_is_the_uninterrupted_one(runs: Runs, strategy: str) -> None:
    """Rows, weights under way and tensors, bit for bit."""
    whole = runs.train(
        **options(
            runs,
            steps=9,
            save_every_n_batches=4,
            task_sampling_strategy=strategy,
            task_balancing="dwa",
            task_balancing_window=2,
        )
    )
    copied = runs.folder / "copied"
    shutil.copytree(whole.folder, copied)
    moved = write_tasks(_new(runs.folder / "moved"))
    for name in NAMES:
        (runs.folder / f"{name}.txt").unlink()
    again = lumina.Trainer(
        lumina.Config(resume=str(copied / "checkpoints" / "step-00000004"), tasks=moved)
    ).train()
    found = Run(again, "")
    assert _numbers(found) == _numbers(whole)
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, found.tensors[name]), name
    for changed, told in (
        ({"tasks": tuple(reversed(moved))}, "tasks"),
        ({"task_sampling_strategy": _other(strategy)}, "task_sampling_strategy"),
    ):
        with pytest.raises(LuminaError, match=told):
            lumina.Trainer(lumina.Config(resume=str(copied), **changed)).train()


def test_on_resume_an_option_is_judged_beside_the_runs_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not beside the preset of a command that names none."""
    run, tasks = str(tmp_path / "run"), write_tasks(tmp_path)
    flags = words("--no-use-moe --no-tie-embeddings --steps 3")
    assert main(["train", *SHAPE, *flags, "--tasks", *tasks, "--run-dir", run]) == 0
    moved = write_tasks(_new(tmp_path / "moved"))
    again = ["train", "--resume", run, "--steps", "5", "--tasks", *moved]
    assert main(again) == 0
    assert [row["step"] for row in rows(Path(run))] == [1, 2, 3, 4, 5]
    # What makes no sense beside them is refused as ever.
    capsys.readouterr()
    assert main([*again, "--task-weights", "1"]) == 2
    assert "1 task_weights for 3 tasks" in capsys.readouterr().err


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _other(strategy: str) -> str:
    return "round_robin" if strategy == "proportional" else "proportional"


def _numbers(run: Run) -> list[dict[str, Any]]:
    """What of each step's row must not depend on interruptions."""
    names = ("loss", "grad_norm", "epoch", "tokens", "eval_loss")
    return [
        {k: v for k, v in row.items() if k in names or k.startswith("task.")}
        for row in run.rows
    ]


def test_any_micro_batch_gives_the_same_steps(runs: Runs) -> None:
    chosen = options(runs, task_weights=(0.6, 0.2, 0.2), steps=4, global_batch_size=8)
    one, many = runs.both("batch_size", 8, 2, **chosen)
    for name in ("loss", "grad_norm", "eval_loss", "task.code.loss"):
        assert many.column(name) == pytest.approx(one.column(name), rel=1e-4), name


@dataclass
class OfTasks(Trainings):
    """Runs of tasks in place of one kind of data."""

    def command(self, run: str | Path, *flags: str) -> list[str]:
        where = ["--run-dir", str(self.folder / run)]
        return ["train", *SHAPE, *self.flags, *where, *flags]


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_are_one_process(
    parallel: str, tmp_path: Path, lumina_cache: Path
) -> None:
    flags = ["--tasks", *write_tasks(tmp_path), "--task-weights", *WEIGHTS]
    flags += words(
        "--no-use-moe --no-tie-embeddings --precision fp32 --batch-size 2 "
        "--task-balancing dwa --task-balancing-window 2 --steps 6"
    )
    trainings = OfTasks(tmp_path / "runs", tmp_path, flags)
    alone = trainings.train("alone")
    both = trainings.train_on_ranks("both", "--parallel", parallel)
    names = ["loss", "grad_norm", "eval_loss"]
    names += [f"task.{n}.{k}" for n in NAMES for k in ("weight", "tokens", "eval_loss")]
    for name in names:
        found, wanted = column(both, name), column(alone, name)
        assert found == pytest.approx(wanted, rel=1e-4), name


def test_what_is_minimised_is_the_weighted_sum_of_the_tasks_means() -> None:
    tasks = TaskSpec(("a", "b"), (0.9, 0.1))
    network = build_network(tiny_spec(tasks=tasks))
    weights = TaskWeights(tasks, torch.device("cpu"))
    batches = [
        _of_rows(packed_batch([[24], [7], [9, 9]], 24, seed), rows)
        for seed, rows in enumerate([(1, 2), (3, 0), (2, 1)])
    ]
    counts = [network(b)[0].terms["task.tokens"] for b in batches]
    step: Any = type("Step", (), {})()
    step.task_loss_tokens = tuple(int(n) for n in sum(counts))
    step.loss_tokens = sum(step.task_loss_tokens)
    losses = [network(b)[0] for b in batches]
    parts = sum(weights.loss(one, step.task_loss_tokens) for one in losses)
    sums = sum(one.terms[LOSSES] for one in losses)
    means = sums / torch.tensor(step.task_loss_tokens)
    torch.testing.assert_close(parts, 0.9 * means[0] + 0.1 * means[1])


def _of_rows(batch: Any, rows: tuple[int, ...]) -> Any:
    return replace(batch, task_rows=rows)


def test_a_trained_model_gives_every_task_its_head(runs: Runs) -> None:
    base = runs.train(steps=2)
    chosen = options(runs, init_from=str(base.folder), tokenizer_vocab_size=None)
    chosen |= {"freeze": ("objective.heads.*",), "steps": 1}
    for leaf in ("hidden_size", "num_layers", "num_heads", "num_kv_heads"):
        chosen[leaf] = base_config(base, leaf)
    run = runs.train(**chosen)
    head = base.tensor("objective.head.weight")
    for place in range(3):
        assert torch.equal(run.tensor(f"heads.{place}.weight"), head)
    # Other tasks, or none, have no use for these heads.
    other = tuple(reversed(chosen["tasks"]))
    message = runs.refused(
        "E002", **chosen | {"init_from": str(run.folder), "tasks": other}
    )
    assert "story, code, count" in message


def base_config(run: Run, leaf: str) -> Any:
    return lumina.Config.load(run.folder / "config.yaml").get(leaf)


def test_a_token_costs_one_head() -> None:
    one = tiny_spec()
    three = tiny_spec(tasks=TaskSpec(NAMES))
    assert flops_per_token(three) == flops_per_token(one)
    head = one.padded_vocab_size * one.hidden_size
    assert count_parameters(three).total == count_parameters(one).total + 2 * head
    assert count_parameters(three).active == count_parameters(one).active
    network = build_network(three)
    assert network.logits(random_ids(1, 3), task_id="code").shape == (1, 3, 100)
