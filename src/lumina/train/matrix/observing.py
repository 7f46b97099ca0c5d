"""Looks at a cell's run from inside its process, without changing what it computes."""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lumina.assemble.held_bytes import held_bytes
from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.measure.live_bytes import LiveBytes
from lumina.optim.sharded import whole
from lumina.train.matrix.sharing import Collectives, several, states_digest
from lumina.train.watch import Look, Watch

GRADIENTS_AT, PASSES_AT, MEMORY_AT, SENT_AT = 1, 2, 3, 4
"""Steps, counted from 1, in which gradients, module calls, memory, and what several
processes send each other are looked at."""


class Observer:
    """Collects what one run shows.

    Attributes:
        gradients: of the first step, by parameter, whole and in float32 on the CPU.
        calls: address -> how often its function ran.
        passes: module in a block -> how often it ran in one step.
        memory: most bytes of tensors that one step made and held at a time; None
            where blocks were compiled, which cannot be looked into.
        tensors: names of the parameters, those in few bits among them.
        optimizers: name of an optimizer -> how many parameters it trains.
        held: bytes of what the program holds beside its steps, as
            `lumina.assemble.held_bytes.held_bytes`.
        deterministic: whether torch was told to use only algorithms that repeat.
        sent: of several processes, the figures of `Collectives.found`.
        states: `states_digest` after the last step of several processes.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self.memory: int | None = None
        self.tensors: list[str] = []
        self.optimizers: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.deterministic = False
        self.sent: dict[str, float] = {}
        self.states: str | None = None
        for address in addresses:
            self._count(address)

    def install(self) -> None:
        """Look at every step of runs that begin in this process from now on."""
        of = Watch.of

        def watched(program: Program, batches: StepBatches, step: int) -> Watch:
            found = of(program, batches, step)
            return Watch([*found.looks, _StepLook(self, program, batches, step)])

        Watch.of = staticmethod(watched)  # type: ignore[method-assign]

    def _count(self, address: str) -> None:
        """Count the calls of a function, wherever it is known by its name."""
        module, _, path = address.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def counted(*arguments: Any, **named: Any) -> Any:
            if not torch.compiler.is_compiling():
                self.calls[address] += 1
            return plain(*arguments, **named)

        setattr(owner, name, counted)
        if not parents:  # other modules have imported it by its name
            for other in list(sys.modules.values()):
                if getattr(other, name, None) is plain:
                    setattr(other, name, counted)


class _StepLook(Look):
    """One step."""

    name = "matrix"

    def __init__(
        self, observer: Observer, program: Program, batches: StepBatches, step: int
    ) -> None:
        super().__init__(program, batches)
        self.observer, self.step = observer, step
        self._handles: list[Any] = []
        self._live: LiveBytes | None = None
        self._sent: Collectives | None = None
        network: nn.Module = program.network
        compiled = program.plan.compile
        if step == GRADIENTS_AT:
            self._begin(program)
        if step == PASSES_AT and not compiled:
            self._count_passes(network)
        if step == MEMORY_AT and not compiled:
            self._live = LiveBytes()
            self._live.__enter__()
        if step == SENT_AT and several():
            self._sent = Collectives()

    def judged(self, scale: Tensor) -> None:
        """Take the gradients of the whole step, where they are still there."""
        if self.step != GRADIENTS_AT:
            return
        for slot in self.program.optimizer.slots:
            gradient = slot.parameter.grad
            if gradient is None or not hasattr(gradient, "full_tensor"):
                gradient = slot.gradient()
                if gradient is not None:  # of the rows that this rank trains
                    gradient = whole(gradient, slot.parameter.detach())
            if gradient is not None:
                # In float16 the scale itself may be infinite.
                self._keep(slot.name, gradient.float() / scale)

    def updated(self) -> None:
        """The step is over for all that is looked at."""
        self.close()
        if self.step == self.program.plan.steps and several():
            self.observer.states = states_digest(self.program)

    def values(self) -> Tensor | None:
        """Nothing leaves the device; a step without labels ends here, too."""
        self.close()
        return None

    def close(self) -> None:
        """Stop looking."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self.observer.memory, self._live = self._live.peak, None
        if self._sent is not None:
            self._sent.stop()
            self.observer.sent, self._sent = self._sent.found, None

    def _begin(self, program: Program) -> None:
        """Note what the program is made of; its gradients may be used up early."""
        found = self.observer
        found.tensors = [name for name, _ in program.network.named_parameters()]
        found.tensors += program.stored  # in few bits, where parameters have stood
        found.optimizers = {
            name: len(member.optimizer.slots)
            for name, member in program.optimizer.members.items()
        }
        found.held = held_bytes(program)
        found.deterministic = torch.are_deterministic_algorithms_enabled()
        if program.early is None:
            return
        for name, parameter in program.network.named_parameters():
            if parameter.requires_grad:
                hook = self._adding(name)
                self._handles.append(parameter.register_hook(hook))

    def _adding(self, name: str) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            whole = gradient.detach().float().cpu()
            before = self.observer.gradients.get(name)
            kept = whole.clone() if before is None else before + whole
            self.observer.gradients[name] = kept

        return add

    def _keep(self, name: str, gradient: Tensor) -> None:
        if hasattr(gradient, "full_tensor"):  # every rank takes part
            gradient = gradient.full_tensor()
        self.observer.gradients[name] = gradient.detach().float().cpu().clone()

    def _count_passes(self, network: nn.Module) -> None:
        blocks = getattr(getattr(network, "backbone", None), "blocks", ())
        for block in blocks:
            for name, module in block.named_children():
                hook = functools.partial(_passed, self.observer.passes, name)
                # Before it runs: what is computed again ends, by an exception, as soon
                # as all that the backward pass needs is there.
                self._handles.append(module.register_forward_pre_hook(hook))


def _passed(passes: Counter[str], name: str, *_: Any) -> None:
    passes[name] += 1
