"""ARC through the whole training: learned, voted on, resumed, on several ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters, count_sparse, count_trainable
from lumina.plan.memory import estimate
from lumina.plan.shape import resolve_spec
from lumina.train import Trainer
from tiny_arc import task, write
from training import final_tensors, train_on_two_ranks

SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)
TABLE = "backbone.puzzle_embedding.weight"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train = {f"a{n}": task("same", n) for n in range(2)}
    asked = {f"b{n}": task("same", 50 + n) for n in range(2)}
    return write(tmp_path / "a.json", train), write(tmp_path / "b.json", asked)


def config(files: tuple[Path, Path], run: Path, **leaves: Any) -> Config:
    start: dict[str, Any] = {
        "train_data": (str(files[0]),),
        "eval_data": (str(files[1]),),
        "run_dir": str(run),
        "hidden_size": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "h_layers": 1,
        "l_layers": 1,
        "h_cycles": 1,
        "l_cycles": 1,
        "expansion": 1.0,
        "halt_max_steps": 2,
        "puzzle_augmentations": 4,
        "puzzle_votes": 3,
        "puzzle_loss": "softmax",
        "global_batch_size": 4,
        "batch_size": 4,
        "steps": 4,
        "save_every_n_batches": 2,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "device": "cpu",
        "precision": "fp32",
        "seed": 3,
    }
    return Config.resolve(preset="hrm_arc").replace(**(start | leaves))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
def test_a_rule_is_learned_and_unseen_tests_are_answered(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "config.yaml"
    config(
        files, run, steps=36, eval_every_n_batches=18, learning_rate=1e-2,
        halt_max_steps=1, early_stopping_patience=3,
    ).save(file)  # fmt: skip
    assert main(["train", "--config-file", str(file)]) == 0
    evaluated = [row for row in rows(run) if "eval_pass_at_2" in row]
    assert [row["step"] for row in evaluated] == [18, 36]
    assert evaluated[-1]["eval_pass_at_1"] == evaluated[-1]["eval_pass_at_2"] == 1.0
    told = capsys.readouterr()
    assert "pass@1 100.0%  pass@2 100.0%" in told.out + told.err
    # Vectors of forms that were drawn moved; the blank one and the other forms did not.
    table = final_tensors(run)[TABLE]
    assert table.shape == (1 + 4 * 5, 32) and table[0].abs().max() == 0


@pytest.mark.thorough
@pytest.mark.parametrize("variant", ["hrm", "trm"])
def test_a_resumed_run_is_the_run_that_never_stopped(
    files: tuple[Path, Path], tmp_path: Path, variant: str
) -> None:
    more = {"halt_max_steps": 3, "ema_decay": 0.999, "hrm_variant": variant}
    more |= {"optimizer": "adam_atan2", "puzzle_loss": "stablemax"}
    Trainer(config(files, tmp_path / "whole", **more)).train()
    Trainer(config(files, tmp_path / "parts", **more, steps=3)).train()
    Trainer(
        Config(resume=str(tmp_path / "parts"), steps=4)  # type: ignore[arg-type]
    ).train()
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys() and "carry/puzzle_ids" in whole
    assert f"exp_avg/{TABLE}" not in whole and f"ema/{TABLE}" not in whole
    assert whole[TABLE].abs().max() > 0
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_only_a_steps_own_vectors_change(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    Trainer(config(files, run, steps=2, save_every_n_batches=1)).train()
    used = set(final_tensors(run, 1)["carry/puzzle_ids"].tolist())
    table = final_tensors(run, 1)[TABLE]
    moved = table.abs().amax(1).nonzero().flatten().tolist()
    assert set(moved) == used and 0 < len(used) <= 4
    # A constant rate: one step of it in either direction.
    sizes = table[moved].abs()
    assert torch.isclose(sizes, torch.tensor(0.01)).all()


def test_the_rate_of_the_vectors_may_change_on_resume(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start = config(
        files, run, steps=1, puzzle_weight_decay=0.0, lr_scheduler="constant"
    )
    Trainer(start).train()
    before = final_tensors(run, 1)[TABLE]
    more = Config(resume=str(run), steps=2, puzzle_lr=0.03)  # type: ignore[arg-type]
    Trainer(more).train()
    moved = (final_tensors(run, 2)[TABLE] - before).abs()
    assert torch.isclose(moved[moved > 0], torch.tensor(0.03)).all()
    assert moved.max() > 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    "parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"]
)
def test_two_ranks_do_what_one_does(
    files: tuple[Path, Path], tmp_path: Path, parallel: str
) -> None:
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    more = {"batch_size": 1, "steps": 2, "halt_exploration": 0.5}
    Trainer(config(files, alone, **more)).train()
    train_on_two_ranks(config(files, ranks, **more, parallel=parallel))
    one, two = final_tensors(alone), final_tensors(ranks)
    assert torch.equal(one["carry/puzzle_ids"], two["carry/puzzle_ids"])
    # Signs of sums that are all but zero may differ: almost all are the same.
    same = torch.isclose(one[TABLE], two[TABLE], rtol=1e-4, atol=1e-7)
    assert one[TABLE].abs().max() > 0 and same.float().mean() > 0.99
    found, wanted = rows(ranks)[-1], rows(alone)[-1]
    for name in ("loss", "eval_loss"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-3), name
    for name in ("eval_pass_at_1", "eval_pass_at_2", "eval_exact_accuracy"):
        assert found[name] == wanted[name]


def test_the_plan_counts_vectors_and_keeps_no_moments_for_them() -> None:
    spec = resolve_spec(Config.resolve(preset="hrm_arc"), None, num_puzzles=5000)
    network = build_network(spec, device="meta")
    built = sum(p.numel() for p in network.parameters())
    assert count_parameters(spec).total == built
    assert count_sparse(spec) == 5000 * 512
    assert count_trainable(spec, ()) == built - 5000 * 512
    few = resolve_spec(Config.resolve(preset="hrm_arc"), None, num_puzzles=1)
    for more in (
        {},
        {"compute_dtype": "bfloat16"},
        {"parallel": "fsdp2", "data_ranks": 4},
    ):
        layout = Layout(2, features=("ema",), **more)
        many, one = (estimate(given, layout) for given in (spec, few))
        counted = [found["bound"] - found["overhead"] for found in (many, one)]
        assert counted[0] - counted[1] == 4 * 4999 * 512


def test_a_run_may_start_from_anothers_weights(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """More forms of the same tasks: what is common is taken, and the run says so."""
    first, second = tmp_path / "first", tmp_path / "second"
    Trainer(config(files, first, steps=2)).train()
    asked = Config(
        init_from=str(first), puzzle="arc", train_data=(str(files[0]),),
        eval_data=(str(files[1]),), run_dir=str(second), puzzle_augmentations=6,
        steps=1, learning_rate=1e-30, batch_size=4, seed=9, device="cpu",
        precision="fp32", halt_max_steps=1, puzzle_lr=0.0,
    )  # fmt: skip
    Trainer(asked).train()
    old, new = final_tensors(first), final_tensors(second)
    assert new[TABLE].shape[0] == 1 + 4 * 7 and old[TABLE].shape[0] == 1 + 4 * 5
    assert torch.equal(new[TABLE][:21], old[TABLE]) and not new[TABLE][21:].any()
    weights = [n for n in old if "/" not in n and n != TABLE]
    assert weights and all(torch.equal(old[n], new[n]) for n in weights)
    told = (second / "events.jsonl").read_text()
    assert "21 of 29 vectors of puzzles; the others start at 0" in told


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ({"hidden_size": 64}, "hidden_size 64 is not 32"),
        ({}, "12 tokens, these have 11"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    files: tuple[Path, Path], tmp_path: Path, leaves: dict[str, Any], told: str
) -> None:
    run = tmp_path / "run"
    Trainer(config(files, run, steps=1)).train()
    puzzles = tmp_path / "sudoku.txt"
    puzzles.write_text(f".{SOLVED[1:]}\n{SOLVED[:-1]}.")
    asked = Config.resolve(preset="hrm_sudoku").replace(
        init_from=str(run), seq_length=81, steps=1, train_data=(str(puzzles),),
        device="cpu", **leaves,
    )  # fmt: skip
    with pytest.raises(LuminaError, match=told) as caught:
        Trainer(asked).train()
    assert caught.value.code == "E002"
