"""Registered parts through the whole training: killed, shared out, recomputed."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import torch

import lumina
from lumina import Config, Trainer
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.model.layers import FeedForward
from tiny_runs import Runs
from training import (
    Trainings,
    assert_same_run,
    column,
    reached,
    rows,
    wait_until,
    words,
)

OWN = str(Path(__file__).parents[1] / "own_parts.py")
LINEAR = str(Path(__file__).parents[2] / "examples" / "gated_linear_attention.py")
MODELS = {
    "parts": [
        "--plugins", LINEAR, OWN, *words(
            "--attention-type gated_linear standard --feedforward-type relu_squared "
            "--objective z_loss --no-use-moe --precision fp32"
        ),
    ],
    "backbone": [
        "--plugins", OWN,
        *words("--backbone running_mean --no-use-moe --precision fp32"),
    ],
    "block": [
        "--plugins", OWN, *words(
            "--block-type parallel standard --objective focal --no-use-moe "
            "--precision bf16"
        ),
    ],
}  # fmt: skip
OWN_BLOCK = pytest.mark.covers("MOD-35: trainer", "MOD-35: metrics")
ALWAYS = words("--steps 9 --save-every-n-batches 2 --ema-decay 0.9")


@pytest.mark.parametrize(
    "model",
    ["parts", "backbone", pytest.param("block", marks=[pytest.mark.slow, OWN_BLOCK])],
)
def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, model: str
) -> None:
    flags = [*ALWAYS, *MODELS[model]]
    whole = trainings.train(f"whole-{model}", *flags)
    begin = [f"killed-{model}", *flags, "--auto-resume"]
    running = trainings.start(*begin, HOLD_AFTER="5")
    folder = trainings.folder / f"killed-{model}"
    assert wait_until(reached(folder, 5), running)
    running.kill()
    found = trainings.train(f"killed-{model}", *flags, "--auto-resume")
    assert_same_run(found, whole)
    assert column(found, "loss")[-1] < column(found, "loss")[0]
    for name in ("gated_linear.decay", "relu_squared.active", "z_loss.z"):
        told = column(found, name)
        assert len(told) == (9 if model == "parts" else 0)
        assert told == column(whole, name)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "parallel"),
    [
        ("parts", "fsdp2"),
        ("backbone", "ddp"),
        pytest.param("block", "fsdp2", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_learn_what_one_does(
    trainings: Trainings, model: str, parallel: str
) -> None:
    flags = [*words("--steps 5"), *MODELS[model], "--precision", "fp32"]
    alone = trainings.train(f"alone-{model}", *flags)
    several = trainings.train_on_ranks(
        f"ranks-{model}", *flags, "--batch-size", "2", "--parallel", parallel
    )
    for name in ("loss", "grad_norm", "gated_linear.decay", "z_loss.z", "eval_loss"):
        one, two = (torch.tensor(column(run, name)) for run in (alone, several))
        torch.testing.assert_close(one, two, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_recomputed_blocks_report_once_and_learn_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    parts = {
        "plugins": (LINEAR, OWN),
        "attention_type": ("gated_linear", "standard"),
        "feedforward_type": ("standard", "relu_squared"),
    }
    kept, again = runs.both("gradient_checkpointing", "none", mode, **parts)
    for name in ("loss", "grad_norm", "gated_linear.decay", "relu_squared.active"):
        assert kept.column(name) == pytest.approx(again.column(name), rel=1e-5), name


def test_experts_beside_a_registered_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    run = runs.train(
        plugins=(LINEAR,), attention_type=("gated_linear",), use_moe=True,
        num_experts=4, moe_intermediate_size=32, moe_pattern="interleaved",
    )  # fmt: skip
    assert run.tensor("blocks.1.feedforward.router.weight").shape == (4, 32)
    assert 0 < run.rows[-1]["gated_linear.decay"] < 1
    assert len(run.rows[-1]["moe.load"]) == 1
    assert f"gated_linear.decay {run.rows[-1]['gated_linear.decay']:.3f}" in run.printed
    assert "gated_linear.decay" in (run.folder / "report.html").read_text()
    message = runs.refused(
        "E002", plugins=(OWN,), feedforward_type=("relu_squared",), use_moe=True
    )
    assert "experts" in message


def test_logits_of_attention_that_is_registered_cannot_be_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Runs(tmp_path, monkeypatch).refused(
        "E002", plugins=(LINEAR,), attention_type=("gated_linear",), qk_clip=1.0
    )
    assert text.startswith("qk_clip reads the logits of Lumina's attention")


def test_plug_ins_are_code_that_is_named_each_time(
    trainings: Trainings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Resuming, generating and exporting: what is missing, and what to add."""
    flags = [*words("--steps 3"), *MODELS["parts"]]
    run = trainings.train("named", *flags)
    state = json.loads(next(run.glob("checkpoints/*/state.json")).read_text())
    assert LINEAR in json.dumps(state)
    for words_ in (
        ["generate", str(run), "--prompt", "The"],
        ["train", "--resume", str(run), "--steps", "5"],
    ):
        name = f"unnamed-{words_[0]}"
        running = start(trainings, words_, name)
        assert running.wait() == 2, running.output
        assert "E002" in running.output
        assert f"--plugins {LINEAR} {OWN}" in running.output.replace("\n", " ")
    # The next step's own advice names them.
    assert f"--plugins {LINEAR} {OWN}" in " ".join(trainings.output("named").split())
    done = start(
        trainings,
        ["generate", str(run), "--plugins", LINEAR, OWN, "--prompt", "The", "On a day",
         "--max-new-tokens", "6", "--json", "--temperature", "0", "--device", "cpu"],
        "generated",
    )  # fmt: skip
    assert done.wait() == 0, done.output
    answers = [json.loads(x) for x in done.output.splitlines() if x.startswith("{")]
    assert [len(answer["tokens"]) for answer in answers] == [6, 6]
    more = trainings.start("named", *MODELS["parts"], "--resume", str(run),
                           "--steps", "5")  # fmt: skip
    assert more.wait() == 0, more.output
    assert rows(run)[-1]["step"] == 5
    capsys.readouterr()
    assert main(["export", str(run), str(tmp_path / "folder")]) == 2
    told = capsys.readouterr().err
    assert "E002" in told and "attention 'gated_linear'" in told
    assert not (tmp_path / "folder").exists()


def start(trainings: Trainings, command: list[str], name: str):
    """Any command in a process of its own, which has loaded no plug-in."""
    from training import start as begin

    return begin(command, trainings.folder / f"{name}.log")


def test_weights_with_parts_start_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts come with the weights; only the objective and options may change."""
    runs = Runs(tmp_path, monkeypatch)
    parts = {"plugins": (LINEAR, OWN), "attention_type": ("gated_linear", "standard")}
    first = runs.train(**parts)
    then = runs.train(
        init_from=str(first.folder), plugins=(LINEAR, OWN), objective="focal"
    )
    assert then.first_loss == pytest.approx(first.rows[-1]["eval_loss"], rel=0.2)
    assert then.tensor("blocks.0.attention.decay_down.weight").shape == (16, 32)
    with pytest.raises(LuminaError, match="another shape"):
        runs.train(
            init_from=str(first.folder), **(parts | {"attention_type": ("standard",)})
        )


def test_a_default_changed_since_does_not_change_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"part_{uuid.uuid4().hex}"

    def register(power: float) -> None:
        @lumina.register_feedforward(name, options={"power": power})
        class Power(FeedForward):
            def __init__(self, spec, layer_index):
                super().__init__(spec)
                self.power = spec.options_of(name)["power"]

            def forward(self, x, context):
                return super().forward(x) * self.power

    register(1.0)
    runs = Runs(tmp_path, monkeypatch)
    whole = runs.train(feedforward_type=(name,), steps=4)
    part = runs.train(feedforward_type=(name,), steps=2)
    register(3.0)
    Trainer(Config(resume=str(part.folder), steps=4)).train()
    assert part.column("loss") == whole.column("loss")


@pytest.mark.slow
def test_a_named_expert_in_a_model_with_parts(trainings: Trainings) -> None:
    """Trained alone on a frozen base, attached to it, and generated with."""
    own, registry = ["--plugins", LINEAR], trainings.folder / "registry"
    where = ["--expert-registry", str(registry)]
    base = trainings.train(
        "routed", *words("--steps 3 --num-experts 4 --attention-type gated_linear"),
        *own,
    )  # fmt: skip
    data = ["--train-data", str(trainings.data), "--device", "cpu"]
    trained = ["train", *data, *own, *where, "--init-from", str(base), "--expert-id",
               "farm", "--steps", "2", "--run-dir", str(trainings.folder / "farm"),
               "--global-batch-size", "4", "--eval-batches", "1"]  # fmt: skip
    together = str(trainings.folder / "together")
    attach = ["experts", "attach", "farm", str(base), together, *where]
    for name, command, code in (
        ("trained", trained, 0),
        ("unattached", attach, 2),
        ("attached", [*attach, *own], 0),
        ("told", ["generate", together, *own, "--prompt", "The", "--max-new-tokens",
                  "3", "--device", "cpu"], 0),
    ):  # fmt: skip
        running = start(trainings, command, name)
        assert running.wait() == code, running.output
    assert f"--plugins {LINEAR}" in trainings.output("unattached")
