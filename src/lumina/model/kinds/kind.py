"""The protocol of a kind of model.

A kind is what sets a group of models apart from a plain transformer: routed experts,
depths that are chosen, recursions, reasoning in segments, several tasks, registered
parts. Everything that it adds to building, training, reporting and planning is a method
here whose default adds nothing, so that other files need not name a kind. The kinds are
listed in `lumina.model.kinds.table`.

No module of this package imports torch when it is imported: the planner reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lumina.model.spec import ModelSpec
from lumina.model.tensors import Declared, Shape, Tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lumina.batch import Batch
    from lumina.model.interface import LossSums

LISTED_LAYERS = 8
"""So many layers are listed by their numbers; more are only counted."""


@dataclass(frozen=True)
class Term:
    """A loss beside the main one.

    Attributes:
        key: in `LossSums.aux`; a sum over tokens and layers.
        weight: in the total.
        layers: divides the sum, besides the step's tokens.
        taught: the sum runs over the tokens that bear loss, not over all of them.
    """

    key: str
    weight: float
    layers: int = 1
    taught: bool = False

    def per_token(self, tokens: int, loss_tokens: int) -> float:
        """The factor that makes the sum a mean over the step's tokens and layers."""
        return 1.0 / (max(loss_tokens if self.taught else tokens, 1) * self.layers)


class Branches(NamedTuple):
    """The two branches of a block."""

    attention: nn.Module
    feedforward: nn.Module


class Routing(NamedTuple):
    """How tokens choose their depth.

    Attributes:
        mode: "static" or "dynamic".
        learned: whether a router that learns decides.
    """

    mode: str
    learned: bool = True


class Memory(Protocol):
    """What a kind remembers from step to step beside the network's buffers."""

    def state(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Running(Protocol):
    """The part of a `Program` that kinds read and change between steps."""

    @property
    def network(self) -> Any:
        """The bare network."""

    @property
    def plan(self) -> Any:
        """The plan that the program realises."""

    @property
    def optimizer(self) -> Any:
        """The optimizers, with the slots of all trained parameters."""

    @property
    def live(self) -> Any:
        """The values that may change between steps."""

    @property
    def memories(self) -> Mapping[str, Any]:
        """`memory_key` of a kind -> its `Memory`."""


class Kind:
    """One kind of model. Every method below describes a model of this kind.

    Attributes:
        name: the field of `ModelSpec` that holds the settings of this kind.
        title: what a report calls such a model; "" where it is no kind of its own to a
            reader.
        assumed: what a step on random tokens has that a trained one need not have;
            "" where the two take the same memory.
        memory_key: the key of a checkpoint's `extra` that holds the state of `memory`.
        context: the parts of `BlockContext` that only its blocks read: "tokens" or
            "starts".
        lacks: what a model of this kind cannot do: a name of
            `lumina.features.abilities`, or that of a feature -> why not. Kinds of
            Lumina that have an option say it where the option is declared
            (`lumina.features.declared`).
    """

    name: str = ""
    title: str = ""
    assumed: str = ""
    memory_key: str = ""
    context: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = MappingProxyType({})

    def applies(self, spec: ModelSpec) -> bool:
        """Whether a model is of this kind."""
        return getattr(spec, self.name) is not None

    def words(self, spec: ModelSpec) -> list[str]:
        """What it is, in phrases that stand alone, for the plan and the banner."""
        return []

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """Add its tensors to `tensors`, and change or remove those of others.

        Args:
            spec: the resolved shape.
            tensors: those of a plain transformer, as earlier kinds of the table have
                changed them. The network has exactly what is left here at the end.
        """

    # Building. The first kind that returns a module decides; None leaves it to others.

    def attention(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """The attention of a layer."""
        return None

    def feedforward(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """The feed-forward of a layer."""
        return None

    def block(
        self, spec: ModelSpec, layer: int, branches: Callable[[], Branches]
    ) -> nn.Module | None:
        """The block of a layer; `branches` makes its attention and feed-forward."""
        return None

    def recursion(self, spec: ModelSpec) -> nn.Module | None:
        """What passes tokens through the blocks, where not once through each."""
        return None

    def backbone(self, spec: ModelSpec, attention: str) -> nn.Module | None:
        """A backbone in place of the transformer."""
        return None

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """An objective in place of that of a language model."""
        return None

    def finish(
        self, spec: ModelSpec, network: nn.Module, tensors: Mapping[str, Declared]
    ) -> None:
        """Change the network once all of its modules stand.

        Args:
            spec: the resolved shape.
            network: on the meta device.
            tensors: what it declares.
        """

    def initialise(self, network: nn.Module) -> None:
        """Give those tensors a first value that depends on other tensors' values.

        Args:
            network: whose every other tensor has its first value.
        """

    def capacity(self, spec: ModelSpec) -> float:
        """The share of the tokens that its blocks take, where they choose."""
        return 1.0

    def graphs(self, spec: ModelSpec) -> int:
        """How many compiled versions of a block a run may need, as a factor."""
        return 1

    def capacities(self, spec: ModelSpec) -> tuple[float, ...]:
        """The shares of the tokens that a run may come to take; none: it is fixed."""
        return ()

    def answering(self, spec: ModelSpec) -> ModelSpec:
        """The shape that answers as the trained one does, without what only trains."""
        return spec

    def loading_options(self, spec: ModelSpec) -> list[str]:
        """What a command line needs to load such a model, besides its folder."""
        return []

    def no_graph(self, spec: ModelSpec) -> str:
        """Why it cannot be written as one graph of operations; "" where it can."""
        return ""

    def routing(self, spec: ModelSpec) -> Routing | None:
        """How tokens choose their depth, where they do."""
        return None

    # A forward pass.

    def collect(
        self, spec: ModelSpec, layers: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The backbone's auxiliary sums, from those that its blocks returned."""
        return {}

    def settle(self, spec: ModelSpec, losses: LossSums, batch: Batch) -> None:
        """Complete `losses.aux` once the losses of a batch are known."""

    # A training step.

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The further losses."""
        return ()

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """Keys of `LossSums.aux` that only count, with their shapes."""
        return {}

    def memory(self, spec: ModelSpec, device: torch.device) -> Memory | None:
        """What must be remembered from step to step, freshly made."""
        return None

    def before(self, running: Running, step: int) -> None:
        """Prepare a step; `step` steps are complete."""

    def loss(
        self, running: Running, losses: LossSums, task_loss_tokens: tuple[float, ...]
    ) -> Tensor | None:
        """A micro-batch's part of the main loss, where it is not the tokens' mean.

        Args:
            running: the program.
            losses: of the micro-batch.
            task_loss_tokens: counted tokens of each task in the whole step, or what
                these weigh.
        """
        return None

    def gradients(self, running: Running, divisor: Tensor, skip: Tensor) -> None:
        """Look at the gradients of a step, once they are complete; may change them.

        Args:
            running: the program.
            divisor: [] what the gradients are divided by for the update.
            skip: [] 1.0 where they are not finite, and nothing is updated.
        """

    def restore_live(
        self, running: Running, held: Mapping[str, Any], before: Mapping[str, Any]
    ) -> None:
        """Set what a control had set in `live.of_kinds`, where it still stands.

        Args:
            running: the program.
            held: the live values of the checkpoint.
            before: the shape in the checkpoint's Plan, as plain values.
        """

    def note(self, running: Running, counted: Mapping[str, Tensor]) -> None:
        """Write into a step's counts what is known only here."""

    def after(
        self, running: Running, counted: Mapping[str, Tensor], skip: Tensor
    ) -> None:
        """Change for the next step what the counts of this one, over all ranks, imply.

        Args:
            running: the program.
            counted: by the keys of `counts`.
            skip: [] 1.0 where the gradients were not finite.
        """

    def partly_frozen(self, spec: ModelSpec) -> frozenset[str]:
        """Roles whose tensors train in part: weight decay would move the rest."""
        return frozenset()

    def events(
        self, plan: Any, step: int, counted: Mapping[str, Tensor]
    ) -> Iterable[tuple[str, str, dict[str, Any]]]:
        """Events of a step that the Plan asks for: kind, sentence and figures.

        Args:
            plan: the plan that the step ran under.
            step: its number.
            counted: by the keys of `counts`, over all ranks, on the CPU.
        """
        return ()

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the counts of a step say, as keys of a metrics row.

        Args:
            plan: the plan that the step ran under.
            counted: by the keys of `counts`, over all ranks, on the CPU.
        """
        return {}


def in_layers(layers: tuple[int, ...], num_layers: int) -> str:
    """Which layers, in a few words: all of them, or their numbers, or how many."""
    if len(layers) == num_layers:
        return "every layer"
    if len(layers) <= LISTED_LAYERS:
        return f"layer{'s' * (len(layers) > 1)} {' '.join(map(str, layers))}"
    return f"{len(layers)} of {num_layers} layers"
