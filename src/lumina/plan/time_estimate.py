"""How long a run will take, said before it starts, with what that is known from.

The likely time of a step is that of its products: operations over the rate at which
they are done. The rate is measured where earlier runs on this machine tell it, else the
device's peak times an efficiency that is assumed; each estimate says which, and gives a
range. To that come recomputed forwards, what ranks exchange, and what passes the link
to host memory and disk (`lumina.plan.link`). A step is never quicker than the device
can read and write its weights and states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lumina.parallel.table import chosen_way
from lumina.plan.checkpointing import recomputed_share
from lumina.plan.compressing import compresses, exchanged_bytes
from lumina.plan.costs.table import costs_of
from lumina.plan.environment import Environment
from lumina.plan.figures import layout_of
from lumina.plan.hardware_profiles import HardwareProfile, profile_of
from lumina.plan.link import LinkTime, crossings, link_here, link_of, link_time
from lumina.plan.peak import peak_here
from lumina.plan.plan import Plan
from lumina.plan.speeds import Speed, arithmetic_of, comparable
from lumina.quantities import duration

SAME, ALIKE = 1.15, 1.6
"""How far a step may be from an earlier run of the same size, and of a like one."""

NARROW = 768
"""Models below this width are held up by what surrounds their products."""


@dataclass(frozen=True)
class Efficiency:
    """Part of the peak rate that a run reaches.

    Attributes:
        low: of a run that is slow for its kind.
        likely: of a usual one.
        high: of a quick one.
        why: where the figures are from.
    """

    low: float
    likely: float
    high: float
    why: str


PLAIN = {
    # (on a GPU, compiled): measured on one H200 with models of 0.2 to 3.6 B parameters
    # (docs/claims.md); the lower ends are wide, because other cards were not measured.
    # On a processor: over the rate of products that was measured on it.
    (True, True): (0.30, 0.45, 0.55),
    (True, False): (0.20, 0.38, 0.47),
    (False, False): (0.15, 0.4, 0.8),
    (False, True): (0.15, 0.4, 0.8),
}
"""Low, likely and high efficiency of models whose kinds say nothing of it."""


def assumed_efficiency(plan: Plan) -> Efficiency:
    """The part of the peak that is assumed where nothing was measured."""
    on_gpu = plan.device != "cpu"
    said = (cost.efficiency(on_gpu, plan.compile) for cost in costs_of(plan.spec))
    found = next((one for one in said if one is not None), None)
    low, likely, high = found or PLAIN[on_gpu, plan.compile]
    why = "of the rate of large products that was measured on this processor"
    if on_gpu:
        why = "of the card's peak; one H200 reached 0.25 to 0.52 with 0.2 to 3.6 B"
    if plan.spec.hidden_size < NARROW:
        low, likely = low / 5, likely / 2
        why += f"; a width below {NARROW} reaches less"
    return Efficiency(low, likely, high, why)


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of one step, and of the steps that are left.

    Attributes:
        quick: seconds of a step if all goes well.
        likely: what is expected.
        slow: if it does not.
        steps: steps that are estimated.
        measured: whether earlier runs here tell it; else an efficiency is assumed.
        why: what the estimate rests on, in words.
        parts: what the likely seconds consist of.
    """

    quick: float
    likely: float
    slow: float
    steps: int
    measured: bool
    why: str
    parts: dict[str, float]

    @property
    def seconds(self) -> tuple[float, float, float]:
        """Seconds of all steps: quick, likely, slow."""
        return tuple(self.steps * s for s in (self.quick, self.likely, self.slow))  # type: ignore[return-value]

    def in_words(self) -> str:
        """The time of all steps with its range, and whether it was measured."""
        quick, likely, slow = self.seconds
        basis = "measured" if self.measured else "assumed"
        return (
            f"about {duration(likely)} for {self.steps:,} steps, {duration(quick)} to "
            f"{duration(slow)} ({basis}: {self.why})"
        )

    def lines(self) -> list[str]:
        """For a person: the step, the whole, what it consists of, what it rests on."""
        quick, likely, slow = self.seconds
        return [
            f"a step       {_seconds(self.likely)}, {_seconds(self.quick)} to "
            f"{_seconds(self.slow)}",
            *(f"             {_seconds(s)} {part}" for part, s in self.parts.items()),
            f"all steps    {duration(likely)} for {self.steps:,}, {duration(quick)} to "
            f"{duration(slow)}; evaluations and checkpoints come to that",
            f"{'measured' if self.measured else 'assumed':<13}{self.why}",
        ]


def estimate_time(
    plan: Plan,
    machine: Environment,
    *,
    steps: int | None = None,
    efficiency: float | None = None,
    peak: float | None = None,
    profile: HardwareProfile | None = None,
    earlier: Sequence[Speed] | None = None,
) -> TimeEstimate | None:
    """How long the steps of a Plan take; None where nothing says how fast they are.

    Args:
        plan: what is done.
        machine: where, as the Plan was made for.
        steps: steps that are left; default: all of the Plan's.
        efficiency: the part of the peak to count on, in place of what is known.
        peak: operations a second of one device at most; default: the card's, by its
            name.
        profile: bandwidths of the device; default: by its name.
        earlier: speeds of earlier runs that tell something of this one, the nearest
            first; default: those that are recorded here.
    """
    profile = profile or profile_of(machine.device_name)
    if peak is None:
        peak = machine.peak_flops.get(arithmetic_of(plan))
    if earlier is None:
        earlier = comparable(plan, machine.device_name)
    rates = _rates(plan, machine, peak, efficiency, earlier)
    if rates is None:
        return None
    (slow, likely, quick), measured, why = rates
    tokens = plan.global_batch_size * plan.spec.seq_length / plan.world_size
    work = plan.flops_per_token * tokens
    again = work * recomputed_share(plan, plan.spec.num_layers)
    bandwidth = profile.bandwidth if profile is not None else None
    floor = moved_bytes(plan) / bandwidth if bandwidth else 0.0
    # What was measured on as many ranks has their exchange in it, and the link's time.
    exchange = 0.0 if measured else _exchange_seconds(plan, profile)
    link = LinkTime() if measured else _link_time(plan, machine)

    def step(rate: float, shown: float, spread: float = 1.0) -> float:
        computed = max((work + again) / rate, floor)
        waited = max(0.0, spread * link.beside - computed)
        return computed + waited + spread * link.after + shown * exchange

    if link.why:
        why += f"; {link.why}"
    return TimeEstimate(
        quick=step(quick, 0.0, 1 / link.spread),
        likely=step(likely, 0.5),
        slow=step(slow, 1.0, link.spread),
        steps=plan.steps if steps is None else steps,
        measured=measured,
        why=why,
        parts=_parts(work / likely, again / likely, floor, link, exchange),
    )


def _parts(
    products: float, again: float, floor: float, link: LinkTime, exchange: float
) -> dict[str, float]:
    """What the likely seconds of a step consist of."""
    computed = max(products + again, floor)
    found = {
        "a second forward of what is not kept": again,
        "reading and writing weights and states": computed - products - again,
        "waiting for what comes while blocks compute": link.beside - computed,
        "what the optimizer's step brings and takes": link.after,
        "exchange between devices, if half of it is hidden": exchange / 2,
    }
    return {"products": products} | {
        part: seconds for part, seconds in found.items() if seconds > 0
    }


def estimate_here(
    plan: Plan, machine: Environment, steps: int | None = None
) -> TimeEstimate | None:
    """How long the steps of a Plan take on the present machine.

    Args:
        plan: what is done.
        machine: the present one.
        steps: steps that are left; default: all of the Plan's.
    """
    peak = peak_here(plan, machine)
    if plan.elsewhere:
        link_here(machine)
    return estimate_time(plan, machine, steps=steps, peak=peak)


def _rates(
    plan: Plan,
    machine: Environment,
    peak: float | None,
    efficiency: float | None,
    earlier: Sequence[Speed],
) -> tuple[tuple[float, float, float], bool, str] | None:
    """((slow, likely, quick) operations a second, whether measured, why)."""
    if efficiency is not None:
        if peak is None:
            return None
        why = f"{efficiency:.2f} of {_tera(peak)}, which was asked for"
        return (peak * efficiency,) * 3, False, why
    if earlier:
        nearest = earlier[0]
        same = (plan.flops_per_token, plan.micro_batch_size * plan.spec.seq_length)
        exact = same == (nearest.flops_per_token, nearest.tokens)
        spread = SAME if exact else ALIKE
        what = "of this size" if exact else "of a like size"
        why = f"the newest run {what} here did {_tera(nearest.rate)} on a device"
        rates = (nearest.rate / spread, nearest.rate, nearest.rate * spread)
        return rates, True, why
    if peak is None:
        return None
    part = assumed_efficiency(plan)
    why = (
        f"{part.likely:.2f} ({part.low:.2f} to {part.high:.2f}) of {_tera(peak)}: "
        f"{part.why}"
    )
    return (peak * part.low, peak * part.likely, peak * part.high), False, why


def moved_bytes(plan: Plan) -> float:
    """Bytes of weights, gradients and states that a step reads and writes at least.

    Every forward and backward reads the weights and writes their gradients; the update
    reads the gradients, reads and writes masters and states, and writes the weights.
    """
    memory = plan.memory
    weights = memory.get("weights", 0)
    gradients = memory.get("gradients", 0)
    kept = memory.get("master_weights", 0) + memory.get("optimizer", 0)
    passes = plan.grad_accum * (2 * weights + gradients)
    return passes + gradients + 2 * kept + weights


def _link_time(plan: Plan, machine: Environment) -> LinkTime:
    """What passes between the device and what lies beside it."""
    return link_time(plan, crossings(plan.spec, layout_of(plan)), link_of(machine))


def _exchange_seconds(plan: Plan, profile: HardwareProfile | None) -> float:
    """Seconds in which ranks exchange gradients or weights, were nothing hidden."""
    ranks = plan.world_size
    if ranks == 1 or profile is None or profile.link is None:
        return 0.0
    element = 4 if plan.compute_dtype == "float32" else 2
    whole = plan.parameters * element * (ranks - 1) / ranks
    # A sum over all ranks passes everything twice. Sharded weights are gathered for
    # each forward and each backward, and their gradients are scattered once.
    passes = 2 * plan.grad_accum + 1 if chosen_way(plan.parallel).sharded else 2
    if compresses(plan):
        whole = exchanged_bytes(plan) * (ranks - 1) / ranks
    return passes * whole / profile.link


def _tera(rate: float) -> str:
    """1.2e13 -> 12 TFLOP/s; below one, in GFLOP/s."""
    if rate >= 1e12:
        return f"{rate / 1e12:,.3g} TFLOP/s"
    return f"{rate / 1e9:,.3g} GFLOP/s"


def _seconds(value: float) -> str:
    """Of one step: 0.01234 -> 12.3 ms."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:,.3g} s"
