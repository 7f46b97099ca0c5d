"""The mistakes that levers of the guard's benchmark make on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from guard_cases import SLOWER, Mutated
from lumina.batch import IGNORE, Batch
from lumina.guard.programs import ProgramSubject
from lumina.plan.plan import Plan

Hook = Callable[[Mutated], None]


def _parameters(subject: ProgramSubject, match: str) -> list[Tensor]:
    found = [
        p for name, p in subject.program.network.named_parameters() if match in name
    ]
    if not found:
        raise ValueError(f"no parameter has {match!r} in its name")
    return found


def _modules(subject: ProgramSubject, match: str) -> list[torch.nn.Module]:
    found = [
        m for name, m in subject.program.network.named_modules() if name.endswith(match)
    ]
    if not found:
        raise ValueError(f"no module's name ends with {match!r}")
    return found


def gradient(match: str, factor: float, after: int = 0) -> Hook:
    """Gradients are multiplied, from a step on."""

    def prepare(subject: Mutated) -> None:
        for parameter in _parameters(subject, match):
            parameter.register_hook(
                lambda g: g * factor if subject._step >= after else g
            )

    return prepare


def rounded_gradient(match: str, bits: int) -> Hook:
    """Gradients keep so many bits of mantissa."""

    def prepare(subject: Mutated) -> None:
        for parameter in _parameters(subject, match):
            parameter.register_hook(lambda g: _rounded(g, bits))

    return prepare


def _rounded(values: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(values.float())
    scale = 2.0**bits
    return torch.ldexp((mantissa * scale).round() / scale, exponent).to(values.dtype)


def output(match: str, change: Callable[[Tensor, Mutated], Tensor]) -> Hook:
    """What a module gives is changed."""

    def prepare(subject: Mutated) -> None:
        def hook(module: Any, given: Any, out: Any) -> Any:
            if isinstance(out, tuple):
                return (change(out[0], subject), *out[1:])
            return change(out, subject)

        for module in _modules(subject, match):
            module.register_forward_hook(hook)

    return prepare


def rows(which: tuple[int, ...], renormalised: bool = False) -> Hook:
    """Rows of a batch do not count."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            labels = batch.labels.clone()
            labels[list(which)] = IGNORE
            if not renormalised:
                share = (labels != IGNORE).sum() / (batch.labels != IGNORE).sum()
                subject.loss_factor = float(share)
                weights = torch.full(labels.shape, float(share))
                return dataclasses.replace(batch, labels=labels, loss_weights=weights)
            return dataclasses.replace(batch, labels=labels)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def columns(begin: int, end: int) -> Hook:
    """Columns of a batch do not count; the mean is over the others."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            labels = batch.labels.clone()
            labels[:, begin:end] = IGNORE
            return dataclasses.replace(batch, labels=labels)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def merged(rows_of_it: int) -> Hook:
    """Documents of the first rows see each other."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            documents = batch.document_ids.clone()
            documents[:rows_of_it] = 0
            return dataclasses.replace(batch, document_ids=documents)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def positions(change: Callable[[Tensor], Tensor]) -> Hook:
    """Positions are others."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            return dataclasses.replace(batch, position_ids=change(batch.position_ids))

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def broken_at(length: int, value: float = float("nan")) -> Callable[..., Tensor]:
    """A value that is not finite, in documents of at least this length."""

    def change(out: Tensor, subject: Mutated) -> Tensor:
        batch = subject.given
        if batch is None or int(batch.position_ids.max()) + 1 < length:
            return out
        out = out.clone()
        out[..., -1, :] = out[..., -1, :] * value
        return out

    return change


def noting(subject: Mutated) -> None:
    """Hooks can see the batch."""
    inner = subject.batch_of

    def batch_of(batch: Batch, step: int) -> Batch:
        subject.given = batch
        return inner(batch, step)

    subject.batch_of = batch_of  # type: ignore[method-assign]


def slow(speed: float) -> Hook:
    """So many times as fast as the baseline."""

    def prepare(subject: Mutated) -> None:
        subject.factor = SLOWER / speed

    return prepare


def leaking(size: int) -> Hook:
    """Every step leaves so many numbers behind."""

    def prepare(subject: Mutated) -> None:
        kept: list[Tensor] = []
        subject.before = lambda subject: kept.append(
            torch.zeros(size, device=subject.program.device)
        )

    return prepare


def loss(factor: float) -> Hook:
    """The loss that is told is another; the gradients are right."""

    def prepare(subject: Mutated) -> None:
        subject.loss_factor = factor

    return prepare


def reloaded(change: Callable[[Any], Any]) -> Hook:
    """A checkpoint has something else in it."""

    def prepare(subject: Mutated) -> None:
        subject.reload = change

    return prepare


def with_tensors(change: Callable[[str, Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda state: dataclasses.replace(
        state, tensors={n: change(n, t) for n, t in state.tensors.items()}
    )


def with_moments(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda state: dataclasses.replace(
        state,
        optimizer={
            slot: {n: change(t) for n, t in some.items()}
            for slot, some in state.optimizer.items()
        },
    )


def spec(**changes: Any) -> Callable[[Plan], Plan]:
    """The lever's model is another."""
    return lambda plan: plan.replace(spec=dataclasses.replace(plan.spec, **changes))


def scaled(factor: float) -> Callable[..., Tensor]:
    return lambda out, subject: out * factor
