"""Ranks of a run that are unlike: one that is slow, one that sends slowly, a full one.

They read what the look `ranks` writes into some rows, in which all ranks have the same
figures, so that a rule which changes the run may use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lumina.plan.plan import Plan
from lumina.quantities import byte_size
from lumina.quantities import share as in_percent
from lumina.train.health.check import Alarm, Check, median, number, register_check

ROWS = 5
"""Rows with times of the ranks of which the shortest are taken: other work on a machine
makes a step slower now and then and never faster, and what is slow by itself is slow in
all of them."""

FEW_ROWS = 3
"""Rows with bytes of the ranks of which the medians are taken."""

COSTS = 0.2
"""Share of a step that waiting or exchanging has to take to be worth telling."""

APART = 3.0
"""How many times slower a rank is than the others where it is named for it."""


class OfRanks(Check):
    """Keeps the latest figures of each rank, and the time of the steps between.

    Attributes:
        keys: of the figures in a row.
        rows: with the figures that are looked at together.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    rows: ClassVar[int] = ROWS

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.reads_every = plan.measures.get("ranks", 1)

    def of_rows(self, figures: Sequence[float]) -> float:
        """One figure out of those that a rank has in the rows: the shortest time."""
        return min(figures)

    def see(self, row: Mapping[str, Any]) -> Alarm | None:
        """Look at some rows together; the first row of a run does not count.

        What a start takes longer on one rank than on another is in that row.
        """
        memory = self.memory
        if (seconds := number(row, "agreed_step_seconds")) is not None:
            self.keep("seconds", seconds, 50)
        if any(key not in row for key in self.keys):
            return None
        seen = memory["seen"] = memory.get("seen", 0) + 1
        if seen == 1:
            return None
        rows = {key: self.keep(key, list(row[key]), self.rows) for key in self.keys}
        if len(rows[self.keys[0]]) < self.rows or not memory.get("seconds"):
            return None
        if len({len(figures) for some in rows.values() for figures in some}) > 1:
            return None  # the run went on with another number of ranks
        middle = {
            key: [self.of_rows(of_rank) for of_rank in zip(*some, strict=True)]
            for key, some in rows.items()
        }
        return self.judged(middle, median(memory["seconds"]))

    def judged(
        self, figures: Mapping[str, Sequence[float]], seconds: float
    ) -> Alarm | None:
        """What is to be said.

        Args:
            figures: key -> the figure of each rank.
            seconds: of a step.
        """
        raise NotImplementedError


def others(figures: Sequence[float], rank: int) -> float:
    """The median of all ranks but one; of the lower half where there are two."""
    return median([x for at, x in enumerate(figures) if at != rank])


def milliseconds(seconds: float) -> str:
    """A short time, in words."""
    return f"{seconds * 1e3:.3g} ms"


@register_check
class UnequalRanks(OfRanks):
    """A rank that the others wait for, because it needs longer for its part."""

    name = "unequal_ranks"
    penalty = 10
    prior = 0.75
    keys = ("ranks.wait_seconds", "ranks.product_seconds")
    rule = (
        "with several processes, by the shortest of 5 rows with `ranks.wait_seconds`: "
        "the other processes wait for one for more than 20% of a step, and more than 3 "
        "times as long as it waits itself"
    )

    def judged(
        self, figures: Mapping[str, Sequence[float]], seconds: float
    ) -> Alarm | None:
        """The rank that waits least is the one that the others wait for."""
        waits, products = (figures[key] for key in self.keys)
        slow = min(range(len(waits)), key=lambda rank: (waits[rank], rank))
        usual = others(waits, slow)
        lost = (usual - waits[slow]) / seconds
        if lost <= COSTS or usual <= APART * waits[slow]:
            return None
        lost = min(lost, 1.0)
        times = products[slow] / max(others(products, slow), 1e-9)
        if times > 1.5:
            why = (
                f"a product that all ranks compute alike takes it {times:.1f} times as "
                "long as the others, so its device is slow: look for other programs on "
                "it, for a low clock or for heat, or leave it out"
            )
        else:
            why = (
                "it multiplies as fast as the others, so it has more to do: look at "
                "what reads its data and at other programs on its machine"
            )
        return Alarm(
            f"the other processes wait for rank {slow} for {in_percent(lost)} of a "
            f"step ({milliseconds(usual)}), so that they are busy "
            f"{in_percent(1 - lost)} of the time; {why}. No setting moves work from "
            "one process to another: each has the same number of rows",
            {
                "rank": slow,
                "waits": waits[slow],
                "others_wait": usual,
                "product_times": times,
                "lost": lost,
            },
            confidence=self.sure(lost / COSTS),
        )


@register_check
class SlowExchange(OfRanks):
    """Exchanges between processes that take much of a step."""

    name = "slow_exchange"
    penalty = 10
    prior = 0.75
    keys = ("ranks.exchange_seconds", "ranks.link_seconds")
    rule = (
        "with several processes, by the shortest of 5 rows with "
        "`ranks.exchange_seconds`: adding up all gradients takes more than 20% of a "
        "step. A link is named where it is more than 3 times as slow as the others"
    )

    def judged(
        self, figures: Mapping[str, Sequence[float]], seconds: float
    ) -> Alarm | None:
        """How much of a step an exchange takes, and where it is slow."""
        exchanges, links = (figures[key] for key in self.keys)
        # All ranks end together; one that came late measures less than it takes.
        needed = max(exchanges)
        part = needed / seconds
        if part <= COSTS:
            return None
        slow = max(range(len(links)), key=lambda rank: (links[rank], -rank))
        usual = others(links, slow)
        evidence = {
            "exchange_seconds": needed,
            "share": part,
            "slowest_link_seconds": links[slow],
            "usual_link_seconds": usual,
        }
        text = (
            f"to add up the gradients of all processes takes {milliseconds(needed)}, "
            f"where a step takes {milliseconds(seconds)}"
        )
        if links[slow] > APART * usual:
            to = (slow + 1) % len(links)
            evidence["rank"] = slow
            text += (
                f": what rank {slow} sends to rank {to} takes "
                f"{links[slow] / usual:.0f} times as long as between the others "
                f"({milliseconds(links[slow])} for 256 KiB). Look at the network of "
                f"rank {slow}, or leave its machine out"
            )
        else:
            text += (
                f": all links are about alike ({milliseconds(usual)} for 256 KiB). "
                "More rows in a step (--global-batch-size) are fewer exchanges"
            )
        return Alarm(text, evidence, confidence=self.sure(part / COSTS))


@register_check
class MemoryImbalance(OfRanks):
    """A rank that has nearly filled its memory where the others have not."""

    name = "memory_imbalance"
    penalty = 10
    prior = 0.8
    keys = ("ranks.memory_bytes", "ranks.memory_limit_bytes")
    rows = FEW_ROWS
    high, more, full = 0.85, 1.25, 1.0
    rule = (
        "with several processes, by the medians of 3 rows with `ranks.memory_bytes`: "
        "one has more than 85% of its memory in use, and more than 1.25 times the "
        "share of the others; the confidence is 0.8 at 85% and 1 at 100%"
    )

    def of_rows(self, figures: Sequence[float]) -> float:
        """The middle one: memory is no time, which chance makes only longer."""
        return median(figures)

    def judged(
        self, figures: Mapping[str, Sequence[float]], seconds: float
    ) -> Alarm | None:
        """The rank that is fullest, and whether it has less or uses more."""
        used, limits = (figures[key] for key in self.keys)
        shares = [a / max(b, 1.0) for a, b in zip(used, limits, strict=True)]
        fullest = max(range(len(shares)), key=lambda rank: (shares[rank], -rank))
        share, usual = shares[fullest], others(shares, fullest)
        if share <= self.high or share <= self.more * usual:
            return None
        risk = min((share - self.high) / (self.full - self.high), 1.0)
        less = limits[fullest] < others(limits, fullest) / 1.1
        why = (
            f"it has {byte_size(limits[fullest])}, and the others "
            f"{byte_size(others(limits, fullest))}"
            if less
            else f"it uses {byte_size(used[fullest])}, and the others "
            f"{byte_size(others(used, fullest))}"
        )
        return Alarm(
            f"rank {fullest} has {in_percent(share)} of its memory in use, and the "
            f"others {in_percent(usual)}: {why}. All processes have the same number of "
            "rows in a forward, so the smallest memory decides how many",
            {
                "rank": fullest,
                "used": share,
                "others_used": usual,
                "limit": limits[fullest],
                "others_limit": others(limits, fullest),
            },
            confidence=self.prior + (1 - self.prior) * risk,
        )
