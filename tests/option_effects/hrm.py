"""Options of reasoners of puzzles, and of the optimizer of their recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from option_effects import shows
from tiny_arc import task, write
from tiny_runs import Run, Runs

SOLVED = (
    "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
)


def tiny_reasoner(runs: Runs) -> dict[str, object]:
    """Options of a reasoner of two narrow blocks, on eight puzzles of its own."""
    data = runs.folder / "puzzles.txt"
    puzzles = [SOLVED[:n] + "." * 5 + SOLVED[n + 5 :] for n in range(8)]
    data.write_text("\n".join(f"{p},{SOLVED}" for p in puzzles))
    return {
        "use_hrm": True,
        "train_data": (str(data),),
        "tokenizer_vocab_size": None,
        "seq_length": 81,
        "h_layers": 1,
        "l_layers": 1,
        "expansion": 1.0,
        "halt_max_steps": 2,
        "steps": 2,
        "eval_fraction": 0.25,
        "batch_size": 4,
    }


def pair(runs: Runs, leaf: str, one: object, two: object, **more: object) -> list[Run]:
    start = tiny_reasoner(runs) | more
    return list(runs.both(leaf, one, two, **_without(start, leaf)))


def _without(leaves: dict[str, object], leaf: str) -> dict[str, object]:
    return {k: v for k, v in leaves.items() if k != leaf}


@pytest.mark.covers(
    "MOD-12: hierarchical recurrence with high-level and low-level blocks"
)
@shows("use_hrm")
def reasons(runs: Runs) -> None:
    run = runs.train(**tiny_reasoner(runs))
    assert "act.exact_accuracy" in run.rows[0]
    assert any(name.endswith("halting.weight") for name in run.tensors)
    assert "eval_exact_accuracy" in run.rows[-1]


@shows("hrm_mode")
def mode(runs: Runs) -> None:
    """Text in place of puzzles: a tokenizer, causal rows, and tokens that halt."""
    run = runs.train(use_hrm=True, hrm_mode="language_model", h_layers=1, l_layers=1)
    assert len(run.rows[0]["act.active_share"]) == 16
    assert not any("puzzle" in name for name in run.tensors)
    assert (run.folder / "tokenizer" / "tokenizer.json").is_file()


@shows("hrm_variant")
def variant(runs: Runs) -> None:
    two, one = pair(runs, "hrm_variant", "hrm", "trm")
    assert two.rows[0]["act.continue_loss"] > 0
    assert "act.continue_loss" not in one.rows[0]
    assert _blocks(two) == 2 and _blocks(one) == 1


@pytest.mark.covers("MOD-12: --h-layers, --l-layers")
@shows("h_layers", "l_layers")
def layers(runs: Runs) -> None:
    for leaf in ("h_layers", "l_layers"):
        one, two = pair(runs, leaf, 1, 2)
        assert (_blocks(one), _blocks(two)) == (2, 3)


@pytest.mark.covers("MOD-12: --h-cycles, --l-cycles")
@shows("h_cycles", "l_cycles")
def cycles(runs: Runs) -> None:
    for leaf in ("h_cycles", "l_cycles"):
        one, two = pair(runs, leaf, 1, 3)
        assert one.first_loss != two.first_loss


@pytest.mark.covers("MOD-12: --expansion", "MOD-06: expansion ratio")
@shows("expansion")
def width(runs: Runs) -> None:
    one, two = pair(runs, "expansion", 1.0, 16.0)
    ending = "blocks.0.feedforward.down.weight"
    assert one.tensor(ending).shape == (32, 256)
    assert two.tensor(ending).shape == (32, 512)


@pytest.mark.covers(
    "MOD-13: --halt-max-steps", "MOD-13: ponder behaviour observable in metrics"
)
@shows("halt_max_steps")
def segments(runs: Runs) -> None:
    one, two = pair(runs, "halt_max_steps", 1, 2)
    assert one.column("act.halted_share") == [1.0, 1.0]
    assert two.column("act.halted_share") == [0.0, 1.0]
    assert two.rows[1]["act.mean_steps"] == 2


@pytest.mark.covers("MOD-13: halting (q) head")
@shows("halt_exploration")
def exploration(runs: Runs) -> None:
    """With a limit of 3 and a head that would halt at once, explorers go on."""
    from lumina.model import initial
    from lumina.model.kinds.reasoning import HALTING_BIAS

    constant = initial.RULES["constant"]

    def biased(shape: Any, generator: Any, value: float) -> Any:
        if (shape, value) == ((2,), HALTING_BIAS):
            return torch.tensor([5.0, -5.0])
        return constant(shape, generator, value)

    runs.monkeypatch.setitem(initial.RULES, "constant", biased)
    none, always = pair(runs, "halt_exploration", 0.0, 1.0, halt_max_steps=3)
    assert none.column("act.halted_share") == [1.0, 1.0]
    assert always.column("act.halted_share")[0] == 0.0


@shows("puzzle_loss")
def loss(runs: Runs) -> None:
    stable, soft = pair(runs, "puzzle_loss", "stablemax", "softmax")
    assert stable.first_loss != soft.first_loss
    assert stable.first_loss == pytest.approx(soft.first_loss, rel=0.3)


@pytest.mark.covers("TRN-06: --optimizer adamw")
@shows("optimizer")
def optimizer(runs: Runs) -> None:
    """Both see the same first gradients; atan2(1, 1) makes smaller first steps of them.

    The first step of either is a rate times a sign: 1 for AdamW, pi / 4 for atan2.
    """
    one, two = runs.both("optimizer", "adamw", "adam_atan2", steps=1, weight_decay=0.0)
    assert one.first_loss == two.first_loss
    start = runs.train(steps=1, learning_rate=1e-30, weight_decay=0.0)
    name = "blocks.0.attention.out.weight"
    moved = [(r.tensor(name) - start.tensor(name)).abs().median() for r in (one, two)]
    assert (moved[1] / moved[0]).item() == pytest.approx(0.7854, rel=0.02)


def _blocks(run: Run) -> int:
    return len({n.split(".")[2] for n in run.tensors if ".blocks." in n})


def tiny_arc(runs: Runs) -> dict[str, object]:
    """Options of the same reasoner on four small ARC tasks."""
    tasks = {f"task{n}": task("same", n) for n in range(4)}
    data = write(runs.folder / "tasks.json", tasks)
    return tiny_reasoner(runs) | {
        "puzzle": "arc",
        "train_data": (str(data),),
        "seq_length": 900,
        "puzzle_augmentations": 3,
        "halt_max_steps": 1,
        "h_cycles": 1,
        "l_cycles": 1,
    }


@shows("puzzle")
def kind(runs: Runs) -> None:
    sudoku = runs.train(**tiny_reasoner(runs))
    arc = runs.train(**tiny_arc(runs))
    name = "backbone.embedding.weight"
    assert (sudoku.tensor(name).shape[0], arc.tensor(name).shape[0]) == (11, 12)
    assert 0 <= arc.rows[-1]["eval_pass_at_1"] <= arc.rows[-1]["eval_pass_at_2"]
    assert "eval_pass_at_1" not in sudoku.rows[-1]


@shows("puzzle_augmentations", "puzzle_votes")
def forms(runs: Runs) -> None:
    start = tiny_arc(runs)
    none = runs.train(**start | {"puzzle_augmentations": 0})
    three = runs.train(**start)
    voting = runs.train(**start | {"puzzle_votes": 4})
    name = "puzzle_embedding.weight"
    assert (none.tensor(name).shape[0], three.tensor(name).shape[0]) == (5, 17)
    assert three.first_loss == voting.first_loss
    assert three.rows[-1]["eval_loss"] != voting.rows[-1]["eval_loss"]
    runs.refused("E002", **start | {"puzzle_votes": 5})


@shows("puzzle_lr", "puzzle_weight_decay")
def vectors(runs: Runs) -> None:
    """A constant rate: every entry of a used vector moves by the rate, up or down."""
    name = "puzzle_embedding.weight"
    start = tiny_reasoner(runs) | {"steps": 1}
    still = runs.train(**start | {"puzzle_lr": 0.0}).tensor(name)
    moved = runs.train(**start | {"puzzle_lr": 0.25}).tensor(name)
    assert still.abs().max() == 0 and set(moved.abs().unique().tolist()) == {0.25}
    start |= {"steps": 2, "puzzle_lr": 0.25}
    plain = runs.train(**start | {"puzzle_weight_decay": 0.0}).tensor(name)
    decayed = runs.train(**start | {"puzzle_weight_decay": 0.5}).tensor(name)
    assert plain.abs().max() == 0.5 and decayed.abs().max() == 0.25 * (2 - 0.125)
