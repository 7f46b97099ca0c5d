"""What changes gradients between backward and the optimizers, and its table.

The planner reads the table, and needs no torch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lumina.found_by_name import FoundByName
from lumina.optim.declared import Option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lumina.optim.gate import Verdict
    from lumina.optim.optimizer import Slot

C = TypeVar("C", bound="type[GradientStep]")


class GradientStep:
    """A small step on the gradients of every step of the optimizers.

    All steps of a run are called in their order, first all `before`, then all `judge`,
    then all `after`. Nothing is read back to the host.

    Args:
        slots: what trains, each with its gradient.
        roles: of each slot, by its name.
        options: value of each option that it declared.
        device: where its own numbers live.
        seed: of the run.
    """

    def __init__(
        self,
        slots: list[Slot],
        roles: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.slots = slots
        self.roles = roles
        self.options = options
        self.device = device
        self.seed = seed

    def gradients(self, *roles: str) -> Iterator[tuple[Slot, Tensor]]:
        """The slots of those roles (none: of all) and their local gradients."""
        for slot in self.slots:
            gradient = slot.gradient()
            chosen = not roles or self.roles[slot.name] in roles
            if chosen and gradient is not None and gradient.numel():
                yield slot, gradient

    def before(self, loss_scale: Tensor) -> None:
        """Change gradients in place before their norm is taken.

        What is not finite has to stay so.

        Args:
            loss_scale: [] float32 that the gradients are multiplied by.
        """

    def judge(self, verdict: Verdict, loss_scale: Tensor) -> None:
        """Change by what the gradients are divided.

        Args:
            verdict: of the gate; only its divisor may be changed.
            loss_scale: [] float32 that the gradients are multiplied by.
        """

    def after(self, verdict: Verdict) -> None:
        """Change gradients in place after all norms were taken.

        Args:
            verdict: with the number by which the optimizers will divide them.
        """

    def scalars(self) -> dict[str, Tensor]:
        """Numbers that it keeps, [] or [n] tensors by name, for the checkpoint."""
        return {}

    def load_scalars(self, values: Mapping[str, float | list[float]]) -> None:
        """The inverse of `scalars`."""
        for name, number in self.scalars().items():
            number.copy_(number.new_tensor(values[name]))


@dataclass(frozen=True, eq=False)
class DeclaredStep:
    """A registered step.

    Attributes:
        name: what `--gradient-steps` calls it.
        cls: the class.
        words: what it does, for the plan.
        options: the options that it has, by name.
    """

    name: str
    cls: type[GradientStep]
    words: str
    options: Mapping[str, Option] = field(default_factory=dict)


STEPS = FoundByName[DeclaredStep]("lumina.optim.gradient_steps")
"""Every step whose file has been imported, by name."""


def register_gradient_step(
    name: str, *, words: str, options: Mapping[str, Option] | None = None
) -> Callable[[C], C]:
    """A decorator that enters a class into `STEPS`; arguments as of `DeclaredStep`.

    Raises:
        LuminaError: E005 for the name of one of Lumina's own steps.
    """

    def decorate(cls: C) -> C:
        STEPS.refuse_taken(name, cls.__module__, "a step on gradients")
        STEPS[name] = DeclaredStep(name, cls, words, dict(options or {}))
        return cls

    return decorate


def chosen_gradient_step(name: str) -> DeclaredStep:
    """The step of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    return STEPS.chosen(name, f"gradient_steps {name}: there is no such step")
