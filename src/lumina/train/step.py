"""One optimizer step: the function to read if you read only one.

No value is read back to the host here. Metrics leave as one small device tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.model.by_source import SOURCES, source_sums
from lumina.model.interface import LossSums
from lumina.model.token_count import token_sums
from lumina.ops.seeding import seed_generators
from lumina.optim.early import Early
from lumina.optim.gate import Verdict, judge
from lumina.plan.schedule import learning_rate_at
from lumina.train.chunks import Pass, passes
from lumina.train.counts import divide_counts, flatten_counts
from lumina.train.graphs.captured import CapturedStep, write_figures
from lumina.train.graphs.numbers import Numbers
from lumina.train.memory_ladder.guard import UNGUARDED, StepGuard
from lumina.train.watch import NOTHING, Watch

SCALARS = (
    "loss",
    "grad_norm",
    "skipped",
    "stop",
    "request",
    "save",
    "memory_share",
    "seconds",
    "compiled_graphs",
    "clip",
)
"""The first entries of the vector that `train_step` returns.

`clip` is what gradients were multiplied by: 1 where they were not clipped, 0 where they
were not finite. `memory_share`, `seconds` and
`compiled_graphs` are means over all processes.
"""


class Measured(NamedTuple):
    """What a process has measured of its last step; all processes learn the means.

    Attributes:
        memory_share: of its device's memory in use; 0 where it is not known.
        seconds: that the step took; 0 before the first step.
        compiled_graphs: that torch.compile made in it.
    """

    memory_share: float = 0.0
    seconds: float = 0.0
    compiled_graphs: float = 0.0


UNKNOWN = Measured()
"""Before the first step."""


def train_step(
    program: Program,
    batches: StepBatches,
    step: int,
    stop: bool = False,
    request: bool = False,
    save: bool = False,
    measured: Measured = UNKNOWN,
    watch: Watch = NOTHING,
    guard: StepGuard = UNGUARDED,
) -> Tensor:
    """Forward and backward over the micro-batches, then one update.

    The loss is the sum over all ranks' and micro-batches' counted tokens, divided by
    their number (of weighted ones, by their weight), which the host knows beforehand;
    so any split gives the same gradient.
    A step without a single label, on any rank, changes nothing that was learned.

    Args:
        program: what to train.
        batches: this rank's micro-batches and the global token counts.
        step: completed optimizer steps.
        stop: whether this rank was asked to stop; ranks learn of it with the metrics.
        request: whether this rank holds a requested change, likewise.
        save: whether this rank was asked for a checkpoint, likewise.
        measured: this rank's figures of an earlier step, likewise.
        watch: what looks at the step; it changes nothing.
        guard: follows the step, so that it can be taken again when memory runs out.

    Returns:
        float32 on the device: `SCALARS`, the further losses (`Program.terms`), then
        what the model counted (`Program.counts`), summed over ranks.
    """
    plan, live, mesh = program.plan, program.live, program.mesh
    live.learning_rate.fill_(learning_rate_at(plan, step) * live.rate_scale(step))
    seed_generators(dropout_seed(plan.seed, step, mesh.tokens.rank))
    for kind in program.kinds:
        kind.before(program, step)
    program.way.begin(step, learns=batches.loss_tokens > 0)
    ranks = mesh.tokens.size * mesh.copies.size
    means = (figure / ranks for figure in measured)
    figures = (float(stop), float(request), float(save), *means)
    if plan.cuda_graphs and watch.captures:
        return _captured(program, batches, step, figures, watch, guard)
    return _work(
        program,
        partial(forwards, program, batches, step=step),
        len(batches.micro_batches),
        Numbers.of(program, batches),
        lambda place: write_figures(place, figures),
        learns=batches.loss_tokens > 0,
        watch=watch,
        guard=guard,
        changes=program.before_changes,
    )


def _captured(
    program: Program,
    batches: StepBatches,
    step: int,
    figures: Sequence[float],
    watch: Watch,
    guard: StepGuard,
) -> Tensor:
    """The step as a recording, or as it is where its recording does not hold."""
    if program.captured is None:
        program.captured = CapturedStep(program, program.plan.cuda_graphs_warmup)
    captured: CapturedStep = program.captured
    learns = batches.loss_tokens > 0
    live = program.live
    constants = (
        learns,
        live.weight_decay,
        repr(sorted(live.of_kinds.items())),
        repr(getattr(program.network.backbone, "capacity", None)),
        tuple(look.name for look in watch.looks),
    )

    def work(
        here: Sequence[Batch], numbers: Numbers, say: Callable[[Tensor], None]
    ) -> Tensor:
        recording = program.recording

        def forwards_of(index: int) -> Iterator[Pass]:
            yield Pass(here[index])

        return _work(
            program,
            forwards_of,
            len(here),
            numbers,
            say,
            learns=learns,
            watch=watch,
            guard=guard,
            # A recording cannot wait for copies of what it changes: its launch does.
            changes=_nothing if recording else program.before_changes,
        )

    if program.vocabulary is not None:
        for one in batches.micro_batches:
            program.vocabulary.add(one)
    return captured.take(
        program,
        batches.micro_batches,
        Numbers.of(program, batches),
        figures,
        constants,
        work,
        watch,
        guard.before_update,
    )


def _nothing() -> None:
    """What a recording does in place of waiting."""


def _work(
    program: Program,
    passes_of: Callable[[int], Iterator[Pass]],
    count: int,
    numbers: Numbers,
    say: Callable[[Tensor], None],
    *,
    learns: bool,
    changes: Callable[[], None],
    watch: Watch = NOTHING,
    guard: StepGuard = UNGUARDED,
) -> Tensor:
    """What a step does on the device, and nothing else.

    Args:
        program: what to train.
        passes_of: the forward passes of a micro-batch by its index.
        count: of the micro-batches.
        numbers: of the host.
        say: writes the host's figures into the metrics.
        learns: whether there is a label to learn from.
        changes: called before weights and states change.
        watch: what looks at the step.
        guard: follows the step.
    """
    mesh = program.mesh
    # Ways of being parallel average gradients; our loss is a sum, so scale it.
    factor = program.loss_scale.value * mesh.tokens.size
    sums = torch.zeros(len(SCALARS) + len(program.terms), device=program.device)
    counts: Tensor | None = None

    scale = program.loss_scale.value.clone()
    watch.mark("begin")
    for index in range(count):
        for one in passes_of(index):
            final = one.last and index == count - 1
            guard.before_forward(last=final)
            with program.gradient_sync(last=final):
                total, counted = _losses_of(program, numbers, index, sums, one)
                watch.mark("forward")
                guard.before_backward(last=final)
                if program.early is not None and learns:
                    _update_early(program, program.early, guard)
                one.backward(total * factor)
                watch.mark("backward")
            if counted is not None:
                counts = counted if counts is None else counts + counted

    guard.before_update()
    verdict = _update(program, watch, changes) if learns else _pass_over(program)
    watch.mark("optimizer")
    say(sums[3:9])
    metrics = sums if counts is None else torch.cat([sums, counts])
    mesh.tokens.sum_(metrics)
    mesh.copies.sum_(metrics[3:9])  # a request may have reached any process
    # These every rank already has in full, unless it learns by itself.
    clip = (scale / verdict.divisor) * (1 - verdict.skip)
    own = torch.stack([verdict.norm, verdict.skip, clip])
    if not program.way.synchronised:
        own = _of_copies(mesh.tokens.stack(own))
    metrics[1], metrics[2], metrics[9] = own[0], own[1], own[2]
    found = dict(divide_counts(metrics[len(sums) :], program.counts))
    for kind in program.kinds:
        kind.note(program, found)
        if learns:
            kind.after(program, found, verdict.skip)
    return watch.beside(metrics)


def _of_copies(figures: Tensor) -> Tensor:
    """[3]: gradient norm, skipped and clip of a step that each rank takes by itself.

    A step counts as passed over where one rank did: what watches the run sees it.

    Args:
        figures: [R, 3] of each rank.
    """
    return torch.stack(
        [figures[:, 0].mean(), figures[:, 1].amax(), figures[:, 2].mean()]
    )


def forwards(
    program: Program, batches: StepBatches, index: int, step: int
) -> Iterator[Pass]:
    """The forward passes of a micro-batch: one, or one for each chunk of its rows.

    Args:
        program: what to train.
        batches: of the step.
        index: of the micro-batch.
        step: completed optimizer steps.
    """
    batch = program.ready(batches.micro_batches[index])
    seed = dropout_seed(program.plan.seed, step, program.mesh.tokens.rank)
    yield from passes(program, batch, seed + index)


def losses_of(
    program: Program, batches: StepBatches, index: int, sums: Tensor, one: Pass
) -> tuple[Tensor, Tensor | None]:
    """One forward pass over a micro-batch, or over a chunk of it.

    Args:
        program: what to train.
        batches: of the step.
        index: of the micro-batch.
        sums: the losses so far; this pass's part is added.
        one: the pass.

    Returns:
        Its part of what is minimised, and what it counts, if anything.
    """
    return _losses_of(program, Numbers.of(program, batches), index, sums, one)


def _losses_of(
    program: Program, numbers: Numbers, index: int, sums: Tensor, one: Pass
) -> tuple[Tensor, Tensor | None]:
    """The same with the numbers of the step."""
    batch = one.batch
    held = (program.carries[index],) if program.network.recurrent else ()
    named = {} if one.earlier is None else {"cache": one.earlier}
    losses, aux = program.model(batch, *held, **named)
    program.carries[index] = losses.carry
    sums[0] += numbers.mean(losses.loss_sum.detach())
    total = _main_loss(program, losses, numbers)
    for place, term in enumerate(program.terms, start=len(SCALARS)):
        mean = aux[term.key] * numbers.shares[place - len(SCALARS)]
        total = total + term.weight * mean
        sums[place] += mean.detach()
    aux = aux | token_sums(program.plan.measures, losses, batch)
    if plan_sources := program.plan.sources:
        aux = aux | {SOURCES: source_sums(losses, batch, len(plan_sources))}
    return total, flatten_counts(aux, program.counts)


def _main_loss(program: Program, losses: LossSums, numbers: Numbers) -> Tensor:
    """A micro-batch's part of the loss beside the further terms.

    The mean over the step's tokens, unless the kind of the model weighs them otherwise.
    """
    for kind in program.kinds:
        found = kind.loss(program, losses, numbers.task_loss_tokens)
        if found is not None:
            return found
    trained = losses.trained_sum
    trained = losses.loss_sum if trained is None else trained
    return numbers.mean(trained)


def _update_early(program: Program, early: Early, guard: StepGuard) -> None:
    """Let the backward pass that follows change the weights."""
    guard.before_update()
    program.before_changes()
    live = program.live
    early.arm(lr=live.learning_rate, weight_decay=live.weight_decay)


def _update(program: Program, watch: Watch, changes: Callable[[], None]) -> Verdict:
    """Weights, moments and averages from the gradients, unless those are not finite."""
    live, scale = program.live, program.loss_scale.value
    for step in program.gradient_steps:
        step.before(scale)
    verdict = _judged(program)
    watch.judged(scale, verdict.squares)
    for step in program.gradient_steps:
        step.judge(verdict, scale)
    for step in program.gradient_steps:
        step.after(verdict)
    changes()
    for kind in program.kinds:
        kind.gradients(program, verdict.divisor, verdict.skip)
    if program.base is not None:
        program.base.pull(live.learning_rate, verdict.skip)
    program.optimizer.step(
        lr=live.learning_rate,
        weight_decay=live.weight_decay,
        divisor=verdict.divisor,
        skip=verdict.skip,
    )
    if program.logit_clip is not None:
        program.logit_clip.apply(verdict.skip)
    watch.updated()
    program.loss_scale.update(verdict.skip)
    for carry in program.carries:
        if carry is not None:  # its states may not be finite: every row starts over
            carry.begin_anew(verdict.skip > 0)
    program.optimizer.zero_grad()
    if program.average is not None:
        program.average.update(verdict.skip)
    program.optimizer.release()
    program.way.publish()
    return verdict


def _pass_over(program: Program) -> Verdict:
    """Release the gradients of a step without labels: those of side losses alone.

    Weights, moments, averages and the loss scale stay as they are: there is nothing
    that they could learn from, and decay alone would wear the weights away.
    """
    verdict = _judged(program)
    for carry in program.carries:
        if carry is not None:
            carry.begin_anew(verdict.skip > 0)
    program.optimizer.zero_grad()
    if program.logit_clip is not None:
        program.logit_clip.forget()
    return verdict


def _judged(program: Program) -> Verdict:
    """What the gate and the optimizers find in the gradients of the step."""
    gradients = program.optimizer.gradients()
    if program.early is not None:
        verdict = program.early.verdict(gradients)
    else:
        verdict = judge(
            gradients,
            loss_scale=program.loss_scale.value,
            max_norm=program.live.max_grad_norm,
            over=program.parts.over,
            counted=program.parts.counted(program.optimizer.with_gradients()),
        )
    broken = program.optimizer.gather()
    if broken is not None:
        verdict.skip = torch.maximum(verdict.skip, broken)
    return verdict


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Random draws are a function of (seed, step, rank): nothing to save or restore."""
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
