"""`lumina profile communication`: what the ranks of a training exchange, and its time.

In the steps that are watched, every collective is waited for where it is called, so
that its time is its own and nothing hides it; other steps run as a training does, and
tell what a step takes when communication may run beside computing. Collectives are seen
where PyTorch dispatches them, so those of DDP and FSDP2 are counted like Lumina's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.parallel.mesh import Mesh
from lumina.train.profiling.session import Session

KINDS = ("allreduce", "allgather", "reduce_scatter", "alltoall", "other")
"""Of collectives; `other` are broadcasts, barriers and the like."""

REFERENCE_BYTES = 32 * 2**20
"""Of the all-reduce that shows what the connection can carry."""


@dataclass(frozen=True)
class Call:
    """One collective, seen from one rank.

    Attributes:
        kind: of `KINDS`.
        seconds: from the call to its end on this rank, the wait for others included.
        bytes: that this rank has to send at least (NCCL's bus bytes).
        experts: whether it is among ranks that hold different experts.
    """

    kind: str
    seconds: float
    bytes: float
    experts: bool = False


@dataclass
class CommunicationProfile:
    """What was measured, in seconds of a step; means over the ranks.

    Attributes:
        world_size: ranks.
        parallel: the way in which they train.
        step_time: a step as a training takes it (median).
        watched_step_time: a step in which every collective is waited for (median).
        calls: collectives of a step on a rank, by kind.
        bytes: bus bytes of a step on a rank.
        allreduce_time: in all-reduces, waiting for other ranks included; so for the
            next three.
        allgather_time: in all-gathers.
        reduce_scatter_time: in reduce-scatters.
        alltoall_time: in all-to-alls.
        other_time: in broadcasts and the rest.
        total_communication_time: in all of them.
        communication_overhead: that, as a share of the watched step.
        bubble_time: part of it in which a rank waits for others to come to the same
            collective: what it takes longer there than the last rank to come.
        reference_bandwidth: bus bytes a second of a large all-reduce alone.
        bandwidth_utilization: bus bytes a second of the step's collectives, waiting
            left out, over the reference; None where nothing was sent.
        expert_alltoall_time: in all-to-alls among ranks that hold different experts.
        expert_communication_overhead: that, as a share of the watched step.
    """

    world_size: int
    parallel: str
    step_time: float = 0.0
    watched_step_time: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)
    bytes: float = 0.0
    allreduce_time: float = 0.0
    allgather_time: float = 0.0
    reduce_scatter_time: float = 0.0
    alltoall_time: float = 0.0
    other_time: float = 0.0
    total_communication_time: float = 0.0
    communication_overhead: float = 0.0
    bubble_time: float = 0.0
    reference_bandwidth: float = 0.0
    bandwidth_utilization: float | None = None
    expert_alltoall_time: float = 0.0
    expert_communication_overhead: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Watched(TorchDispatchMode):
    """While it is entered, every collective is waited for and written down."""

    def __init__(self, mesh: Mesh | None = None) -> None:
        """Watch nothing yet.

        Args:
            mesh: tells which exchanges are among ranks with different experts.
        """
        super().__init__()
        self.calls: list[Call] = []
        experts = mesh.expert if mesh is not None and mesh.expert.size > 1 else None
        group = experts.group or dist.group.WORLD if experts is not None else None
        self._experts = None if group is None else group.group_name

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation; one of c10d to its end."""
        if func.namespace != "c10d":
            return func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, Tensor | list)]
        group = _group_of(args)
        on_gpu = any(one.is_cuda for one in _flat(given))
        if on_gpu:  # what was launched before is not the collective's
            torch.cuda.synchronize()
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        work = result[-1] if isinstance(result, tuple) else result
        work.wait()
        if on_gpu:
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        kind = kind_of(func.__name__)
        size = group.size() if group is not None else dist.get_world_size()
        self.calls.append(
            Call(
                kind,
                took,
                bus_bytes(kind, given, size),
                group is not None
                and self._experts is not None
                and group.group_name == self._experts,
            )
        )
        return result


def kind_of(name: str) -> str:
    """The kind of an operation of c10d, such as `_allgather_base_.default`."""
    plain = name.partition(".")[0].strip("_")
    for kind in KINDS:
        if plain.startswith(kind):
            return kind
    return "other"


def bus_bytes(kind: str, given: Sequence[Any], ranks: int) -> float:
    """What a rank has to send at least, as nccl-tests count it.

    Args:
        kind: of `KINDS`.
        given: tensors and lists of tensors, outputs first.
        ranks: of the group.
    """
    if not given:
        return 0.0
    sizes = [_bytes(one) for one in given]
    part = (ranks - 1) / ranks
    if kind == "allreduce":
        return 2 * part * sizes[0]
    # The output of an all-gather, the input of a reduce-scatter, is of all ranks.
    return part * max(sizes) if kind != "other" else float(sizes[0])


def profile_communication(
    session: Session, *, warm_up: int, steps: int, tell: Callable[[str], None]
) -> CommunicationProfile:
    """Time steps as they are, then as many with every collective waited for.

    Args:
        session: what trains, on every rank.
        warm_up: steps before those that are timed.
        steps: steps that are timed, and steps that are watched.
        tell: shows a line of progress.
    """
    plan = session.plan
    mesh = session.program.mesh
    found = CommunicationProfile(plan.world_size, plan.parallel)
    for _ in range(warm_up):
        session.step(session.data()[0])
    tell(f"{warm_up} steps to warm up are done; {steps} are timed as they are")
    plain = [_timed(session) for _ in range(steps)]
    tell(f"{steps} are timed with every collective waited for")
    watched, seen = [], []
    for _ in range(steps):
        watch = Watched(mesh)
        watched.append(_timed(session, watch))
        seen.append(watch.calls)
    found.reference_bandwidth = _reference(session, mesh)
    _add_up(found, mesh, plain, watched, seen)
    return found


def _timed(session: Session, watch: Watched | None = None) -> float:
    batches, _ = session.data()
    session.wait()
    began = time.perf_counter()
    if watch is None:
        session.step(batches)
    else:
        with watch:
            session.step(batches)
    session.wait()
    return time.perf_counter() - began


def _reference(session: Session, mesh: Mesh) -> float:
    """Bus bytes a second of an all-reduce of `REFERENCE_BYTES`; the best of three.

    The mean over the ranks, which may see different times.
    """
    device = session.program.device
    tensor = torch.zeros(REFERENCE_BYTES // 4, device=device)
    speeds = []
    for _ in range(3):
        with Watched() as watch:
            mesh.everyone.sum_(tensor)
        (call,) = watch.calls
        speeds.append(call.bytes / call.seconds)
    best = torch.tensor([max(speeds)]).double()
    return float(mesh.everyone.sum_(best) / mesh.everyone.size)


def _add_up(
    found: CommunicationProfile,
    mesh: Mesh,
    plain: Sequence[float],
    watched: Sequence[float],
    seen: Sequence[Sequence[Call]],
) -> None:
    """Means over steps and ranks; the same figures on every rank."""
    ranks, steps = mesh.everyone, len(seen)

    def mean(value: float) -> float:
        return float(ranks.sum_(torch.tensor([value]).double()) / ranks.size)

    found.step_time = mean(statistics.median(plain))
    found.watched_step_time = mean(statistics.median(watched))
    calls = [call for step in seen for call in step]
    found.bytes = mean(sum(call.bytes for call in calls) / steps)
    for kind in KINDS:
        ours = [call for call in calls if call.kind == kind]
        found.calls[kind] = round(len(ours) / steps)
        seconds = sum(call.seconds for call in ours) / steps
        setattr(found, f"{kind}_time", mean(seconds))
    found.total_communication_time = sum(
        getattr(found, f"{kind}_time") for kind in KINDS
    )
    experts = [c.seconds for c in calls if c.experts and c.kind == "alltoall"]
    found.expert_alltoall_time = mean(sum(experts) / steps)
    whole = mean(sum(watched) / steps)
    found.communication_overhead = found.total_communication_time / whole
    found.expert_communication_overhead = found.expert_alltoall_time / whole
    # Ranks call the same collectives in one order: the last to come waits least.
    took = torch.tensor([call.seconds for call in calls]).double()
    least = ranks.stack(took).min(0).values
    found.bubble_time = mean(float((took - least).sum()) / steps)
    sending = found.total_communication_time - found.bubble_time
    if found.bytes and sending > 0:
        reached = found.bytes / sending
        found.bandwidth_utilization = reached / found.reference_bandwidth


def _group_of(args: Sequence[Any]) -> dist.ProcessGroup | None:
    for one in args:
        if isinstance(one, torch.ScriptObject) and "ProcessGroup" in str(one._type()):
            return dist.ProcessGroup.unbox(one)
    return None


def _flat(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    return [t for one in given for t in _flat(one)] if isinstance(given, list) else []


def _bytes(given: Any) -> int:
    return sum(t.numel() * t.element_size() for t in _flat(given))
