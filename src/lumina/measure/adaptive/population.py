"""The scenarios, from a seed; the same for everyone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from lumina.errors import LuminaError
from lumina.measure.adaptive.families import FAMILIES, Family, Level
from lumina.measure.adaptive.scenario import HALVES, SEED, SHAPES, Scenario

COUNTS = {"clean": 160, "misconfigured": 140, "fault": 100}
"""Scenarios of each stratum in a half."""

UNSEEN_LEVELS = {"misconfigured": 35, "fault": 20}
"""How many scenarios of the held-out half have a magnitude that only it has."""

UNSEEN_FAMILIES = {"misconfigured": 35, "fault": 30}
"""How many scenarios of the held-out half are of a family that only it has."""

SAMPLE = 80
"""Scenarios of a half that the further arms run."""


def population(half: str, seed: int = SEED) -> list[Scenario]:
    """The 400 scenarios of a half, clean ones first.

    Raises:
        LuminaError: E005 where there is no such half.
    """
    if half not in HALVES:
        raise LuminaError(
            "E005",
            f"the scenarios have no half {half!r}",
            f"choose among {', '.join(HALVES)}",
        )
    draw = random.Random(f"{seed} {half}")
    clean = [_clean(draw, half, number) for number in range(COUNTS["clean"])]
    found = list(clean)
    for stratum in ("misconfigured", "fault"):
        families = [family for family in FAMILIES if family.stratum == stratum]
        old = [(f, level, True) for f in families for level in f.seen]
        new = [(f, level, False) for f in families if f.seen for level in f.unseen]
        other = [
            (f, level, False) for f in families if not f.seen for level in f.unseen
        ]
        counts = _counts(half, stratum)
        kinds = [
            *_in_turn(draw, old, counts[0]),
            *_in_turn(draw, new, counts[1]),
            *_in_turn(draw, other, counts[2]),
        ]
        for number, (family, level, seen) in enumerate(kinds):
            twin = draw.choice([one for one in clean if _suits(family, one)])
            found.append(_wrong(draw, half, number, family, level, seen, twin))
    return found


def _counts(half: str, stratum: str) -> tuple[int, int, int]:
    """Scenarios of known levels, of further levels and of further families."""
    if half == "development":
        return COUNTS[stratum], 0, 0
    levels, families = UNSEEN_LEVELS[stratum], UNSEEN_FAMILIES[stratum]
    return COUNTS[stratum] - levels - families, levels, families


def _in_turn(
    draw: random.Random, kinds: Sequence[tuple[Family, Level, bool]], count: int
) -> list[tuple[Family, Level, bool]]:
    """So many kinds, each family as often as the others, and its levels in turn."""
    by_family: dict[str, list[tuple[Family, Level, bool]]] = {}
    for kind in kinds:
        by_family.setdefault(kind[0].name, []).append(kind)
    names = list(by_family)
    draw.shuffle(names)
    return [
        by_family[name][number // len(names) % len(by_family[name])]
        for number, name in ((n, names[n % len(names)]) for n in range(count))
    ]


def _clean(draw: random.Random, half: str, number: int) -> Scenario:
    id_ = f"{half[0]}-clean-{number:03d}"
    names = list(SHAPES)
    return Scenario(
        id=id_, half=half, stratum="clean", family="clean", level="", seen=True,
        natural=False, twin=id_, shape=names[number % len(names)],
        seed=draw.randrange(2**31), text_at=round(draw.random(), 6),
    )  # fmt: skip


def _suits(family: Family, twin: Scenario) -> bool:
    shape = SHAPES[twin.shape]
    if family.experts:
        return shape.experts > 0
    return not (family.dense and (shape.experts or shape.qk_norm))


def _wrong(
    draw: random.Random,
    half: str,
    number: int,
    family: Family,
    level: Level,
    seen: bool,
    twin: Scenario,
) -> Scenario:
    at = round(draw.uniform(0.3, 0.7), 4)
    faults = tuple(
        {"at": round(at + float(fault.get("later", 0.0)), 4)}
        | {name: value for name, value in fault.items() if name != "later"}
        for fault in level.faults
    )
    return Scenario(
        id=f"{half[0]}-{family.stratum}-{number:03d}", half=half,
        stratum=family.stratum, family=family.name, level=level.words, seen=seen,
        natural=family.natural, twin=twin.id, shape=twin.shape, seed=twin.seed,
        text_at=twin.text_at, settings=dict(level.settings), faults=faults,
        expects=family.expects,
    )  # fmt: skip


def sample(scenarios: Iterable[Scenario], count: int = SAMPLE) -> list[Scenario]:
    """So many of them, with the same shares of the strata, drawn from the seed.

    The families of a stratum take turns, so that each is there if there is room.
    """
    everything = list(scenarios)
    total = len(everything)
    chosen: list[Scenario] = []
    for stratum in COUNTS:
        members = [one for one in everything if one.stratum == stratum]
        draw = random.Random(f"{SEED} sample {stratum}")
        draw.shuffle(members)
        groups: dict[str, list[Scenario]] = {}
        for one in members:
            groups.setdefault(one.family, []).append(one)
        turns = [
            group[turn]
            for turn in range(max(map(len, groups.values()), default=0))
            for group in groups.values()
            if turn < len(group)
        ]
        chosen += turns[: round(count * len(members) / total)] if total else []
    return chosen
