"""Measures an op: the time of every version, its error, its share of the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumina.measure.bench.ceilings import Ceilings, interleaved
from lumina.measure.bench.ops.op import Op, Shape, Version, Work

REFERENCE = "reference"


@dataclass
class Measured:
    """One version of an op.

    Attributes:
        version: its name.
        seconds: of the forward pass, the median; None where it was not run.
        backward_seconds: of forward and backward together; None where it has none.
        error: root mean square of the difference from the float32 reference, as a part
            of the reference's own root mean square.
        gradient_errors: the same of each gradient.
        slopes: of each gradient, <g, r> / <r, r> with the reference's r: 1 where
            nothing is scaled.
        share: of the floor in the forward time: 1 where nothing could be quicker.
        backward_share: of the floor of both passes in their time.
        problem: why it was not measured; "" where it was.
    """

    version: str
    seconds: float | None = None
    backward_seconds: float | None = None
    error: float | None = None
    gradient_errors: dict[str, float] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)
    share: float | None = None
    backward_share: float | None = None
    problem: str = ""


def measure_op(
    op: Op,
    shape: Shape,
    device: str,
    dtype: torch.dtype,
    ceilings: Ceilings,
    *,
    rounds: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure an op.

    The versions take turns, in an order that alternates. All get the same inputs,
    rounded to `dtype`; the reference gets them in float32 for the errors, and in
    `dtype` for its time.

    Args:
        op: the op.
        shape: of its inputs.
        device: kind of device.
        dtype: of its inputs.
        ceilings: of the device.
        rounds: how often each version is timed.
        seed: of the inputs.

    Returns:
        Plain values: operations and bytes, the floor, and each version.
    """
    torch.manual_seed(seed)
    inputs = op.inputs(shape, device, dtype)
    work = op.work(shape, dtype.itemsize)
    wide = {name: _wide(value) for name, value in inputs.items()}
    try:
        wanted = _computed(op, op.reference, wide)
    except torch.OutOfMemoryError:
        return _facts(op, work, ceilings, [], "the reference has no room in memory")
    del wide
    found, runs, both = [], {}, {}
    for name, version in {REFERENCE: op.reference, **op.versions}.items():
        one = Measured(name, problem=version.needs(device, dtype))
        found.append(one)
        if one.problem:
            continue
        try:
            _compare(one, _computed(op, version, inputs), wanted)
        except torch.OutOfMemoryError:
            one.problem = "out of memory"
            continue
        runs[name], both[name] = _timed_runs(op, version, inputs)
    times = interleaved(runs, device, rounds) if runs else {}
    longer = interleaved(both, device, rounds) if op.differentiated and both else {}
    floor = ceilings.floor(work.operations, work.moved)
    floor_of_both = floor + ceilings.floor(
        work.backward_operations, work.backward_moved
    )
    for one in found:
        if one.version in times:
            one.seconds = times[one.version]
            one.share = floor / one.seconds
        if one.version in longer:
            one.backward_seconds = longer[one.version]
            one.backward_share = floor_of_both / one.backward_seconds
    return _facts(op, work, ceilings, found, "")


def _facts(
    op: Op, work: Work, ceilings: Ceilings, found: list[Measured], problem: str
) -> dict[str, Any]:
    return {
        "op": op.name,
        **asdict(work),
        "floor_seconds": ceilings.floor(work.operations, work.moved),
        "versions": [asdict(one) for one in found],
        "problem": problem,
    }


def _wide(value: Any) -> Any:
    """In float32, whatever is floating."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    return value


def _computed(
    op: Op, version: Version, inputs: dict[str, Any]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What a version gives, or changes; and the gradients of the differentiated."""
    given: dict[str, Any] = {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
    for name in op.differentiated:
        given[name].requires_grad_()
    output = version.run(**given)
    if op.in_place:
        return [given[name].float() for name in op.in_place], {}
    assert output is not None
    if not op.differentiated:
        return [output.float()], {}
    output.backward(_direction(output))
    gradients = {name: given[name].grad.float() for name in op.differentiated}
    return [output.detach().float()], gradients


def _direction(output: Tensor) -> Tensor:
    """The same gradient of the output for every version, of values near one."""
    generator = torch.Generator().manual_seed(1)
    if not output.dim():
        return torch.ones_like(output)
    signs = torch.randn(output.shape[-1], generator=generator)
    return signs.to(output.device, output.dtype).expand(output.shape)


def _compare(
    one: Measured,
    found: tuple[list[Tensor], dict[str, Tensor]],
    wanted: tuple[list[Tensor], dict[str, Tensor]],
) -> None:
    pairs = zip(found[0], wanted[0], strict=True)
    one.error = max(relative_error(a, b) for a, b in pairs)
    for name, gradient in found[1].items():
        one.gradient_errors[name] = relative_error(gradient, wanted[1][name])
        one.slopes[name] = slope(gradient, wanted[1][name])


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of the wanted values."""
    whole = wanted.double().norm().clamp(min=1e-30)
    return float((found.double() - wanted.double()).norm() / whole)


def slope(found: Tensor, wanted: Tensor) -> float:
    """<found, wanted> / <wanted, wanted>."""
    a, b = found.double().flatten(), wanted.double().flatten()
    return float(a.dot(b) / b.dot(b).clamp(min=1e-30))


def _timed_runs(
    op: Op, version: Version, inputs: dict[str, Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The forward pass, and forward with backward, as they are timed."""
    # What an op changes in place, it goes on changing; nothing else is written.
    given = {
        name: value.clone() if name in op.in_place else value
        for name, value in inputs.items()
    }

    def forward() -> None:
        with torch.no_grad():
            version.run(**given)

    learning = {
        name: value.detach().clone().requires_grad_()
        if name in op.differentiated
        else value
        for name, value in inputs.items()
    }

    def both() -> None:
        output = version.run(**learning)
        assert output is not None
        output.backward(_direction(output))
        for name in op.differentiated:
            learning[name].grad = None

    return forward, both


def quickest(
    op: Op, shape: Shape, device: str, dtype: torch.dtype, rounds: int
) -> tuple[str, float]:
    """The version whose forward and backward are quickest, and their seconds.

    The reference takes no part: it is not meant to be quick.
    """
    inputs = op.inputs(shape, device, dtype)
    runs = {
        name: _timed_runs(op, version, inputs)[1]
        for name, version in op.versions.items()
        if not version.needs(device, dtype)
    }
    times = interleaved(runs, device, rounds)
    best = min(times, key=times.__getitem__)
    return best, times[best]
