"""The memory of a Plan's step, followed on tensors that have none.

The Program of the Plan is built, trains two steps and evaluates a batch, all on tensors
without memory: every operator runs, autograd keeps what it keeps, and each storage is
followed from its first byte to its last (`following`), through an allocator like
PyTorch's (`allocator`). No device is needed, and no memory but that of Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.model.kinds.table import kinds_of
from lumina.plan.memory import COMPILED_SHARE
from lumina.plan.plan import Plan
from lumina.train.planned_memory import kernels
from lumina.train.planned_memory.following import Following
from lumina.train.planned_memory.pretended import UntraceableError, pretended
from lumina.train.planned_memory.steps import STAGES, take_steps

LIBRARY_BYTES, LIBRARY_BYTES_BEFORE = 32 * 2**20, 8320 * 2**10
"""What cuBLAS keeps for each thread: of capability 9 and later, and before."""

NAMED = 12
"""Names of what stands at a peak; the rest is told together."""


@dataclass(frozen=True)
class Traced:
    """What a trace found.

    Attributes:
        allocated: bytes handed out by the allocator at most, by stage.
        reserved: bytes taken from the device at most, by stage.
        requested: bytes that tensors asked for at most, by stage, without rounding.
        held: bytes between steps.
        standing: of each stage, what was there at its peak: name -> bytes, the largest
            first.
        elsewhere: bytes made in pinned host memory.
        assumed: in words, what the figures rest on that the trace cannot see.
        corrected: bytes that were taken off for what a compiler fuses, by stage.
        problem: why there are no figures; "" where there are.
    """

    allocated: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    held: int = 0
    standing: dict[str, dict[str, int]] = field(default_factory=dict)
    elsewhere: int = 0
    assumed: tuple[str, ...] = ()
    corrected: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def peak(self) -> int:
        """The most bytes handed out in a step."""
        return max((self.allocated.get(stage, 0) for stage in STAGES[:3]), default=0)

    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


class _NoMemory(Program):
    """A Program whose weights have no values."""

    def materialise(self, read: Callable[[str], Tensor] | None = None) -> None:
        """Make the optimizer around weights that are only shapes."""
        self._make_optimizer()
        self.model = self.way.settle()


class _Described(Ranks):
    """A single process on a device that need not be there."""

    def device(self, kind: str) -> torch.device:
        """The first device of that kind."""
        return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)


def untraceable(plan: Plan) -> str:
    """Why the steps of a Plan cannot be followed; "" where they can."""
    checks = (
        (plan.world_size > 1, f"{plan.world_size} processes share the work"),
        (plan.device not in ("cuda", "cpu"), f"the device is {plan.device}"),
        (bool(plan.fp8), "float8 products are computed by kernels of the device alone"),
        (plan.spec.solves_puzzles, "puzzles have batches of their own"),
        (plan.spec.parts is not None, "registered parts may read values"),
        (plan.preservation_method == "outputs" and plan.preservation > 0,
         "a frozen model computes beside this one"),
        (plan.weights_in != "device", "weights of blocks come while others compute"),
        (plan.qk_clip > 0, "the largest attention scores are read by a kernel"),
    )  # fmt: skip
    return next((words for applies, words in checks if applies), "")


def trace(plan: Plan, *, capability: tuple[int, int] = (9, 0)) -> Traced:
    """Follow two steps and an evaluation of a Plan.

    Args:
        plan: of one process, on a CUDA device or the CPU.
        capability: of the CUDA device that is planned for.

    Returns:
        The figures; without any, and with `problem`, where they cannot be had.
    """
    problem = untraceable(plan)
    if problem:
        return Traced(problem=problem)
    try:
        return _traced(plan, capability)
    except (UntraceableError, RuntimeError) as error:  # of an operator without shapes
        lines = str(error).splitlines() or [type(error).__name__]
        return Traced(problem=f"a step cannot run without memory: {lines[0]}")


def _traced(plan: Plan, capability: tuple[int, int]) -> Traced:
    assumed, followed_plan = as_followed(plan)
    cuda = plan.device == "cuda"
    library = LIBRARY_BYTES if capability >= (9, 0) else LIBRARY_BYTES_BEFORE
    where = _Where()
    following = Following(
        "meta",
        kernels.workspaces() if cuda else {},
        _inside(),
        where,
        library if cuda else 0,
    )
    ranks = _Described()
    with pretended(ranks.device(plan.device), following):
        program = _NoMemory(followed_plan, ranks)
        if hasattr(program.network.backbone, "skips_halted"):
            program.network.backbone.skips_halted = False  # it reads how many halted
        for parameter in program.network.parameters():
            following.add(parameter, "weights")
        for buffer in program.network.buffers():
            following.add(buffer, "buffers")
        where.named(program.network)
        with following:
            program.materialise()
            _name_what_stays(program, following)
            following.stage_ended("begin")
            held = following.allocator.allocated
            take_steps(program, following.stage_ended)
    peaks = {stage: following.peaks[stage] for stage in STAGES}
    standing = {
        stage: _largest(following.standing(peak.moment))
        for stage, peak in peaks.items()
    }
    corrected = _fused(plan)
    found = Traced(
        allocated={s: p.allocated - corrected.get(s, 0) for s, p in peaks.items()},
        reserved={s: p.reserved - corrected.get(s, 0) for s, p in peaks.items()},
        requested={stage: peak.requested for stage, peak in peaks.items()},
        held=held,
        standing=standing,
        elsewhere=following.elsewhere,
        assumed=assumed,
        corrected=corrected,
    )
    program.close()
    return found


def as_followed(plan: Plan) -> tuple[tuple[str, ...], Plan]:
    """What is assumed, and the Plan that is built for the trace."""
    assumed = ["random tokens in rows of two documents each"]
    changed: dict[str, Any] = {"watch_vocabulary": False, "measures": {}}
    if plan.compile:
        assumed.append(
            f"compiled blocks keep {COMPILED_SHARE:.0%} of what the same blocks keep "
            "uncompiled, where nothing is recomputed (measured); no other figure of "
            "theirs is followed"
        )
        changed["compile"] = False
    assumed += [kind.assumed for kind in kinds_of(plan.spec) if kind.assumed]
    if plan.attention == "flash3":
        assumed.append("flash3 takes what flash2 takes")
        changed["attention"] = "flash2"
    for place in ("optimizer_states_in", "activations_in"):
        if getattr(plan, place) == "disk":
            changed[place] = "host"
            assumed.append(f"{place} disk takes of the device what host takes")
    return tuple(assumed), plan.replace(**changed)


def _fused(plan: Plan) -> dict[str, int]:
    """What a compiler fuses away of what blocks keep, in the stages that hold it."""
    if not plan.compile or plan.gradient_checkpointing != "none":
        return {}
    kept = plan.memory["activations"] + plan.memory["routed"]
    return dict.fromkeys(("forward", "backward"), int((1 - COMPILED_SHARE) * kept))


def _inside() -> dict[Any, Any]:
    """Lumina's operators, by what they do inside."""
    import lumina.ops.low_bits.operator as low_bits
    from lumina.ops.attention import blockwise
    from lumina.ops.moe import segments
    from lumina.ops.router import split

    made = (
        blockwise.blockwise_attention,
        blockwise.blockwise_attention_backward,
        split.split_linear,
        split.split_linear_backward,
        low_bits.low_bit_product,
        segments.rounded_product,
    )
    adamw = torch.ops.aten._fused_adamw_
    in_place = {getattr(adamw, name): kernels.nothing for name in adamw.overloads()}
    return in_place | {one._opoverload: one._init_fn for one in made}


def _name_what_stays(program: Program, following: Following) -> None:
    """Names of all that stays between steps."""
    for slot in program.optimizer.slots:
        following.rename(slot.master, "master weights")
        if slot.accumulator is not None:
            following.rename(slot.accumulator, "sums of gradients")
        for state in slot.state.values():
            following.rename(state, "optimizer states")
    for parameter in program.network.parameters():
        following.rename(parameter.data, "weights")
    for average in getattr(program.average, "averages", ()):
        following.rename(average, "averages of the weights")


class _Where:
    """Which module computes now; layers of one kind have one name."""

    def __init__(self) -> None:
        self._open: list[str] = []

    def __call__(self) -> str:
        backward = torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
        if self._open:
            return self._open[-1] + (", again" if backward else "")
        return "gradients" if backward else ""

    def named(self, network: torch.nn.Module) -> None:
        """Learn the names of all modules of a network."""
        for path, module in network.named_modules():
            name = re.sub(r"\.\d+\b", ".*", path)
            module.register_forward_pre_hook(self._entered(name))
            module.register_forward_hook(self._left, always_call=True)

    def _entered(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._open.append(name)

        return hook

    def _left(self, *_: Any) -> None:
        if self._open:
            self._open.pop()


def _largest(standing: Any) -> dict[str, int]:
    """The largest names, and all others together."""
    most = standing.most_common(NAMED)
    rest = sum(standing.values()) - sum(size for _, size in most)
    return dict(most) | ({"other": rest} if rest else {})
