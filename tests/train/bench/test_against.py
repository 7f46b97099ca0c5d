"""Lumina beside another trainer: who is refused, and what a comparison gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import other_peers
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.plan.environment import probe
from lumina.plan.flops import flops_per_token
from lumina.plan.plan import Plan
from lumina.train.bench import peer as peers
from lumina.train.bench.against import Amounts, compare_one
from lumina.train.bench.lumina_side import make_reference
from lumina.train.bench.peer import PEERS, Peer, chosen_peer
from lumina.train.bench.rows import random_rows
from lumina.train.bench.serve import Server, contestant_of
from lumina.train.bench.work import Work, sharpness_of
from networks import tiny_spec

pytest.importorskip("transformers", reason="transformers is absent")

SMALL = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "64",
    "--num-layers", "2", "--num-heads", "2", "--num-kv-heads", "1",
    "--vocab-size", "320", "--seq-length", "32", "--batch-size", "2",
    "--global-batch-size", "4", "--precision", "fp32", "--device", "cpu",
]  # fmt: skip


def plan_of(**changes: Any) -> Plan:
    spec = tiny_spec(init_std=0.02)
    values: dict[str, Any] = {
        "micro_batch_size": 2,
        "grad_accum": 2,
        "global_batch_size": 4,
        "steps": 1000,
        "warmup_steps": 0,
        "lr_scheduler": "constant",
        "learning_rate": 3e-3,
        "weight_decay": 0.1,
        "flops_per_token": flops_per_token(spec),
    }
    return Plan(spec=spec, **(values | changes))


class InProcess:
    """A contestant without a process of its own, which would take seconds."""

    def __init__(self, folder: Path, name: str) -> None:
        work = Work.load(folder)
        self.server = Server(work, contestant_of(work, name))

    def ask(self, **command: Any) -> dict[str, Any]:
        return self.server.answer(command)

    def close(self) -> None:
        pass


def compared(folder: Path, name: str, plan: Plan, blocks: int = 2) -> dict[str, Any]:
    seeds = [random_rows(plan, 7 + n) for n in range(blocks)]
    work = Work(folder, plan, sharpness=sharpness_of(plan.spec))
    work.save(torch.stack(seeds))
    make_reference(work)
    return compare_one(
        work,
        chosen_peer(name)[0],
        name,
        probe("cpu"),
        Amounts(warm_up=1, blocks=blocks, steps=2),
        tell=lambda text: None,
        start=InProcess,
    )


def test_both_train_alike_from_the_same_weights_on_the_same_rows(
    tmp_path: Path,
) -> None:
    found = compared(tmp_path, "transformers", plan_of())
    assert found["same"]["tokens"] < 1e-5
    # Steps of one block: four turns of three untimed and two timed ones, half of each.
    assert len(found["lumina"]["losses"]) == len(found["other"]["losses"]) == 2 * 2 * 5
    # AdamW, clipping, decay, accumulation: one that differed would show here.
    assert found["losses_apart"] < 1e-4
    losses = found["other"]["losses"]
    assert losses[8] < losses[0] - 0.02  # the same rows again, eight steps later
    low, high = found["ratio"]["interval"]
    assert low < found["ratio"]["speed"] < high and len(found["ratio"]["blocks"]) == 2
    steps = found["other"]["step_seconds"]
    assert len(steps) == 2 * 2 * 2 and found["other"]["tokens_per_second"] > 0
    assert found["other"]["mfu"] > 0


def test_the_decay_of_the_weights_is_part_of_what_is_the_same(tmp_path: Path) -> None:
    """A peer whose optimizer has another number drifts away, and that is said."""
    from lumina.train.bench.peers import transformers as theirs

    kept = theirs.optimizer_for

    def faster(plan: Plan, model: torch.nn.Module) -> torch.optim.Optimizer:
        return kept(plan.replace(learning_rate=2 * plan.learning_rate), model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "optimizer_for", faster)
        found = compared(tmp_path, "transformers", plan_of())
    assert found["losses_apart"] > 1e-3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("positions", "tokens' losses differ by"),
        ("answers", "tokens' losses differ by"),
        ("gradient", "the norms of the first gradients are"),
        ("half_the_rows", "the first training loss of half_the_rows is"),
    ],
)
def test_a_peer_that_computes_something_else_is_refused(
    name: str, says: str, tmp_path: Path
) -> None:
    assert name in other_peers.CHANGES
    with pytest.raises(LuminaError) as caught:
        compared(tmp_path, name, plan_of())
    assert caught.value.code == "E307"
    assert says in caught.value.message and f"{name} " in caught.value.message


def test_a_lumina_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """The reference is the plain network: what is timed is held against it as well."""
    from lumina.model.objective.language_model import LanguageModelObjective

    plain = LanguageModelObjective.forward

    def less(self: Any, *arguments: Any) -> Any:
        found = plain(self, *arguments)
        found.loss_sum = found.loss_sum * 0.999
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModelObjective, "forward", less)
        with pytest.raises(LuminaError, match="first training loss of lumina"):
            compared(tmp_path, "transformers", plan_of())


def test_a_peer_that_is_not_installed_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Peer("absent", lambda *_: None, "no_such_module", "no-such-package")  # type: ignore[arg-type,return-value]
    monkeypatch.setitem(PEERS, "absent", absent)
    assert main(["bench", "train", *SMALL, "--against", "absent"]) == 2
    told = capsys.readouterr().err
    assert "E003" in told and "absent is not installed" in told
    assert "pip install no-such-package" in told


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nanochat"], "E002", "another function"),
        (["someone"], "E005", "liger, "),
        (["transformers+faster"], "E005", "+compile, +checkpointing"),
        (["transformers", "--optimizer", "lion"], "E002", "optimizer is set"),
        (["transformers", "--label-smoothing", "0.1"], "E002", "label_smoothing"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: list[str], code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", *SMALL, "--against", *words]) == 2
    told = capsys.readouterr().err
    assert code in told and says in told


def test_liger_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "installed", lambda name: True)
    peer, _ = chosen_peer("liger")
    with pytest.raises(LuminaError, match="runs on CUDA devices") as caught:
        peer.require(plan_of())
    assert caught.value.code == "E003"


@pytest.mark.thorough
def test_two_processes_take_turns_and_leave_their_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "train", *SMALL, "--against", "transformers", "--steps", "2"]
    assert main([*words, "--warm-up", "1", "--blocks", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "same losses" in printed and "95% interval" in printed
    found = json.loads(out.read_text())
    [one] = found["peers"]
    assert one["peer"] == "transformers" and one["version"]
    assert one["losses_apart"] < 1e-4 and found["seeds"] == [42, 43]


@pytest.mark.thorough
def test_a_refused_comparison_ends_with_its_code_and_times_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = Path(other_peers.__file__)
    words = ["bench", "train", *SMALL, "--plugins", str(plugin), "--steps", "2"]
    out = tmp_path / "out.json"
    assert main([*words, "--against", "positions", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "E307" in told and "their speeds are not compared" in told
    assert "block 1" not in told and not out.exists()
