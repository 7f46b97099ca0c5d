"""What a way of being parallel is to a plan and to a program."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lumina.model.network import Network
    from lumina.parallel.low_rank import LowRank
    from lumina.parallel.mesh import Mesh
    from lumina.parallel.sizes import Sizes


IN_FLIGHT = 2
"""Messages that may be on their way at a time, where sending and computing overlap."""


@dataclass(frozen=True)
class Messages:
    """How ranks that do not shard their weights send gradients and weights.

    Attributes:
        reduced: elements of the parameters whose gradients are summed in one message;
            a larger parameter has one of its own.
        gathered: likewise, of the weights that ranks give each other.
        overlap: messages are sent while others are on their way, and gradients while
            the backward pass goes on.
        every_pass: where weights are sharded, gradients are reduced in every backward
            pass, and not only in the last of a step.
        persistent: where weights are sharded, parameters of fewer elements than that
            stay whole on every rank.
        low_rank: columns of the factors in which gradients are exchanged
            (`lumina.parallel.low_rank`); 0: they are exchanged whole.
        low_rank_from: completed steps from which they are.
    """

    reduced: int = 2**24
    gathered: int = 2**24
    overlap: bool = True
    every_pass: bool = False
    persistent: int = 0
    low_rank: int = 0
    low_rank_from: int = 0


MESSAGES = Messages()
"""Of a run that does not say more."""


@dataclass(frozen=True)
class Exchanged:
    """What ranks exchange, as far as its memory goes.

    Attributes:
        block: parameters of the largest block.
        blocks: of all blocks together.
        root: parameters of the embedding and the heads.
        trained: parameters that train.
        element: bytes of a number in the compute type.
        messages: how it is sent.
        persistent: parameters that train and stay whole, by `Messages.persistent`.
    """

    block: int
    blocks: int
    root: int
    trained: int
    element: int
    messages: Messages = MESSAGES
    persistent: int = 0


@dataclass(frozen=True)
class Conditions:
    """What is decided about a run before its way of being parallel is chosen.

    Attributes:
        spec: the model's shape.
        sizes: ranks along each dimension of the mesh.
        device: "cpu", "cuda" or "mps".
        compute_dtype: "float32", "bfloat16" or "float16".
        compile: whether blocks are compiled.
        weights_dtype: the type in which weights are kept, likewise.
        optimizer_in_backward: whether a weight changes as soon as its gradient is
            there, on the rank that has it.
        messages_asked: options of its own messages that were set.
        reduces_each: whether gradients are to be reduced after every micro-batch.
        low_rank: as of `Messages`.
        persistent: likewise.
    """

    spec: ModelSpec
    sizes: Sizes
    device: str
    compute_dtype: str
    compile: bool
    weights_dtype: str = "float32"
    optimizer_in_backward: bool = False
    messages_asked: tuple[str, ...] = ()
    reduces_each: bool = False
    low_rank: int = 0
    persistent: int = 0


@dataclass(frozen=True)
class Place:
    """What a way works on in this process.

    Attributes:
        network: the bare network; its values come after `Way.wrap`.
        mesh: the ranks by dimension.
        device: where this process computes.
        compute_dtype: type of the products.
        whole: parameters that stay whole on every rank and take part in no exchange.
        messages: how large they are, where the way forms its own.
        bucket_mb: MiB of gradients that are exchanged at a time, for a way that has
            `buckets`.
    """

    network: Network
    mesh: Mesh
    device: torch.device
    compute_dtype: torch.dtype
    whole: frozenset[nn.Parameter] = field(default_factory=frozenset)
    messages: Messages = MESSAGES
    bucket_mb: float = 25.0


class Way:
    """How several processes train one model: what a registered class derives from.

    The class says what the planner needs; an object is made for each program. A program
    transforms and compiles the blocks, calls `wrap`, gives every weight its value, and
    calls `settle`. After the last backward of a step, the gradient of every parameter
    is the mean over `mesh.tokens`, unless ranks are not `synchronised`.

    Attributes:
        name: what `--parallel` calls it; set by `register_parallel`.
        summary: what it does, in one line, for `lumina features`.
        preference: place among the ways that `--parallel auto` tries, the lowest
            first; None: it is used only where it is named.
        stage: of ZeRO that it is; None: of none.
        several: whether it is for more than one process.
        sharded: whether each rank holds a part of every parameter as a DTensor, so that
            ranks communicate in every forward pass.
        divides_states: whether each rank keeps masters, moments and averages of a part
            of every parameter only, by rows, and gets the gradients of that part. Where
            weights are `sharded` it always does; where they are not, `part` says which
            rows, and `publish` gives every rank the rows that others have changed.
        forms_messages: whether it groups what it sends as `Messages` says, and not
            block by block or as PyTorch does.
        masters_apart: whether the network's weights are half-precision copies of
            float32 masters, where the compute type is half precision. Otherwise
            parameters are float32, and modules cast them.
        synchronised: whether all ranks take the same steps. Otherwise each has weights
            of its own, its gradients are those of its own rows, and `merge` makes one
            model of all.
        buckets: whether gradients are exchanged in pieces of `Place.bucket_mb`.
        keeps_small: whether it can keep small parameters whole, as
            `Messages.persistent` says.
        takes_apart: whether it can exchange gradients as `Messages.low_rank` says.
        low_rank: what does so in an object of it, from `settle` on; None: nothing.
        divides_experts: whether it can leave each rank of `mesh.expert` a part of the
            routed experts.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    preference: ClassVar[int | None] = None
    stage: ClassVar[int | None] = None
    several: ClassVar[bool] = True
    sharded: ClassVar[bool] = False
    divides_states: ClassVar[bool] = False
    forms_messages: ClassVar[bool] = False
    masters_apart: ClassVar[bool] = False
    synchronised: ClassVar[bool] = True
    buckets: ClassVar[bool] = False
    keeps_small: ClassVar[bool] = False
    takes_apart: ClassVar[bool] = False
    low_rank: LowRank | None = None
    divides_experts: ClassVar[bool] = False

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        cls.divides_states = cls.divides_states or cls.sharded

    def __init__(self, place: Place) -> None:
        self.place = place

    # Planning.

    @classmethod
    def refuses(cls, conditions: Conditions) -> str | None:
        """Why it cannot be used in a run: the end of a sentence that begins with it.

        None where it can.
        """
        if conditions.device == "mps":
            return "exchanges nothing between Apple GPUs, which have one process"
        if conditions.sizes.sequence > 1 and not cls.synchronised:
            return (
                "has each process train rows of its own, and context_parallel has "
                "several share each row"
            )
        if conditions.optimizer_in_backward and cls.several:
            return (
                "exchanges gradients, which optimizer_in_backward uses up before they "
                "can be exchanged"
            )
        if conditions.weights_dtype != "float32" and not cls.masters_apart:
            return (
                "keeps float32 weights on every rank, not the "
                f"{conditions.weights_dtype} of model_dtype"
            )
        if conditions.messages_asked and not cls.forms_messages:
            sends = "a block at a time" if cls.sharded else "as PyTorch groups it"
            return (
                f"sends {sends} while it computes: it has no use for "
                f"{', '.join(conditions.messages_asked)}, which zero1 has"
            )
        if conditions.sizes.expert > 1 and not cls.divides_experts:
            return (
                "does not divide experts over processes (expert_parallel_size), "
                "as ddp does"
            )
        if conditions.reduces_each and not cls.sharded:
            return (
                "adds up whole gradients and reduces them once a step, not after each "
                "micro-batch (gradients_reduced)"
            )
        if conditions.low_rank and cls.several and not cls.takes_apart:
            return (
                "has every gradient on its own rows only, or exchanges none: "
                "gradient_compression powersgd needs whole ones, as ddp has"
            )
        if conditions.persistent and cls.several and not cls.keeps_small:
            return (
                "gathers no weights while it computes, or all of them once a step: "
                "stage3_param_persistence_threshold is for fsdp2"
            )
        return None

    @classmethod
    def communication_bytes(cls, what: Exchanged) -> int:
        """Memory on each device for weights and gradients that are being exchanged."""
        return 0

    # Training.

    def wrap(self) -> None:
        """Change the network in place; it is on the meta device, without values."""

    def part(
        self, parameter: nn.Parameter, *, adds_up: bool
    ) -> tuple[nn.Parameter, torch.Tensor]:
        """The rows of a parameter that this rank trains, where only states are divided.

        Called by all ranks, in the same order, when every weight has its value.

        Args:
            parameter: one of the network's that trains.
            adds_up: gradients of several backward passes add up, in float32.

        Returns:
            A DTensor parameter whose local tensor is a view of the rows, and float32 of
            their shape, where their gradient is after the last backward of a step.
        """
        raise NotImplementedError

    def sums(self) -> list[torch.Tensor]:
        """Where it adds up gradients of several backward passes; for counting."""
        return []

    def settle(self) -> nn.Module:
        """The module to call, now that every weight has its value."""
        return self.place.network

    def begin(self, step: int, learns: bool) -> None:
        """A step begins.

        Args:
            step: completed ones.
            learns: whether its gradients are to change anything.
        """

    def sync(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward of a micro-batch.

        Args:
            last: whether it is the last of its step, after which gradients are
                complete on every rank.
        """
        return nullcontext()

    def publish(self) -> None:
        """Let every rank have the weights that this one has changed.

        Called by all ranks after each update, and whenever averages take the place of
        weights or give it back.
        """

    def merge(self, tensors: Iterable[torch.Tensor]) -> None:
        """Make what ranks learned apart the same on all of them, in place.

        Called by all ranks before weights are judged or saved, where they are not
        `synchronised`.

        Args:
            tensors: float32; weights and what optimizers and averages keep.
        """

    def after_evaluation(self) -> None:
        """Tidy up after forward passes without a backward."""

    def after_failure(self) -> None:
        """Tidy up after a forward or backward that broke off: before a reassembly."""

    def close(self) -> None:
        """Let go of the network, which another program is to take the room of."""
