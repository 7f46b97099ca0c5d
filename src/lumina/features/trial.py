"""How a feature is tried beside others: its switch, what shows it, what it may change.

`lumina matrix` trains a small model with one or several features and compares it with a
reference. What it needs to know of a feature stands in that feature's own file, in the
`Trial` of its declaration; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tolerance:
    """How far a run with a feature may be from the one without it, as relative errors.

    The bounds of several features add up, because their errors may.

    Attributes:
        first_loss: of the loss of the first step, with the same weights in both.
        gradients: of the gradients of the first step, as the norm of the difference
            over the norm of the reference, all tensors together.
        learned: of the mean loss of the last steps: what rounding grew to, and what a
            feature that changes updates is allowed.
    """

    first_loss: float = 0.0
    gradients: float = 0.0
    learned: float = 0.0

    def __add__(self, other: Tolerance) -> Tolerance:
        return Tolerance(
            self.first_loss + other.first_loss,
            self.gradients + other.gradients,
            self.learned + other.learned,
        )


ROUNDING = Tolerance(first_loss=2e-5, gradients=2e-4, learned=5e-3)
"""Of float32 sums in another order; every comparison is allowed this much."""


BF16 = Tolerance(first_loss=5e-3, gradients=0.05, learned=0.03)
"""Of computing in bfloat16 over float32 master weights."""

REDRAWN = Tolerance(first_loss=0.05, gradients=0.5, learned=0.05)
"""Allowed besides where random draws are others than in the reference."""

FROM_BASE = {"init_from": "{base}"}
"""What a feature has beside it that changes a model which is trained already."""


DISTINCT = {"train_data": ("{book}",), "eval_data": ("{data}",)}
"""What a feature has beside it that keeps the tokens of the highest scores.

Documents that begin alike have tokens of equal scores, of which the last bit of another
kernel keeps others.
"""


@dataclass(frozen=True)
class Seen:
    """What was observed in a run, for a feature to be found in.

    Attributes:
        calls: address -> how often the function was called, of those that a `Trial`
            names.
        passes: module inside a block, such as "feedforward_norm" -> how often it ran
            for one micro-batch, forward and backward, summed over the blocks; empty
            where blocks were compiled.
        columns: the names in the rows of metrics.jsonl.
        tensors: the names of the model's parameters.
        figures: further figures of the process, such as "compiled_frames".
    """

    calls: Mapping[str, int] = field(default_factory=dict)
    passes: Mapping[str, float] = field(default_factory=dict)
    columns: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """How `lumina matrix` tries a feature.

    That a run's Plan has the feature is always asked for, and that everything is seen
    which is declared here to show that it acted.

    Attributes:
        options: leaves of the configuration that switch it on. A text may hold the
            places of what the matrix prepares: {data}, {more}, {chat}, {puzzles},
            {base} (a trained model of the same shape), {base in CODEC} (the same with
            the values that its matrices have in few bits), {parts} (a plug-in),
            {folder}.
        beside: leaves that it needs besides; the reference has them as well.
        reference: leaves that the reference has in place of those in `beside`: what
            the feature does to the numbers before training begins.
        keeps: whether it computes what a run without it computes, within `tolerance`.
            Otherwise it changes the model or the training, and the reference of a cell
            has it as well.
        tolerance: beyond `ROUNDING`.
        calls: addresses of functions, "module:function" or "module:Class.method", that
            run only where the feature acts, or more often. They are not asked for
            where blocks are compiled: the compiler may have taken them in.
        recomputes: modules inside a block that run more often than in the reference.
        columns: metrics that only a run with the feature writes.
        tensors: ends of the names of parameters that only such a model has.
        figures: of the process, which are 0 without the feature.
        draws: whether it draws at random in each forward pass.
        redraws: whether it divides a forward pass, so that what draws at random draws
            otherwise than in the reference.
        undrawn: leaves that stop its draws; a cell has them, with its reference, where
            another of its features redraws, and is then allowed no more for it.
        by_forward: whether what a token becomes depends on the other rows of its
            forward pass: the reference then has as many in one as each of several
            ranks.
        planned: whether a Plan says that it has the feature.
        ranks: processes that it needs.
        devices: kinds of device that it needs; empty: any.
        rounds: the feature whose rounding its options bring along, or "": the tolerance
            of that feature and of this one is one, and counts once.
        idle: why it has nothing to do in a run with this Plan, or None; None: it always
            has something.
        absent: why a machine cannot show it, where the feature itself would give way to
            another one; None: it can.
    """

    options: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    keeps: bool = True
    tolerance: Tolerance = field(default_factory=Tolerance)
    calls: tuple[str, ...] = ()
    recomputes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    draws: bool = False
    redraws: bool = False
    undrawn: Mapping[str, Any] = field(default_factory=dict)
    by_forward: bool = False
    planned: bool = True
    ranks: int = 1
    devices: tuple[str, ...] = ()
    rounds: str = ""
    idle: Callable[[Any], str | None] | None = None
    absent: Callable[[Any], str | None] | None = None

    @property
    def leaves(self) -> dict[str, Any]:
        """Everything that is set where the feature is on."""
        return {**self.beside, **self.options}

    @property
    def evident(self) -> bool:
        """Whether anything beside the Plan would show the feature."""
        return bool(
            self.calls
            or self.recomputes
            or self.columns
            or self.tensors
            or self.figures
        )

    def missing(self, seen: Seen, reference: Seen) -> str | None:
        """What a run does not show that would show the feature; None: nothing.

        Args:
            seen: what was observed in the run.
            reference: the same of the run that it is compared with, which has the
                feature only where the feature changes what is computed.
        """
        inside = bool(seen.passes)
        for address in self.calls if inside else ():
            count = seen.calls.get(address, 0)
            before = reference.calls.get(address, 0) if self.keeps else 0
            if count <= before:
                return f"{address} ran {count} times, without it {before}"
        # A block of one's own may have other modules: then all of them are counted.
        own = [name for name in self.recomputes if name in reference.passes]
        if self.recomputes and inside and reference.passes and not own:
            ran, once = sum(seen.passes.values()), sum(reference.passes.values())
            if ran <= once:
                return f"blocks ran {ran:g} modules, without it {once:g}"
        for name in own if inside else ():
            ran, once = seen.passes.get(name, 0), reference.passes.get(name, 0)
            if ran <= once:
                return f"{name} ran {ran:g} times, without it {once:g}"
        for name in self.columns:
            if name not in seen.columns:
                return f"no row has {name}"
        for end in self.tensors:
            if not any(name.endswith(end) for name in seen.tensors):
                return f"no parameter has a name that ends in {end}"
        for name in self.figures:
            if not seen.figures.get(name):
                return f"{name} is 0"
        return None
