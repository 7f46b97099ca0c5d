"""Numbers that do harm: in the weights of a checkpoint, and in the gradients."""

from __future__ import annotations

from functools import partial

import pytest

from fault_runs import assert_sound, at_step
from lumina.state.checkpoint import CheckpointStore
from lumina.state.reader import open_checkpoint
from mechanisms import mechanism
from training import column


def with_nan(run):
    """Save the newest checkpoint again, whole, with a weight that is no number."""
    newest = run / "checkpoints" / "step-00000006"
    with open_checkpoint(newest) as reader:
        state = reader.state()
    name = next(n for n in state.tensors if n.endswith("norm.weight"))
    state.tensors[name][0] = float("nan")
    store = CheckpointStore(run, keep=9)
    store.save(state, background=False)
    store.close()


@pytest.mark.faults
@mechanism(
    "weights that are no numbers",
    component="checkpoint",
    failure="a whole checkpoint, its digests right, holds a weight that is NaN",
    recovery="older checkpoint",
    expected="told by an event; goes on from the one before it, as undisturbed",
)
def test_a_checkpoint_of_weights_that_are_no_numbers(faulty):
    with_nan(faulty.copy())
    faulty.assert_recovered()


def thousandfold_once() -> None:
    """Let the loss of one step count a thousand times."""
    import lumina.train.loop as loop

    step = loop.train_step

    def harmed(program, *arguments, **options):
        loop.train_step = step
        inner = program.model

        def model(batch):
            losses, aux = inner(batch)
            losses.loss_sum = losses.loss_sum * 1000
            return losses, aux

        program.model = model
        try:
            return step(program, *arguments, **options)
        finally:
            program.model = inner

    loop.train_step = harmed


@pytest.mark.faults
@mechanism(
    "gradients a thousand times too large",
    component="step",
    failure="the gradients of one step are multiplied by 1000",
    recovery="go on",
    expected="they are clipped; later losses are near the undisturbed ones",
    real=False,
)
def test_gradients_that_are_too_large_once(faulty):
    code, said = faulty.ended(before=partial(at_step, 5, thousandfold_once))
    assert code == 0, said
    run = faulty.folder / "run"
    assert_sound(run)
    losses, wanted = column(run, "loss"), column(faulty.undisturbed, "loss")
    assert losses[:5] == wanted[:5]
    norms = column(run, "grad_norm")
    assert norms[5] > 100 * norms[4]
    assert all(abs(a - b) < 0.2 for a, b in zip(losses[6:], wanted[6:], strict=True))
