"""Reasoners of puzzles through the whole training: carry, resume, splits, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.cli.main import main
from lumina.config import Config
from lumina.model.build import build_network
from lumina.plan.count import count_parameters
from lumina.plan.flops import flops_per_token
from lumina.plan.shape import resolve_spec
from lumina.train import Trainer
from training import final_tensors, train_on_two_ranks

SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)


@pytest.fixture
def puzzles(tmp_path: Path) -> Path:
    path = tmp_path / "puzzles.txt"
    rows = [SOLVED[:n] + "." * 4 + SOLVED[n + 4 :] for n in range(14)]
    path.write_text("\n".join(f"{row},{SOLVED}" for row in rows))
    return path


def config(puzzles: Path, run: Path, **leaves: Any) -> Config:
    start: dict[str, Any] = {
        "train_data": (str(puzzles),),
        "run_dir": str(run),
        "hidden_size": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "h_layers": 1,
        "l_layers": 1,
        "expansion": 1.0,
        "halt_max_steps": 3,
        "global_batch_size": 4,
        "batch_size": 4,
        "steps": 6,
        "save_every_n_batches": 2,
        "learning_rate": 3e-3,
        "warmup_ratio": 0.0,
        "eval_fraction": 0.2,
        "eval_batches": 1,
        "device": "cpu",
        "precision": "fp32",
        "seed": 3,
    }
    return Config.resolve(preset="hrm_sudoku").replace(**(start | leaves))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.covers("MOD-12: recurrent carry state between segments")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_the_run_that_never_stopped(
    puzzles: Path, tmp_path: Path, precision: str
) -> None:
    """In the middle of puzzles: 4 steps end at the first segment of the second ones."""
    more = {"precision": precision, "ema_decay": 0.9}
    Trainer(config(puzzles, tmp_path / "whole", **more)).train()
    Trainer(config(puzzles, tmp_path / "parts", **more, steps=4)).train()
    Trainer(
        Config(resume=str(tmp_path / "parts"), steps=6)  # type: ignore[arg-type]
    ).train()
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert {"carry/z_h", "carry/steps", "carry/input_ids"} <= whole.keys()
    assert whole["carry/z_h"].shape == (4, 82, 32)
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    told = [
        [(r["loss"], r["act.halt_loss"]) for r in rows(tmp_path / run)]
        for run in ("whole", "parts")
    ]
    assert told[0] == told[1]


def test_forwards_of_a_step_may_be_divided(puzzles: Path, tmp_path: Path) -> None:
    """Each row keeps its own carry, whichever forward it is in."""
    one, two = tmp_path / "one", tmp_path / "two"
    more = {"max_grad_norm": 1.0, "halt_exploration": 0.9, "optimizer": "adamw"}
    Trainer(config(puzzles, one, **more)).train()
    Trainer(config(puzzles, two, **more, batch_size=1)).train()
    losses = [torch.tensor([r["loss"] for r in rows(run)]) for run in (one, two)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    first, second = final_tensors(one), final_tensors(two)
    for name in ("carry/input_ids", "carry/steps", "carry/halted"):
        assert torch.equal(first[name], second[name])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"]
)
def test_two_ranks_think_what_one_does_and_go_on_alone(
    puzzles: Path, tmp_path: Path, parallel: str
) -> None:
    """Rows, changes and exploration belong to the data, not to the ranks."""
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    more = {"batch_size": 2, "halt_exploration": 0.9, "optimizer": "adamw", "steps": 5}
    Trainer(config(puzzles, alone, **more)).train()
    shorter = config(puzzles, ranks, **more, parallel=parallel).replace(steps=4)
    train_on_two_ranks(shorter)
    found, wanted = final_tensors(ranks), final_tensors(alone, 4)
    for name in ("carry/input_ids", "carry/steps", "carry/halted"):
        assert torch.equal(found[name], wanted[name]), name
    torch.testing.assert_close(
        found["carry/z_h"], wanted["carry/z_h"], rtol=1e-3, atol=1e-3
    )
    Trainer(
        Config(resume=str(ranks), steps=5, parallel="auto")  # type: ignore[arg-type]
    ).train()
    losses = [torch.tensor([r["loss"] for r in rows(run)]) for run in (alone, ranks)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


@pytest.mark.covers("MOD-13: ponder behaviour observable in metrics")
def test_metrics_say_how_long_is_thought(puzzles: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        "train", "--preset", "hrm_sudoku", "--train-data", str(puzzles),
        "--run-dir", str(run), "--hidden-size", "32", "--num-heads", "2",
        "--num-kv-heads", "2", "--h-layers", "1", "--l-layers", "1", "--h-cycles", "1",
        "--l-cycles", "2", "--expansion", "1", "--halt-max-steps", "2",
        "--global-batch-size", "4", "--steps", "4", "--eval-fraction", "0.2",
        "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    assert main(command) == 0
    shares = [row["act.halted_share"] for row in rows(run)]
    assert shares == [0.0, 1.0, 0.0, 1.0]
    last = rows(run)[-1]
    assert last["act.mean_steps"] == 2
    assert 0 <= last["act.exact_accuracy"] <= 1
    assert 0 <= last["eval_exact_accuracy"] <= 1 and last["eval_loss"] > 0


@pytest.mark.parametrize("preset", ["hrm_sudoku", "trm_sudoku"])
def test_the_plan_counts_what_is_built(preset: str) -> None:
    spec = resolve_spec(Config.resolve(preset=preset), None)
    network = build_network(spec, device="meta")
    built = sum(p.numel() for p in network.parameters())
    assert count_parameters(spec).total == built
    assert built / 1e6 == pytest.approx({"h": 27.28, "t": 6.83}[preset[0]], abs=0.01)


def test_counted_operations_are_the_executed_ones() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from lumina.batch import Batch

    for variant in ("hrm", "trm"):
        spec = resolve_spec(
            Config.resolve(preset="hrm_sudoku").replace(
                hidden_size=64, num_heads=2, num_kv_heads=2, hrm_variant=variant,
                l_layers=1, h_layers=2, h_cycles=2, l_cycles=3, halt_exploration=0.0,
                expansion=2.0,
            ),
            None,
        )  # fmt: skip
        # SDPA's operations on a CPU are not counted, those of the reference are.
        network = build_network(spec, attention="reference").train()
        ids = torch.randint(1, 11, (2, 81))
        with FlopCounterMode(display=False) as counter:
            losses, aux = network(Batch.from_rows(ids, ids))
            halting = sum(v for k, v in aux.items() if "loss" in k)
            (losses.loss_sum + halting).backward()
        # The row has one position more than it has cells.
        counted = flops_per_token(spec) * 2 * 81
        assert counter.get_total_flops() == pytest.approx(counted, rel=0.05), variant


@pytest.mark.parametrize("variant", ["hrm", "trm"])
def test_estimated_activations_are_those_kept_or_a_little_more(variant: str) -> None:
    from lumina.batch import Batch
    from lumina.plan.costs.layout import Layout
    from lumina.plan.memory import estimate

    spec = resolve_spec(
        Config.resolve(preset=f"{variant}_sudoku").replace(
            hidden_size=128, num_heads=2, num_kv_heads=2, l_cycles=2,
            halt_exploration=0.0, halt_max_steps=1,
        ),
        None,
    )  # fmt: skip
    network = build_network(spec).train()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(1, 11, (4, 81))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _ = network(Batch.from_rows(ids, ids))
    layout = Layout(4, attention="sdpa", device="cpu")
    parts = estimate(spec, layout)
    estimated = parts["activations"] + parts["logits"]
    assert losses.loss_sum.requires_grad
    assert sum(kept.values()) <= estimated <= 1.4 * sum(kept.values())


def test_a_trained_run_solves_and_is_not_asked_to_talk(
    puzzles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lumina.infer.load import load_solver

    run = tmp_path / "run"
    Trainer(config(puzzles, run)).train()
    capsys.readouterr()
    solver = load_solver(run, "cpu")
    tokens = torch.tensor([[int(c) + 1 for c in SOLVED]])
    with torch.no_grad():
        assert solver.logits(tokens).shape == (1, 81, 11)
    weight = solver.backbone.blocks[0].attention.out.weight
    saved = final_tensors(run)["backbone.blocks.0.attention.out.weight"]
    assert torch.equal(weight.detach(), saved)
    for command in (
        ["generate", str(run), "--prompt", "x"],
        ["export", str(run), str(tmp_path / "exported")],
    ):
        assert main(command) in (1, 2)
        told = capsys.readouterr().err
        assert "E002" in told and ("puzzles" in told or "hrm" in told)
    assert not (tmp_path / "exported").exists()


def test_a_row_that_broke_begins_anew(puzzles: Path, tmp_path: Path) -> None:
    """States that are not finite do not outlive the step that made them."""
    from lumina.train import loop

    original = loop.train_step
    seen = []

    def step(program: Any, batches: Any, number: int, **more: Any) -> Any:
        if number == 1:
            program.carries[0].z_h.fill_(float("nan"))
        values = original(program, batches, number, **more)
        seen.append(program.carries[0].halted.all().item())
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        Trainer(
            config(puzzles, tmp_path / "run", steps=3, save_every_n_batches=0)
        ).train()
    found = rows(tmp_path / "run")
    assert seen[1] and [row["skipped"] for row in found] == [0, 1, 1]
    assert found[2]["loss"] is not None


@pytest.mark.parametrize("broken", ["weights", "vectors"])
def test_weights_and_vectors_of_puzzles_are_skipped_together(
    broken: str, puzzles: Path, tmp_path: Path
) -> None:
    """Gradients of one that are not finite leave both as they were."""
    from lumina.optim.methods import sign_sgd
    from lumina.train import loop

    original, changed = loop.train_step, []

    def step(program: Any, batches: Any, number: int, **more: Any) -> Any:
        def held() -> dict[str, Any]:
            state = program.network.state_dict()
            return {name: value.clone() for name, value in state.items()}

        before = held()
        with pytest.MonkeyPatch.context() as patch:
            weight = next(p for p in program.network.parameters() if p.requires_grad)
            hook = weight.register_hook(
                lambda gradient: (
                    gradient * float("nan")
                    if number == 1 and broken == "weights"
                    else gradient
                )
            )
            if number == 1 and broken == "vectors":
                patch.setattr(
                    sign_sgd,
                    "_gradient",
                    lambda rows: torch.full_like(rows, float("nan")),
                )
            values = original(program, batches, number, **more)
            hook.remove()
        after = held()
        changed.append({n for n, x in before.items() if not torch.equal(x, after[n])})
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        Trainer(
            config(puzzles, tmp_path / "run", steps=3, save_every_n_batches=0)
        ).train()
    assert [row["skipped"] for row in rows(tmp_path / "run")] == [0, 1, 1]
    assert changed[0] and not changed[1] and changed[2] == changed[0]
    assert "backbone.puzzle_embedding.weight" in changed[0] and len(changed[0]) > 5


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ({"use_moe": True}, "use_moe"),
        ({"tie_embeddings": True}, "tie_embeddings"),
        ({"seq_length": 64}, "81"),
    ],
)
def test_what_a_reasoner_has_not_is_refused(
    puzzles: Path, tmp_path: Path, leaves: dict[str, Any], told: str
) -> None:
    from lumina.errors import LuminaError

    with pytest.raises(LuminaError, match=told) as caught:
        Trainer(config(puzzles, tmp_path / "run", **leaves)).train()
    assert caught.value.code == "E002"
