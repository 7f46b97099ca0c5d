"""One optimizer step: any split is the same step, and a bad batch is no step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.batch import IGNORE
from lumina.train.step import SCALARS, train_step
from programs import conversations, stream_of, take_steps, tiny_plan


@pytest.fixture(scope="module")
def stream(tmp_path_factory, lumina_cache):
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def batches_of(stream, plan):
    return stream.step(stream.start, micro_batch_size=plan.micro_batch_size)


def gradients(program, batches):
    """The gradient of a step: the first moment after it, over (1 - beta1)."""
    metrics = train_step(program, batches, 0)
    share = 1 - program.plan.beta1
    return metrics, {
        s.name: s.state["exp_avg"] / share for s in program.optimizer.slots
    }


@pytest.mark.covers("TRN-19")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_any_split_gives_the_same_gradient(stream, moe, micro_batch_size):
    plan = tiny_plan(moe)
    whole = batches_of(stream, plan)
    wanted_metrics, wanted = gradients(assemble(plan), whole)
    plan = tiny_plan(moe, micro_batch_size=micro_batch_size)
    split = batches_of(stream, plan)
    # Answers differ in length, so the parts bear unequal shares of the loss.
    shares = [(b.labels != IGNORE).sum().item() for b in split.micro_batches]
    assert len(set(shares)) > 1 and sum(shares) == whole.loss_tokens
    metrics, found = gradients(assemble(plan), split)
    for name, gradient in wanted.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name
        )
    torch.testing.assert_close(metrics, wanted_metrics, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_mean_over_counted_tokens(stream):
    plan = tiny_plan(micro_batch_size=2)
    program = assemble(plan)
    batches = batches_of(stream, plan)
    with torch.no_grad():
        sums = [program.model(b)[0].loss_sum for b in batches.micro_batches]
    metrics = train_step(program, batches, 0)
    wanted = sum(sums) / batches.loss_tokens
    assert metrics[0].item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.covers("TRN-26")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_half_precision_trains_on_masters(stream, dtype, micro_batch_size):
    plan = tiny_plan(compute_dtype=dtype, micro_batch_size=micro_batch_size)
    program = assemble(plan)
    wanted, _ = take_steps(assemble(tiny_plan()), stream, 8)
    found, _ = take_steps(program, stream, 8)
    torch.testing.assert_close(found, wanted, rtol=5e-2, atol=2e-2)
    for slot in program.optimizer.slots:
        assert slot.master.dtype == torch.float32
        assert slot.parameter.dtype == program.compute_dtype
        assert torch.equal(slot.parameter, slot.master.to(program.compute_dtype))
        assert not torch.equal(slot.parameter.float(), slot.master)


class Poisoned(torch.nn.Module):
    """The model, its loss NaN."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        losses, aux = self.model(batch)
        return replace(losses, loss_sum=losses.loss_sum * float("nan")), aux


@pytest.mark.covers("TRN-25: NaN/Inf guard")
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_nan_batch_changes_no_weight(stream, moe, dtype):
    plan = tiny_plan(moe, compute_dtype=dtype, micro_batch_size=4, ema_decay=0.5)
    program = assemble(plan)
    _, progress = take_steps(program, stream, 2)
    before = capture(program, progress)
    model = program.model
    program.model = Poisoned(model)
    metrics = train_step(program, batches_of(stream, plan), progress.step)
    program.model = model
    assert metrics[SCALARS.index("skipped")] == 1
    after = capture(program, progress)
    for name, tensor in before.tensors.items():
        if not name.endswith((".load", ".selection_bias")):
            assert torch.equal(after.tensors[name], tensor), name
    assert set(before.optimizer) == {"exp_avg", "exp_avg_sq", "ema"}
    for kind in before.optimizer:
        for name, tensor in before.optimizer[kind].items():
            assert torch.equal(after.optimizer[kind][name], tensor), (kind, name)
    for counter in ("optimizer_steps", "average_updates"):
        assert after.extra[counter] == before.extra[counter], counter
    if dtype == "float16":
        halved = before.extra["loss_scale"]["value"] / 2
        assert after.extra["loss_scale"]["value"] == halved
    # The next step is an ordinary one.
    numbers, _ = take_steps(program, stream, 1, progress)
    assert torch.isfinite(numbers).all()


@pytest.mark.covers("TRN-10: exponential moving average of weights")
def test_the_average_takes_in_the_weights_that_the_step_made(stream):
    program = assemble(tiny_plan(warmup_steps=0, ema_decay=0.5))
    before = capture(program, Progress()).tensors
    take_steps(program, stream, 1)
    after = capture(program, Progress())
    assert after.extra["average_updates"] == 1
    for name, average in after.optimizer["ema"].items():
        # The decay of the first update is 1 / 10.
        wanted = 0.1 * before[name] + 0.9 * after.tensors[name]
        torch.testing.assert_close(average, wanted, msg=name)
        assert not torch.equal(before[name], after.tensors[name]), name


@pytest.mark.covers("TRN-31: deterministic seeds", "TRN-31: RNG state restore")
def test_dropout_is_a_function_of_seed_and_step(stream):
    spec = tiny_plan().spec
    spec = type(spec).from_dict(spec.to_dict() | {"dropout": 0.2})
    plan = tiny_plan(ema_decay=0.5).replace(spec=spec)
    wanted, _ = take_steps(assemble(plan), stream, 6)
    program = assemble(plan)
    first, progress = take_steps(program, stream, 3)
    state = capture(program, progress)
    torch.manual_seed(99)  # what somebody else draws does not matter
    program = assemble(plan, StateSource(state), meta=state)
    then, _ = take_steps(program, stream, 3, progress)
    assert torch.equal(torch.cat([first, then]), wanted)
    other, _ = take_steps(assemble(plan.replace(seed=6)), stream, 6)
    assert not torch.equal(other, wanted)


def first_loss(stream, step=0, rank=0):
    """The loss of the same rows and weights, under the masks of a step and a rank."""
    spec = tiny_plan().spec
    plan = tiny_plan().replace(spec=replace(spec, dropout=0.2))
    program = assemble(plan)
    program.mesh.tokens.rank = rank
    return train_step(program, batches_of(stream, plan), step)[0].item()


@pytest.mark.covers("TRN-31: deterministic seeds")
def test_dropout_differs_from_step_to_step(stream):
    losses = [first_loss(stream, step=step) for step in (0, 1, 2, 0)]
    assert losses[0] == losses[3] and len(set(losses)) == 3


@pytest.mark.covers("TRN-31: deterministic seeds")
def test_dropout_differs_from_rank_to_rank(stream):
    losses = [first_loss(stream, rank=rank) for rank in (0, 1, 2, 0)]
    assert losses[0] == losses[3] and len(set(losses)) == 3


def test_the_largest_seeds_work(stream):
    take_steps(assemble(tiny_plan(seed=2**63)), stream, 1)


@pytest.mark.covers("TRN-08: optimizer state only for parameters that train")
def test_the_optimizer_has_no_state_of_frozen_parameters(stream):
    plan = tiny_plan(freeze=("backbone.embedding.*", "blocks.0.*"))
    program = assemble(plan)
    before = capture(program, Progress())
    _, progress = take_steps(program, stream, 3)
    after = capture(program, progress)
    frozen = {
        name
        for name in before.tensors
        if name.startswith(("backbone.embedding.", "backbone.blocks.0."))
    }
    assert frozen and frozen.isdisjoint(after.optimizer["exp_avg"])
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name], tensor) == (name in frozen), name


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
def test_matrices_decay_and_norms_do_not(stream, moe):
    def after_two_steps(**changes):
        program = assemble(tiny_plan(moe, warmup_steps=0, **changes))
        _, progress = take_steps(program, stream, 2)
        return capture(program, progress).tensors

    plain = after_two_steps(weight_decay=0.0)
    decayed = after_two_steps(weight_decay=100.0)
    for name, tensor in plain.items():
        if name.endswith("norm.weight"):
            # Only through the other weights' gradients: by no more than two updates.
            assert (decayed[name] - tensor).abs().max() < 4 * 3e-3, name
        elif tensor.ndim >= 2:
            assert decayed[name].norm() < 0.75 * tensor.norm(), name
