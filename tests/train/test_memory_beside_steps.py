"""Evaluations, samples and checkpoints without memory. The failures are injected."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.errors import LuminaError
from lumina.measure.held_out import held_out_loss
from lumina.train import loop, samples
from mechanisms import mechanism
from programs import conversations, stream_of, tiny_plan
from short_of_memory import ERROR
from tiny_runs import Run, Runs

JUDGED = {"eval_every_n_batches": 2, "steps": 4, "eval_fraction": 0.2}


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    return Runs(tmp_path, monkeypatch)


@contextlib.contextmanager
def evaluating(most: int) -> Iterator[None]:
    """Evaluations have room for so many rows of a forward."""
    from lumina.model.network import Network

    def fail(network: Any, arguments: Any) -> None:
        judges = isinstance(network, Network) and not network.training
        if judges and len(arguments[0].input_ids) > most:
            raise torch.OutOfMemoryError(ERROR)

    held = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    try:
        yield
    finally:
        held.remove()


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == kind]


@mechanism(
    "out of device memory in an evaluation",
    component="memory",
    failure="the allocator refuses a forward of held-out rows",
    recovery="smaller pieces",
    expected="evaluated in smaller parts; losses as before",
    real=False,
)
def test_an_evaluation_is_done_again_in_smaller_forwards(runs: Runs) -> None:
    whole = runs.train(**JUDGED)
    with evaluating(most=1):
        run = runs.train(**JUDGED)
    assert run.column("loss") == whole.column("loss")
    assert run.column("eval_loss") == pytest.approx(whole.column("eval_loss"), rel=1e-5)
    found = told(run, "evaluation_in_parts")
    assert [e["data"]["rows"] for e in found] == [2, 1]  # and so it stays
    with evaluating(most=0), pytest.raises(LuminaError, match="evaluate one row"):
        runs.train(**JUDGED)


def test_parts_of_a_batch_have_its_losses(tmp_path: Path) -> None:
    """Packed documents and padding, in parts of any size."""
    stream = stream_of(conversations(tmp_path), global_batch_size=7)
    (batch,) = stream.step(stream.start, micro_batch_size=7).micro_batches
    program = assemble(tiny_plan())
    found = [
        held_out_loss(program.model, [batch], device=program.device, parts=parts)
        for parts in (1, 2, 3, 7, 50)
    ]
    assert {one.tokens for one in found} == {found[0].tokens}
    for one in found:
        assert one.loss == pytest.approx(found[0].loss, rel=1e-6)
    assert [len(part.input_ids) for part in batch.parts(3)] == [3, 3, 1]
    for part in batch.parts(3):
        assert part.cu_seqlens.shape == batch.cu_seqlens.shape
        assert part.cu_seqlens[-1] == part.input_ids.numel()
        assert (part.cu_seqlens[:2] == torch.tensor([0, 0])).sum() == 1


@mechanism(
    "out of device memory in a save",
    component="memory",
    failure="the allocator refuses the copies of a checkpoint, and samples of text",
    recovery="leave out",
    expected="samples are left out with an event; the checkpoint is made at a second "
    "try",
    real=False,
)
@pytest.mark.thorough
def test_samples_are_left_out_and_a_save_is_repeated(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError(ERROR)

    monkeypatch.setattr(samples, "sample_texts", full)
    kept, calls = loop.capture, [0]

    def once(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        return full() if calls[0] == 1 else kept(*arguments, **options)

    monkeypatch.setattr(loop, "capture", once)
    run = runs.train(steps=2, report_samples=2, sample_every_n_batches=1)
    assert len(told(run, "left_out_for_memory")) == 3
    assert run.checkpoints == ["step-00000002"] and calls[0] == 2
