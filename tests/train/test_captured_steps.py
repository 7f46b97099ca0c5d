"""Steps as recordings: bit for bit those without, over changes, skips and resumes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import capture
from lumina.assemble.program import Program
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.graphs.captured import CapturedStep
from lumina.train.step import train_step
from machines import gpu, plan_for
from programs import conversations, reassembled, stream_of, take_steps, tiny_plan
from recorded_steps import (
    WARM,
    Change,
    Tape,
    TapeRecorder,
    assembled,
    on_the_cpu,
    same,
    trained,
)
from tiny_runs import Runs


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stream_of(conversations(tmp_path_factory.mktemp("data")))


def plan_of(**changes: Any) -> Plan:
    start = {"ema_decay": 0.9, "max_grad_norm": 0.5, "cuda_graphs_warmup": WARM}
    return tiny_plan(**(start | changes))


KINDS = {
    "accumulated": {"micro_batch_size": 4},
    "bfloat16": {"compute_dtype": "bfloat16", "micro_batch_size": 4},
    "lookahead": {"ema_decay": 0.0, "lookahead_steps": 3},
    "lion": {"optimizer": "lion"},
    "noise": {"gradient_steps": ("agc", "zclip")},
}


THOROUGH = [pytest.param(name, marks=pytest.mark.thorough) for name in list(KINDS)[1:]]


@pytest.mark.parametrize("kind", ["accumulated", *THOROUGH])
def test_a_recorded_step_is_the_step_to_the_bit(kind: str, stream: Any) -> None:
    """The rate, the labels and the tokens differ in every step."""
    same(plan_of(**KINDS[kind]), stream, recordings=1)


def test_dropout_draws_what_it_would_draw(stream: Any) -> None:
    plan = plan_of()
    plan = plan.replace(spec=dataclasses.replace(plan.spec, dropout=0.2))
    same(plan, stream, recordings=1)


@pytest.mark.covers("KRN-11: CUDA graphs together with static routing")
def test_experts_with_places_and_depths_with_shares_are_recorded(stream: Any) -> None:
    plan = plan_of(moe=True)
    moe = dataclasses.replace(
        plan.spec.moe, dispatch="capacity", jitter=0.1, bias_update_rate=0.01
    )
    same(plan.replace(spec=dataclasses.replace(plan.spec, moe=moe)), stream,
         recordings=1)  # fmt: skip


def rate_and_clip(program: Program, step: int) -> None:
    """As the controls do it while a run trains."""
    if step == 4:
        program.live.learning_rate_scale = 0.3
        program.live.max_grad_norm.fill_(0.01)


def test_a_new_rate_and_clip_need_no_new_recording(stream: Any) -> None:
    same(plan_of(), stream, recordings=1, change=rate_and_clip)


def decay(program: Program, step: int) -> None:
    if step == 4:
        program.live.weight_decay = 0.7


def moments(program: Program, step: int) -> None:
    if step == 4:
        program.optimizer.begin_anew()


@pytest.mark.parametrize("change", [decay, moments])
def test_what_a_recording_holds_fixed_is_recorded_anew(
    change: Change, stream: Any
) -> None:
    same(plan_of(), stream, recordings=2, change=change, steps=9)


def overflowing(program: Program, step: int) -> None:
    """One step whose gradients are not finite."""
    scale = program.loss_scale.value
    scale.fill_(torch.inf if step == 4 else 1.0)


def test_a_skipped_step_changes_nothing(stream: Any) -> None:
    same(plan_of(), stream, recordings=1, change=overflowing)
    plan = plan_of()
    numbers, _, _ = trained(plan, stream, captured=True, change=overflowing)
    assert not torch.isfinite(numbers[4, 1]) and torch.isfinite(numbers[5]).all()


def test_a_resumed_run_goes_on_to_the_bit(stream: Any) -> None:
    """A capture reads what launches wrote, and recordings begin anew."""
    usual, learned, _ = trained(plan_of(), stream, captured=False, steps=8)
    program = assembled(plan_of(), captured=True)
    first, progress = take_steps(program, stream, 4)
    assert program.captured.recordings == 1
    program = reassembled(program, progress, plan_of(cuda_graphs=True))
    program.captured = CapturedStep(program, WARM, TapeRecorder())
    then, progress = take_steps(program, stream, 4, progress)
    assert program.captured.recordings == 1
    state = capture(program, progress, everything=True)
    assert torch.equal(torch.cat([first, then]), usual)
    assert all(torch.equal(state.tensors[n], learned[n]) for n in state.tensors)


@pytest.mark.covers("KRN-10: shape change (recapture)")
def test_other_shapes_are_recorded_beside(stream: Any) -> None:
    """As do flags of the batch that choose a kernel; both recordings are kept."""
    taken = []
    for captured in (False, True):
        program = assembled(plan_of(), captured)
        numbers, cursor = [], stream.start
        for step in range(8):
            batches = stream.step(cursor, micro_batch_size=8)
            cursor = batches.cursor
            if step % 2:
                (whole,) = batches.micro_batches
                batches.micro_batches[:] = [dataclasses.replace(whole, max_seqlen=64)]
            numbers.append(train_step(program, batches, step)[:2].clone())
        taken.append(torch.stack(numbers))
        if captured:
            assert program.captured.recordings == 2
        program.close()
    assert torch.equal(*taken)


def test_steps_that_are_looked_at_are_taken_as_they_are(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run with evaluations, checkpoints, looks and a resume on the way."""
    runs = Runs(tmp_path, monkeypatch)
    options: dict[str, Any] = {
        "steps": 9, "eval_every_n_batches": 4, "save_every_n_batches": 5,
        "step_times_every": 6, "lr_scheduler": "cosine", "eval_fraction": 0.1,
    }  # fmt: skip
    usual = runs.train(**options)
    launched = []
    with on_the_cpu(monkeypatch):
        launch = Tape.launch
        monkeypatch.setattr(
            Tape, "launch", lambda tape: (launched.append(1), launch(tape))[1]
        )
        graphs = {"experimental_cuda_graphs": True, "cuda_graphs_warmup": 2}
        run = runs.train(**options, **graphs)
    assert run.column("loss") == usual.column("loss")
    assert run.column("eval_loss") == usual.column("eval_loss")
    groups = [key for key in usual.rows[0] if key.startswith("group.")]
    assert groups and all(run.column(key) == usual.column(key) for key in groups)
    assert len(launched) == 6  # not the warm-up, and not the step of the look
    for name, value in usual.tensors.items():
        assert torch.equal(run.tensors[name], value)


@pytest.mark.covers("KRN-10: dynamic control flow")
def test_what_waits_for_the_device_is_refused_and_changes_nothing(stream: Any) -> None:
    program = assembled(plan_of(), captured=True)
    _, progress = take_steps(program, stream, WARM)
    program.loss_scale.update = lambda skip: skip.item()  # type: ignore[method-assign]
    before = capture(program, progress, everything=True)
    held = {name: value.clone() for name, value in before.tensors.items()}
    with pytest.raises(LuminaError) as caught:
        take_steps(program, stream, 1, progress)
    assert caught.value.code == "E309"
    assert "not permitted when stream is capturing" in caught.value.message
    assert "--no-experimental-cuda-graphs" in caught.value.hint
    after = capture(program, progress, everything=True)
    assert all(torch.equal(after.tensors[name], held[name]) for name in held)
    assert all(p.grad is None for p in program.network.parameters())


def test_experts_whose_sizes_the_host_reads_are_refused_before_the_run() -> None:
    """bfloat16 has a product that reads them on the device."""
    options: dict[str, Any] = {
        "use_moe": True, "experimental_cuda_graphs": True, "vocab_size": 64,
        "steps": 10, "global_batch_size": 8,
    }  # fmt: skip
    assert plan_for(Config(**options), gpu()).cuda_graphs
    with pytest.raises(LuminaError) as caught:
        plan_for(Config(**options, precision="fp32"), gpu())
    assert caught.value.code == "E002" and "sizes that vary" in caught.value.message
    places = Config(**options, precision="fp32", moe_dispatch="capacity")
    assert plan_for(places, gpu()).cuda_graphs
