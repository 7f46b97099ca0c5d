"""One file outside the package adds optimizers, alone and beside Lumina's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.observe.report import write_report
from lumina.optim.declared import (
    OPTIMIZERS,
    Option,
    StateTensor,
    register_optimizer,
)
from lumina.optim.optimizer import Optimizer
from lumina.state.expert_surgery import add_expert, prune_expert
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import Trainer
from programs import tiny_plan
from tiny_runs import Runs
from training import (
    DENSE,
    Trainings,
    assert_same_run,
    checkpoints,
    column,
    events,
    reached,
    wait_until,
    words,
)

TOYS = str(Path(__file__).with_name("toy_optimizers.py"))
PLUGIN = ["--plugins", TOYS]
TRAINED = words(
    "--precision fp32 --steps 8 --save-every-n-batches 2 --eval-every-n-batches 4"
)
ALONE = words("--optimizer toy_momentum --optimizer-options momentum=0.8")
DIVIDED = words(
    "--ema-decay 0.9 "
    "--optimizer-groups *.feedforward.*=toy_momentum role:matrix=toy_rows "
    "--optimizer-options toy_momentum.learning_rate=0.02"
)
MODES = {"alone": ALONE, "divided": DIVIDED}


def flags_of(mode: str) -> list[str]:
    return [*DENSE, *TRAINED, *PLUGIN, *MODES[mode]]


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(trainings: Trainings, mode: str) -> Path:
    """The run that is never stopped."""
    return trainings.train(f"whole-{mode}", *flags_of(mode))


def test_killed_and_resumed_it_is_the_run_that_never_stopped(
    trainings: Trainings, whole: Path, mode: str
) -> None:
    """Every state too: the whole checkpoint is compared, tensor by tensor."""
    name, flags = f"killed-{mode}", [*flags_of(mode), "--auto-resume"]
    running = trainings.start(name, *flags, HOLD_AFTER="5")
    folder = trainings.folder / name
    assert wait_until(lambda: "step-00000004" in checkpoints(folder), running)
    assert wait_until(reached(folder, 5), running)
    running.kill()
    found = trainings.train(name, *flags)
    (resumed,) = events(found, "resumed")
    assert resumed["step"] == 4
    assert_same_run(found, whole)
    losses = column(found, "loss")
    assert losses[-1] < losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_train_what_one_rank_trains(
    trainings: Trainings, whole: Path, mode: str, parallel: str
) -> None:
    found = trainings.train_on_ranks(
        f"{parallel}-{mode}",
        *flags_of(mode),
        *words(f"--batch-size 2 --parallel {parallel}"),
    )
    for name in ("loss", "grad_norm", "eval_loss"):
        expected = pytest.approx(column(whole, name), rel=1e-5, abs=1e-5)
        assert column(found, name) == expected, name


@pytest.mark.covers("DOC-05: plug-in style")
def test_it_shows_in_the_plan_and_in_the_report(whole: Path, mode: str) -> None:
    plan = json.loads((whole / "plan.json").read_text())
    reasons, report = plan["reasons"], write_report(whole).read_text()
    if mode == "alone":
        assert plan["optimizer"] == "toy_momentum"
        assert "SGD with momentum, 4 bytes for each parameter" in reasons["optimizer"]
        assert plan["memory"]["optimizer"] == 4 * plan["parameters"]
        assert plan["optimizer_options"]["toy_momentum"]["momentum"] == 0.8
        assert "momentum" in report
    else:
        assert "toy_momentum trains" in reasons["optimizer_groups"]
        assert "toy_rows trains" in reasons["optimizer_groups"]
        # AdamW keeps 8 bytes of what it trains, the others less.
        assert plan["memory"]["optimizer"] < 8 * plan["parameters"]
        assert "*.feedforward.*=toy_momentum" in report
    assert "toy_momentum" in report


@pytest.mark.parametrize("mode", ["divided"], indirect=True)
def test_each_tensor_has_the_states_of_its_optimizer(whole: Path) -> None:
    path = latest_good(whole)
    assert path is not None
    with open_checkpoint(path) as reader:
        held = {slot: set(reader.optimizer_names(slot)) for slot in reader.slots()}
        gate, query = (
            "backbone.blocks.0.feedforward.gate.weight",
            "backbone.blocks.0.attention.q.weight",
        )
        assert gate in held["velocity"] and query in held["scale"]
        assert not (held["velocity"] | held["scale"]) & held["exp_avg"]
        assert held["ema"] == held["velocity"] | held["scale"] | held["exp_avg"]
        assert reader.optimizer_tensor("scale", query).shape == (32,)
        assert reader.meta.extra["optimizers"] == {"toy_rows": {"steps": 8.0}}


@pytest.mark.parametrize(
    ("flags", "says", "hint"),
    [
        ("--optimizer toy_momentun", "toy_momentun", "did you mean 'toy_momentum'?"),
        (
            "--optimizer toy_momentum --optimizer-options momentun=0.5",
            "toy_momentum has no option 'momentun'",
            "did you mean 'momentum'?",
        ),
        (
            "--optimizer toy_momentum --optimizer-options momentum=1.0",
            "1.0 is out of range",
            "at least 0 and below 1",
        ),
        (
            "--optimizer toy_momentum --optimizer-options momentum=much",
            "not a value like the default, 0.9",
            "float",
        ),
        ("--optimizer-options beta1=0.5", "beta1 is an option of", "--beta1"),
        (
            "--optimizer-options toy_momentum.momentum=0.5",
            "'toy_momentum' is no optimizer of this run",
            "adamw",
        ),
        ("--optimizer toy_rows", "whose role is", "role:embedding=adamw"),
        ("--optimizer-groups *.conv.*=adam_atan2", "matches no", "role:matrix"),
        ("--optimizer-groups feedforward", "cannot be 'feedforward'", "OPTIMIZER"),
        (
            "--optimizer-groups *.attention.q.*=adam_atan2",
            "share one matrix in memory",
            "all of them or none",
        ),
        (
            "--optimizer toy_whole --parallel fsdp2 --nproc 2 --batch-size 1",
            "the optimizer toy_whole cannot be used with parallel fsdp2",
            "--parallel",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    trainings: Trainings,
    flags: str,
    says: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = trainings.command("refused", *DENSE, *PLUGIN, *words(flags), "--dry-run")
    assert main(command) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert says in told and hint in told


def test_a_place_that_fits_is_found_by_itself(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = words("--optimizer toy_whole --nproc 2 --batch-size 1 --dry-run")
    assert main(trainings.command("fits", *DENSE, *PLUGIN, *flags)) == 0
    assert "ddp" in capsys.readouterr().out


def test_a_run_keeps_its_optimizer_and_its_options(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.train(plugins=(TOYS,), optimizer="toy_momentum", steps=2)
    assert "SGD with momentum" in " ".join(run.printed.split())

    def refused(**leaves: Any) -> LuminaError:
        with pytest.raises(LuminaError) as caught:
            Trainer(Config(resume=str(run.folder), steps=4, **leaves)).train()
        assert caught.value.code == "E002"
        return caught.value

    other = refused(optimizer="adamw")
    assert "optimizer toy_momentum -> adamw" in other.message
    groups = refused(optimizer_groups=("*.feedforward.*=adamw",))
    assert "optimizer_groups" in groups.message
    declared = OPTIMIZERS["toy_momentum"]
    with monkeypatch.context() as patch:
        patch.delitem(OPTIMIZERS, "toy_momentum")
        unnamed = refused()
        assert "toy_momentum" in unnamed.message and TOYS in unnamed.hint
    # Its file has another default by now: the run goes on as it was begun.
    changed = {"momentum": Option(0.1), "learning_rate": Option(0.1)}
    entry = replace(declared, options=changed)
    monkeypatch.setitem(OPTIMIZERS, "toy_momentum", entry)
    Trainer(Config(resume=str(run.folder), steps=4)).train()
    plan = json.loads((run.folder / "plan.json").read_text())
    assert plan["optimizer_options"]["toy_momentum"]["momentum"] == 0.9


def tiny_state(**changes: Any) -> Any:
    load_plugins([TOYS])
    return assemble(tiny_plan(True, **changes))


GROUPS = ("role:expert=toy_rows",)
EXPERT = "backbone.blocks.1.feedforward.gate"


def test_experts_come_and_go_with_the_states_that_share_their_axis() -> None:
    program = tiny_state(optimizer_groups=GROUPS)
    for slot in program.optimizer.slots:
        for tensor in slot.state.values():
            tensor.uniform_()
    state = capture(program, Progress())
    scale = state.optimizer["scale"][EXPERT]
    assert scale.shape == state.tensors[EXPERT].shape[:2]
    grown = add_expert(state)
    assert torch.equal(grown.optimizer["scale"][EXPERT][: len(scale)], scale)
    assert len(grown.optimizer["scale"][EXPERT]) == len(scale) + 1
    pruned = prune_expert(grown, {})
    assert pruned.optimizer["scale"][EXPERT].shape == scale.shape
    moe = replace(program.plan.spec.moe, num_experts=len(scale) + 1)
    plan = program.plan.replace(spec=replace(program.plan.spec, moe=moe))
    again = capture(assemble(plan, StateSource(grown), meta=grown), Progress())
    for name, tensor in grown.optimizer["scale"].items():
        assert torch.equal(again.optimizer["scale"][name], tensor), name


def test_a_state_that_shares_no_axis_is_kept_whole() -> None:
    shared = StateTensor(shared=0)
    assert not shared.shares(0, 2)
    assert [StateTensor(shared=-1).shares(axis, 3) for axis in range(3)] == [
        True, True, False,
    ]  # fmt: skip
    assert all(StateTensor().shares(axis, 2) for axis in range(2))


def test_a_state_that_was_not_declared_is_refused() -> None:
    @register_optimizer("toy_forgetful", words="a toy", states={"sum": StateTensor()})
    class Forgetful(Optimizer):
        pass

    with pytest.raises(LuminaError, match=r"keeps nothing for .* declares sum"):
        assemble(tiny_plan(optimizer="toy_forgetful"))


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("adamw", {}, "Lumina itself already has"),
        ("no name", {}, "cannot be called 'no name'"),
        ("toy_ema", {"states": {"ema": StateTensor()}}, "cannot be called 'ema'"),
    ],
)
def test_names_that_could_not_be_told_apart_are_refused(
    name: str, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(LuminaError, match=says) as caught:
        register_optimizer(name, words="a toy", **more)(Optimizer)
    assert caught.value.code == "E005"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)
