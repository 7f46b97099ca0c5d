"""Runs in phases: each is the run that --init-from would begin, in one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.state.reader import open_checkpoint
from lumina.train.phases import phase_config, with_mode
from tiny_runs import Runs, same, story, write_conversations
from training import (
    DENSE,
    SHAPE,
    assert_ranks_end,
    assert_same_run,
    column,
    events,
    reached,
    start,
    start_ranks,
    wait_until,
    words,
)

ADAPTIVE = words(
    "--training-mode interleaved --interleaving-strategy adaptive --steps 8 "
    "--adjustment-window 2 --eval-every-n-batches 3 --base-finetuning-ratio 0.5"
)
CONVERGING = words(
    "--training-mode hybrid --steps 9 --phase-transition convergence "
    "--convergence-window 2 --convergence-threshold 0.9"
)
PRESERVING = words(
    "--training-mode hybrid --preserve-base-knowledge --preservation-strength 30 "
    "--precision bf16 --ema-decay 0.9"
)
DISTILLING = [
    *words("--preserve-base-knowledge --preservation-method outputs --precision bf16"),
    "--phases",
    "one: training_mode=base_only steps=3",
    "two: training_mode=interleaved steps=5",
]
CONTEXT = words(
    "--training-mode interleaved --steps 8 --context-schedule 0:32 3:64 5:128 "
    "--ema-decay 0.9"
)
MODES = {
    mode: ["--training-mode", mode]
    for mode in ("base_only", "finetuning_only", "hybrid", "interleaved")
} | {
    "adaptive": ADAPTIVE,
    "converging": CONVERGING,
    "preserving": PRESERVING,
    "distilling": DISTILLING,
    "context": CONTEXT,
}
MOMENTS = {"hybrid": (2, 4, 6), "adaptive": (5,), "converging": (3, 5, 7),
           "preserving": (7,), "distilling": (6,), "context": (3, 4, 6)}  # fmt: skip
"""Steps after which a run is killed; of the first phase, at its end, of the second."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def two(runs: Runs) -> dict[str, Any]:
    chat = write_conversations(runs.folder / "chat.jsonl", 60)
    return {
        "train_data": (),
        "base_training_paths": (str(runs.data),),
        "finetuning_paths": (str(chat),),
        "eval_batches": 2,
        "steps": None,
        "learning_rate": 3e-3,
    }


@pytest.mark.covers(
    "DAT-10: checkpoint saved at transition",
    "DAT-44",
    "DAT-20",
)
def test_a_phase_is_the_run_that_init_from_would_begin(runs: Runs) -> None:
    """Another rate, batch, length of rows and share; the steps are counted on."""
    options = two(runs)
    phases = (
        "base: steps=3 source_weights=base=1,finetuning=0",
        "mixed: steps=2 learning_rate=0.001 source_weights=0.5 seq_length=16 "
        "lr_scheduler=linear warmup_steps=1 global_batch_size=8 batch_size=8",
        "chat: steps=2 source_weights=base=0,finetuning=1",
    )
    whole = runs.train(**options, phases=phases)
    assert [row["step"] for row in whole.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert whole.checkpoints == [f"step-{n:08}" for n in (3, 5, 7)]
    before = whole.folder / "checkpoints/step-00000003"
    alone = runs.train(
        **options
        | {
            "init_from": str(before),
            "tokenizer": str(whole.folder / "tokenizer"),
            "tokenizer_vocab_size": None,
            "steps": 2,
            "learning_rate": 1e-3,
            "source_weights": ("0.5",),
            "seq_length": 16,
            "lr_scheduler": "linear",
            "warmup_steps": 1,
            "global_batch_size": 8,
            "batch_size": 8,
        }
    )
    for name in ("loss", "learning_rate", "grad_norm", "source.base.loss"):
        assert [row[name] for row in whole.rows[3:5]] == alone.column(name), name
    with open_checkpoint(whole.folder / "checkpoints/step-00000005") as reader:
        for name, value in alone.tensors.items():
            assert same(reader.tensor(name), value), name
    begun = [e["data"]["phase"] for e in whole.events if e["kind"] == "phase_begins"]
    assert begun == ["mixed", "chat"]
    # What is not trained on is measured, and does not count in the held-out loss.
    last = whole.rows[-1]
    assert last["eval_loss"] == pytest.approx(last["source.finetuning.eval_loss"])
    assert last["source.base.eval_loss"] != last["eval_loss"]
    assert last["epoch.base"] == 0 and last["source.finetuning.weight"] == 1


@pytest.mark.covers("DAT-08: recommended", "DAT-09: 3 epochs, batch 8, seq 4096")
def test_a_mode_recommends_what_is_not_set_and_says_so() -> None:
    paths = {"base_training_paths": ["b"], "finetuning_paths": ["f"]}
    first = phase_config(Config(training_mode="hybrid", **paths), 0)
    second = phase_config(Config(training_mode="hybrid", **paths), 1)
    leaves = ("epochs", "global_batch_size", "seq_length", "learning_rate")
    assert [first.get(leaf) for leaf in leaves] == [1, 32, 2048, 3e-4]
    assert [second.get(leaf) for leaf in leaves] == [3, 8, 4096, 1e-5]
    assert first.train.warmup_ratio == 0.05 and second.train.warmup_steps == 500
    alone = with_mode(Config(training_mode="finetuning_only", **paths))
    assert alone.train.warmup_ratio == 0.1
    why = alone.provenance["learning_rate"]
    assert (why.kind, why.detail) == ("decided", "recommended for finetuning_only")
    # What is set holds, for the run or for a phase; a preset's length of a row too.
    mine = Config(
        preset="debug", training_mode="hybrid", ft_learning_rate=2e-4, steps=9, **paths
    )
    second = phase_config(mine, 1)
    assert second.train.learning_rate == 2e-4 and second.train.steps == 9
    assert second.train.epochs is None or not second.is_chosen("epochs")
    assert second.model.seq_length == mine.model.seq_length
    warm = Config(training_mode="hybrid", warmup_steps=7, **paths)
    assert phase_config(warm, 1).train.warmup_steps == 7


@pytest.mark.parametrize(
    ("code", "options", "text"),
    [
        ("E002", {"training_mode": "hybrid"}, "two sources, and there are 0"),
        ("E005", {"phases": ("no name",)}, "write NAME"),
        ("E002", {"phases": ("a: steps=1", "a: steps=2")}, "two phases have one name"),
        ("E004", {"phases": ("a: hidden_size=8",)}, "holds for a whole run"),
        ("E005", {"phases": ("a: steps=1", "b: steps=none")}, "steps cannot be"),
        ("E002", {"phases": ("a: steps=1", "b: steps=2 warmup_steps=3")}, "phase b"),
        ("E002", {"phases": ("a: source_weights=1 steps=1",)}, "there are no sources"),
        ("E002", {"phases": ("a: steps=1",), "context_schedule": ("0:16",)}, "divide"),
        ("E005", {"context_schedule": ("0:16", "2e:32"), "steps": 4}, "all in epochs"),
        ("E002", {"context_schedule": ("0:16", "9:32"), "steps": 4}, "and the run has"),
    ],
)
def test_phases_that_make_no_sense_are_refused_before_the_first(
    code: str, options: dict[str, Any], text: str, runs: Runs
) -> None:
    with pytest.raises(LuminaError) as caught:
        runs.train(**options)
    assert caught.value.code == code
    assert text in f"{caught.value.message} {caught.value.hint}"
    assert not list(runs.folder.glob("run-*/checkpoints/step-*"))


@pytest.mark.covers("TRN-28: multi-phase loops with separate hyperparameters")
@pytest.mark.thorough
def test_a_finished_run_goes_on_with_a_further_phase(runs: Runs) -> None:
    first = ("one: steps=2", "two: steps=1")
    run = runs.train(phases=first, steps=None)
    again: dict[str, Any] = {"steps": None, "run_dir": None, "resume": str(run.folder)}
    more = runs.train(phases=(*first, "three: steps=2 learning_rate=0.0005"), **again)
    assert more.column("learning_rate") == [3e-3] * 3 + [5e-4] * 2
    with pytest.raises(LuminaError, match="begun with other settings"):
        runs.train(phases=("other: steps=2",), **again)


def begin(folder: Path, name: str, flags: list[str], **environment: str) -> Any:
    run = folder / name
    command = ["train", *SHAPE, *DENSE, *flags, "--run-dir", str(run)]
    return start(command, folder / f"{name}.log", **environment)


def data_flags(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.txt").write_text(story(120))
    write_conversations(folder / "chat.jsonl", 60)
    return words(
        f"--base-training-paths {folder}/base.txt "
        f"--finetuning-paths {folder}/chat.jsonl --precision fp32 --dropout 0.1 "
        "--steps 4 --save-every-n-batches 3 --warmup-steps 1"
    )


@pytest.mark.faults
@pytest.mark.parametrize("mode", list(MODES))
def test_a_mode_that_is_killed_goes_on_to_the_bit(mode: str, tmp_path: Path) -> None:
    flags = [*data_flags(tmp_path / "data"), *MODES[mode]]
    for moment in MOMENTS.get(mode, (2,)):
        again = [*flags, "--auto-resume"]
        running = begin(tmp_path, "killed", again, HOLD_AFTER=f"{moment}")
        wait_until(reached(tmp_path / "killed", moment), running)
        running.kill()
    assert begin(tmp_path, "killed", [*flags, "--auto-resume"]).wait() == 0
    assert begin(tmp_path, "whole", flags).wait() == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert column(tmp_path / "killed", "source.base.weight") == column(
        tmp_path / "whole", "source.base.weight"
    )
    changed = [e["data"]["rule"] for e in events(tmp_path / "whole", "control")]
    rules = {"adaptive": "adaptive_sources", "converging": "phase_convergence"}
    assert set(changed) == {rules[mode]} if mode in rules else not changed
    assert not events(tmp_path / "whole", "run_failed")


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
@pytest.mark.parametrize(
    ("mode", "figure"),
    [("preserving", "base_distance"), ("distilling", "base_divergence")],
)
def test_two_ranks_go_through_the_phases_of_one(
    mode: str, figure: str, way: str, tmp_path: Path
) -> None:
    """Rank 0 alone prepares; both take up the phase from the same checkpoint."""
    flags = [*data_flags(tmp_path / "data"), *MODES[mode], "--precision", "fp32"]
    flags += ["--dropout", "0", "--batch-size", "2"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    command = ["train", *SHAPE, *DENSE, *flags, "--parallel", way]
    _place, ranks = start_ranks([*command, "--run-dir", str(shared)], shared)
    assert_ranks_end(ranks)
    assert begin(tmp_path, "alone", flags).wait() == 0
    for name in ("loss", "source.base.eval_loss", figure, "learning_rate"):
        found, wanted = column(shared, name), column(alone, name)
        assert wanted and found == pytest.approx(wanted, rel=1e-4, abs=1e-6), name
