"""What is done before the first step, so that no step waits for it.

Compiling for every capacity, and loading the libraries of a GPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

import torch

from lumina import start_clock
from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.heartbeat import beat
from lumina.model.kinds.table import kinds_of, loss_terms
from lumina.threads import start

LAZY = ("cuda",)
"""Kinds of device whose libraries are loaded when they are first used."""

_begun: dict[torch.device, threading.Thread] = {}
"""Devices whose warm-up goes on beside other work."""


class WarmUp:
    """Warms up each Program of a run once, before its first step.

    Args:
        device_too: load the libraries of the device, before the first Program's.
    """

    def __init__(self, device_too: bool) -> None:
        self._device_too = device_too
        self._warm: Program | None = None

    def before_step(
        self, program: Program, batches: Sequence[Batch], tell: Callable[[str], None]
    ) -> bool:
        """Warm up a Program that has not taken a step yet.

        Args:
            program: takes the step.
            batches: micro-batches of the step, on the host.
            tell: shows a line of progress.

        Returns:
            Whether that took time, which is not that of the step.
        """
        if self._warm is program or not batches:
            return False
        first, self._warm = self._warm is None, program
        took_time = first and self._device_too and warm_device(program)
        if capacities_to_compile(program):
            beat("compiling")
            warm_up(program, batches[0], tell)
            took_time = True
        return took_time


def warm_device(program: Program) -> bool:
    """Load what the device's first products, sums and draws would have to wait for.

    On CUDA that is a context's kernels, cuBLAS and its workspace. Neither weights nor
    random streams change.

    Args:
        program: that will train.

    Returns:
        Whether there was anything to do.
    """
    if program.device.type not in LAZY:
        return False
    before = start_clock.part(start_clock.DEVICE)
    begun = _begun.pop(program.device, None)
    if begun is not None:
        begun.join()
    else:
        _use(program.device, program.compute_dtype)
    start_clock.part(before)
    return True


def warm_device_beside(device: torch.device, dtype: torch.dtype) -> None:
    """Begin with `warm_device` on a thread, while the compiler's modules are loaded.

    Args:
        device: of the run.
        dtype: that it computes in.
    """
    if device.type not in LAZY or device in _begun:
        return

    def use() -> None:
        # Whatever stands in the way is met, and told, by the first step.
        with contextlib.suppress(RuntimeError):
            _use(device, dtype)

    # No daemon: a library that is being loaded must not be taken down.
    thread = threading.Thread(target=use, name="lumina-warm-up")
    start(thread)
    _begun[device] = thread


def _use(device: torch.device, dtype: torch.dtype) -> None:
    """Products, sums and their gradients, of numbers that nothing else sees."""
    for kind in {dtype, torch.float32}:
        x = torch.ones(64, 64, dtype=kind, device=device, requires_grad=True)
        weight = torch.ones(64, 64, dtype=kind, device=device, requires_grad=True)
        y = torch.nn.functional.linear(x, weight)
        y.float().softmax(-1).square().sum().backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def capacities_to_compile(program: Program) -> tuple[float, ...]:
    """The capacities a run may come to, where it may come to several."""
    spec = program.plan.spec
    if not program.plan.compile:
        return ()
    found = (kind.capacities(spec) for kind in kinds_of(spec))
    return next((several for several in found if len(several) > 1), ())


def warm_up(program: Program, batch: Batch, tell: Callable[[str], None]) -> None:
    """A forward and backward with every capacity, whose results are thrown away.

    Weights, moments, statistics and random streams stay as they are. All ranks call it
    together.

    Args:
        program: that will train.
        batch: of the shapes that will come; on the host.
        tell: shows a line of progress.
    """
    backbone = program.network.backbone
    spec = program.plan.spec
    routings = [kind.routing(spec) for kind in kinds_of(spec)]
    learned = all(one.learned for one in routings if one is not None)
    before, capacities = backbone.capacity, capacities_to_compile(program)
    batch = program.row_parts.of(batch).to(program.device)
    cuda = [program.device] if program.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        for number, capacity in enumerate(capacities, start=1):
            tell(
                f"compiling for {capacity:.4g} of the tokens "
                f"({number} of {len(capacities)} capacities)"
            )
            backbone.capacity = capacity
            _once(program, batch)
            if not learned:  # there the position and the capacity decide
                _evaluate(program, batch)
    backbone.capacity = before


def _once(program: Program, batch: Batch) -> None:
    """One forward and backward pass, whose gradients are dropped."""
    # FSDP forms gradients only when it reduces them; otherwise ranks need not
    # communicate.
    with program.gradient_sync(last=program.divided):
        losses, aux = program.model(batch)
        terms = [aux[term.key] for term in loss_terms(program.plan.spec)]
        (losses.loss_sum + sum(terms)).backward()
    program.optimizer.zero_grad()


def _evaluate(program: Program, batch: Batch) -> None:
    program.model.eval()
    with torch.no_grad():
        program.model(batch)
    program.model.train()
