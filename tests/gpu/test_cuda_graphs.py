"""Captured steps on CUDA against the same steps launched one by one. Needs a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import capture
from lumina.errors import LuminaError
from lumina.train.graphs.captured import CapturedStep
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan
from recorded_steps import WARM, Change, assembled, same, trained

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stream_of(conversations(tmp_path_factory.mktemp("data")))


def plan_of(**changes: Any) -> Any:
    start = {
        "device": "cuda", "compute_dtype": "bfloat16", "attention": "flash2",
        "ema_decay": 0.9, "max_grad_norm": 0.5, "cuda_graphs_warmup": WARM,
    }  # fmt: skip
    return tiny_plan(**(start | changes))


PLANS: dict[str, dict[str, Any]] = {
    "float32": {"compute_dtype": "float32", "attention": "sdpa"},
    "bfloat16": {},
    "float16": {"compute_dtype": "float16"},
    "accumulated": {"micro_batch_size": 4},
    "compiled": {"compile": True},
    "compiled and accumulated": {"compile": True, "micro_batch_size": 4},
    "checkpointed": {"gradient_checkpointing": "full"},
    "lion": {"optimizer": "lion"},
    "adamw_8bit": {"optimizer": "adamw_8bit"},
    "muon": {"optimizer": "muon"},
    "bfloat16 weights": {"weights_dtype": "bfloat16", "ema_decay": 0.0},
}


@pytest.mark.covers("KRN-11: training", "KRN-11: --compile")
@pytest.mark.parametrize("name", PLANS)
def test_captured_steps_are_the_others_to_the_bit(name: str, stream: Any) -> None:
    """Rates, labels and tokens differ in every step; so do the kinds of rows."""
    same(plan_of(**PLANS[name]), stream, recordings=1, steps=8)


@pytest.mark.parametrize("compiled", [False, True])
def test_dropout_is_drawn_from_the_seed_of_the_step(
    compiled: bool, stream: Any
) -> None:
    plan = plan_of(compile=compiled)
    plan = plan.replace(spec=dataclasses.replace(plan.spec, dropout=0.2))
    same(plan, stream, recordings=1, steps=8)


@pytest.mark.parametrize("dispatch", ["dropless", "capacity"])
@pytest.mark.parametrize("compiled", [False, True])
def test_experts_are_captured(dispatch: str, compiled: bool, stream: Any) -> None:
    """Dropless ones too: bfloat16 has a product that reads sizes on the device."""
    plan = plan_of(moe=True, compile=compiled)
    moe = dataclasses.replace(plan.spec.moe, dispatch=dispatch, bias_update_rate=0.01)
    plan = plan.replace(spec=dataclasses.replace(plan.spec, moe=moe))
    same(plan, stream, recordings=1, steps=8)


def test_sizes_that_the_host_reads_are_refused(stream: Any) -> None:
    plan = plan_of(moe=True, compute_dtype="float32", attention="sdpa")
    with pytest.raises(LuminaError) as caught:
        trained(plan, stream, captured=True)
    assert caught.value.code == "E309"


def rate_and_clip(program: Any, step: int) -> None:
    if step == 5:
        program.live.learning_rate_scale = 0.3
        program.live.max_grad_norm.fill_(0.01)


def decay(program: Any, step: int) -> None:
    if step == 5:
        program.live.weight_decay = 0.7


def moments(program: Any, step: int) -> None:
    if step == 5:
        program.optimizer.begin_anew()


def overflowing(program: Any, step: int) -> None:
    program.loss_scale.value.fill_(torch.inf if step == 5 else 1.0)


@pytest.mark.parametrize(
    ("change", "recordings"),
    [(rate_and_clip, 1), (decay, 2), (moments, 2), (overflowing, 1)],
)
def test_changes_while_it_trains(change: Change, recordings: int, stream: Any) -> None:
    same(plan_of(), stream, recordings=recordings, change=change, steps=10)


@pytest.mark.covers("KRN-10: allocation during capture")
def test_a_resumed_run_goes_on_to_the_bit(stream: Any) -> None:
    """Memory of the first program goes back, though its graphs had a pool of it."""
    plan = plan_of()
    usual, learned, _ = trained(plan, stream, captured=False, steps=10)
    program = assembled(plan, captured=True)
    first, progress = take_steps(program, stream, 5)
    assert program.captured.recordings == 1
    program = reassembled(program, progress, plan.replace(cuda_graphs=True))
    program.captured = CapturedStep(program, WARM)
    then, progress = take_steps(program, stream, 5, progress)
    assert program.captured.recordings == 1
    assert torch.equal(torch.cat([first, then]), usual)
    state = capture(program, progress, everything=True)
    assert all(torch.equal(state.tensors[n], learned[n]) for n in state.tensors)
    program.close()


def test_memory_goes_back_when_a_program_is_closed(stream: Any) -> None:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    for _ in range(2):
        program = assembled(plan_of(), captured=True)
        take_steps(program, stream, 6)
        program.close()
        del program
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
    program = assembled(plan_of(), captured=True)
    take_steps(program, stream, 6)
    program.close()
    del program
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held


@pytest.mark.covers("KRN-10: shape change (recapture)")
def test_a_whole_run_with_evaluations_checkpoints_and_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between launches the allocator works as ever."""
    from tiny_runs import Runs

    runs = Runs(tmp_path, monkeypatch)
    options: dict[str, Any] = {
        "device": "cuda", "precision": "bf16", "compile": False, "steps": 24,
        "eval_every_n_batches": 5, "save_every_n_batches": 7, "step_times_every": 6,
        "lr_scheduler": "cosine", "eval_fraction": 0.1, "ema_decay": 0.9,
    }  # fmt: skip
    usual = runs.train(**options)
    run = runs.train(experimental_cuda_graphs=True, cuda_graphs_warmup=3, **options)
    assert run.column("loss") == usual.column("loss")
    assert run.column("eval_loss") == usual.column("eval_loss")
    for name, value in usual.tensors.items():
        assert torch.equal(run.tensors[name], value)


def test_a_machine_with_cuda_lists_graphs_as_automatic_and_off() -> None:
    from lumina.config import Config
    from lumina.plan.environment import probe
    from machines import plan_for

    config = Config(vocab_size=64, steps=10, global_batch_size=8)
    plan = plan_for(config, probe("cuda"))
    assert not plan.cuda_graphs
    assert "--experimental-cuda-graphs" in plan.reasons["cuda_graphs"]
