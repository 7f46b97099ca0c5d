"""What looks at a step while it runs, on steps that are asked for it.

A further look is a subclass of `Look` under `@register_look` in a file of its own in
`lumina.train.looks`, named like the key of `Plan.measures` that asks for it. A look
reads; nothing that it does changes what the step computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from lumina.found_by_name import FoundByName

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches


class Finding(NamedTuple):
    """What a look has to tell, as an event.

    Attributes:
        kind: of the event.
        text: a sentence for a person.
        data: the figures behind it.
    """

    kind: str
    text: str
    data: dict[str, Any]


class Look:
    """A look at one step. It is made for the step, and read when the step is done.

    Nothing is read back to the host before `row`, which is called when the device has
    come to the end of the step.

    Args:
        program: what trains.
        batches: this rank's micro-batches of the step.

    Attributes:
        apart: its constructor computes something, which the time of the step leaves
            out.
        captures: all that it does until `row` is device work that is the same in every
            step, so that a captured step may hold it.
        squares: [n] float32, the square of the norm of this rank's part of each
            gradient, in the order of `Optimizers.gradients` and as it is before
            unscaling. There from `judged` on; None where weights change in the
            backward pass.
    """

    squares: Tensor | None = None

    name: ClassVar[str]
    apart: ClassVar[bool] = False
    captures: ClassVar[bool] = False

    def __init__(self, program: Program, batches: StepBatches) -> None:
        self.program = program

    def mark(self, moment: str) -> None:
        """A part of the step is launched.

        Args:
            moment: "begin", then for each micro-batch "forward" and "backward", then
                "optimizer".
        """

    def judged(self, scale: Tensor) -> None:
        """The gradients of the whole step are there, and no weight has changed.

        Args:
            scale: [] float32 that the gradients are multiplied by.
        """

    def updated(self) -> None:
        """The weights have changed."""

    def values(self) -> Tensor | None:
        """[n] float32 on the device: what `row` needs of it. Equal on all ranks."""
        return None

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Keys of the step's row in metrics.jsonl.

        Args:
            values: those that `values` returned, on the host.
        """
        return {}

    def findings(self) -> list[Finding]:
        """What is to be an event of the run; asked after `row`."""
        return []


LOOKS = FoundByName[type[Look]]("lumina.train.looks")
"""Every look whose file has been imported, by name."""

L = TypeVar("L", bound=type[Look])


def register_look(cls: L) -> L:
    """Enter a look in the table: a decorator of a subclass of `Look`."""
    LOOKS[cls.name] = cls
    return cls


class Watch:
    """The looks at one step.

    Args:
        looks: those that are due.
    """

    def __init__(self, looks: Sequence[Look] = ()) -> None:
        self.looks = looks
        self._lengths: list[int] = []

    @staticmethod
    def of(program: Program, batches: StepBatches, step: int) -> Watch:
        """The looks that are due in step number `step`, counted from 1."""
        due = []
        for name, every in program.plan.measures.items():
            look = LOOKS.found(name) if every and step % every == 0 else None
            if look is not None:
                due.append(look(program, batches))
        return Watch(due) if due else NOTHING

    @property
    def apart(self) -> bool:
        """Whether something was computed beside the step."""
        return any(look.apart for look in self.looks)

    @property
    def captures(self) -> bool:
        """Whether a captured step may hold all looks."""
        return all(look.captures for look in self.looks)

    def adopt(self, other: Watch) -> None:
        """Read what the looks of a captured step, alike to these, have found."""
        if self.looks:
            self.looks, self._lengths = other.looks, other._lengths

    def mark(self, moment: str) -> None:
        """See `Look.mark`."""
        for look in self.looks:
            look.mark(moment)

    def judged(self, scale: Tensor, squares: Tensor | None = None) -> None:
        """See `Look.judged` and `Look.squares`."""
        for look in self.looks:
            look.squares = squares
            look.judged(scale)

    def updated(self) -> None:
        """See `Look.updated`."""
        for look in self.looks:
            look.updated()

    def beside(self, metrics: Tensor) -> Tensor:
        """The vector of a step, and behind it what the looks have found."""
        found = [look.values() for look in self.looks]
        self._lengths = [0 if one is None else len(one) for one in found]
        there = [one for one in found if one is not None]
        return torch.cat([metrics, *there]) if there else metrics

    def row(self, values: Sequence[float]) -> Mapping[str, Any]:
        """What the looks add to the row of the step.

        Args:
            values: the vector that `beside` returned, on the host.
        """
        row: dict[str, Any] = {}
        begin = len(values) - sum(self._lengths)
        for look, length in zip(self.looks, self._lengths, strict=True):
            row |= look.row(values[begin : begin + length])
            begin += length
        return row

    def findings(self) -> list[Finding]:
        """See `Look.findings`."""
        return [one for look in self.looks for one in look.findings()]


NOTHING = Watch()
"""No look at all."""
