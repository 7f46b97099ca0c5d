"""What a step takes from a model's `aux`: further loss terms, and counts to report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.model.depth import STATISTICS
from lumina.model.interface import LossSums
from lumina.model.objective.halting_language import STATISTICS as HALTING_STATISTICS
from lumina.model.objective.multi_task import LOSSES, TASK_STATISTICS
from lumina.model.objective.puzzle import HALTING_WEIGHT
from lumina.model.parts import reported
from lumina.model.spec import ModelSpec
from lumina.optim.task_weights import TaskWeights


@dataclass(frozen=True)
class Term:
    """A loss beside the main one.

    Attributes:
        key: in `aux`; a sum over tokens and layers.
        weight: in the total.
        layers: what the sum is divided by, besides the step's tokens.
        taught: the sum is over the tokens that bear loss, not over all.
    """

    key: str
    weight: float
    layers: int
    taught: bool = False

    def per_token(self, batches: StepBatches) -> float:
        """Factor that makes the sum a mean over the step's tokens and layers."""
        tokens = batches.loss_tokens if self.taught else batches.tokens
        return 1.0 / (max(tokens, 1) * self.layers)


def main_loss(
    losses: LossSums, batches: StepBatches, weights: TaskWeights | None
) -> Tensor:
    """A micro-batch's part of what is minimised, beside the `loss_terms`.

    The mean over the step's tokens; or, where tasks have weights, the weighted sum of
    the tasks' means. A task without a token in this step adds nothing to it.
    """
    if weights is None:
        trained = losses.trained_sum
        trained = losses.loss_sum if trained is None else trained
        return trained / max(batches.loss_tokens, 1)
    parts = zip(losses.terms[LOSSES], batches.task_loss_tokens, strict=True)
    means = torch.stack([loss / max(tokens, 1) for loss, tokens in parts])
    return (weights.now * means).sum()


def loss_terms(spec: ModelSpec) -> tuple[Term, ...]:
    """The further losses of a model."""
    found = []
    if (moe := spec.moe) is not None:
        found.append(Term("moe.balance_loss", moe.balance_weight, len(moe.layers)))
        found.append(Term("moe.z_loss", moe.z_loss_weight, len(moe.layers)))
    if (mod := spec.mod) is not None and mod.predicted:
        found.append(Term("mod.predictor_loss", mod.predictor_weight, len(mod.layers)))
    mor = spec.mor if spec.mor is not None and spec.mor.recursions > 1 else None
    if mor is not None and mor.by_token:
        found.append(Term("mor.balance_loss", mor.balance_weight, 1))
        found.append(Term("mor.z_loss", mor.z_loss_weight, 1))
    elif mor is not None and mor.mode != "static":
        further = mor.recursions - 1
        found.append(Term("mor.router_loss", mor.router_loss_weight, further))
    for part, key, weight, layers in reported(spec):
        found.append(Term(key, weight, layers, taught=part.kind == "objective"))
    if (hrm := spec.hrm) is not None and not spec.solves_puzzles:
        found.append(Term("act.halt_loss", HALTING_WEIGHT, 1, taught=True))
        if hrm.variant == "hrm" and hrm.halt_max_steps > 1:
            found.append(Term("act.continue_loss", HALTING_WEIGHT, 1, taught=True))
    return tuple(found)


def count_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Keys of `aux` that only count, with their shapes, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    if (moe := spec.moe) is not None:
        shapes["moe.counts"] = (len(moe.layers), moe.num_experts)
        shapes["moe.dropped"] = (len(moe.layers),)
    if (mod := spec.mod) is not None:
        shapes["mod.statistics"] = (len(mod.layers), len(STATISTICS))
        if mod.mode == "dynamic":
            shapes["mod.losses"] = (4,)
    if (mor := spec.mor) is not None and mor.recursions > 1:
        shapes["mor.statistics"] = (mor.recursions, 2)
    if spec.tasks is not None:
        shapes[TASK_STATISTICS] = (len(spec.tasks.names), 3)
    if spec.hrm is not None and not spec.solves_puzzles:
        shapes["act.statistics"] = (spec.hrm.halt_max_steps, len(HALTING_STATISTICS))
    return shapes


def unpack(
    values: Tensor, shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """The parts of one flat vector, by name."""
    begin = 0
    for key, shape in shapes.items():
        size = math.prod(shape)
        yield key, values[begin : begin + size].view(shape)
        begin += size


def pack(aux: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> Tensor | None:
    """One flat vector of the counts; None where there are none."""
    if not shapes:
        return None
    return torch.cat([aux[key].detach().flatten() for key in shapes])


def capacity_now(program: Program, step: int) -> float:
    """The share of tokens that Mixture-of-Depths blocks take in a step.

    What a control asked for, else the part of the schedule that the step is in.
    """
    mod = program.plan.spec.mod
    assert mod is not None
    if program.live.mod_capacity is not None:
        return program.live.mod_capacity
    if not mod.schedule:
        return mod.capacity
    offset = program.plan.schedule_offset
    length = max(program.plan.steps + offset, 1)
    part = (step + offset) * len(mod.schedule) // length
    return mod.schedule[min(part, len(mod.schedule) - 1)]
