"""Settings for a model on some hardware, with the rows of the matrix behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES, active_features
from lumina.features.measured import BAD, VERIFIED, Row, says_something
from lumina.plan.environment import Environment
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan

STEPS = 1000
"""Of the run that is planned, where its length is not named."""

GOALS = {
    "speed": "the fewest settings that make it fit, the cheapest first",
    "memory": "the least memory that the settings reach",
    "exact": "as speed, of settings that keep every number up to rounding",
}
"""Value of `--goal` -> what is looked for."""


@dataclass(frozen=True)
class Lever:
    """A setting that takes memory away and costs something.

    Attributes:
        feature: what it switches on.
        options: leaves of the configuration.
        exact: whether it keeps every number up to rounding.
        costs: what it costs, in words.
    """

    feature: str
    options: Mapping[str, Any]
    exact: bool
    costs: str


LEVERS = (
    Lever(
        "gradient_checkpointing_full",
        {"gradient_checkpointing": "full"},
        True,
        "blocks are computed twice",
    ),
    Lever(
        "adamw_8bit",
        {"optimizer": "adamw_8bit"},
        False,
        "moments are rounded to 8 bits",
    ),
    Lever(
        "optimizer_states_host",
        {"optimizer_states_in": "host"},
        True,
        "states pass through the link to the host in each step",
    ),
    Lever(
        "optimizer_in_backward",
        {
            "optimizer_in_backward": True,
            "max_grad_norm": 0.0,
            "batch_size": 1,
            "global_batch_size": 1,
        },
        True,
        "one row a step, and no clipping",
    ),
    Lever(
        "activations_host",
        {"activations_in": "host"},
        True,
        "inputs of blocks pass through the link to the host in each step",
    ),
    Lever(
        "chunked_training",
        {"use_chunked_training": True, "compile": False},
        True,
        "rows are worked on in turn, uncompiled",
    ),
)
"""From the one that costs least to the one that costs most."""


@dataclass(frozen=True)
class Recommendation:
    """What is recommended.

    Attributes:
        levers: the settings beyond the model's own, cheapest first.
        plan: of the run with them.
        features: of the plan, that the matrix tries.
        rows: verified rows that it rests on.
        unsupported: features and pairs of them that no verified row has.
        left_out: lever -> why it was not used.
    """

    levers: tuple[Lever, ...]
    plan: Plan
    features: tuple[str, ...]
    rows: tuple[Row, ...]
    unsupported: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The settings as leaves of the configuration."""
        found: dict[str, Any] = {}
        for lever in self.levers:
            found |= lever.options
        return found


def recommend(
    config: Config, machine: Environment, goal: str, rows: Sequence[Row]
) -> Recommendation:
    """Settings with which the model trains on the machine.

    Args:
        config: the model, its context, and whatever else is settled.
        machine: present or not.
        goal: a key of `GOALS`.
        rows: of the matrix.

    Raises:
        LuminaError: E201 or its like where no settings make it fit: of the attempt that
            came nearest.
    """
    left_out = {}
    usable = []
    for lever in LEVERS:
        why = _unusable(lever, config, machine, goal, rows)
        if why:
            left_out[lever.feature] = why
        else:
            usable.append(lever)
    best: tuple[float, tuple[Lever, ...], Plan] | None = None
    refused: LuminaError | None = None
    for levers in _by_cost(usable):
        try:
            plan = _planned(config, machine, levers)
        except LuminaError as error:
            # Of options that do not go together another choice says more.
            if refused is None or error.code.startswith("E2"):
                refused = error
            continue
        if _known_bad(_tried(plan), rows):
            continue
        size = float(plan.memory["expected"])
        if best is None or size < best[0]:
            best = (size, levers, plan)
        if goal != "memory":
            break
    if best is None:
        assert refused is not None
        raise refused
    _, levers, plan = best
    features = _tried(plan)
    behind, unsupported = support(features, rows)
    return Recommendation(levers, plan, features, behind, unsupported, left_out)


def support(
    features: Sequence[str], rows: Iterable[Row]
) -> tuple[tuple[Row, ...], tuple[tuple[str, ...], ...]]:
    """The fewest verified rows found that hold the pairs, and what none holds.

    Args:
        features: of the recommended run.
        rows: of the matrix.

    Returns:
        Rows, those with most of the features first; and single features or pairs.
    """
    left = {
        *((one,) for one in features),
        *combinations(sorted(features), 2),
    }
    verified = [row for row in rows if row["status"] == VERIFIED]
    behind = []
    while True:
        best = max(verified, key=lambda row: len(left & _held(row)), default=None)
        if best is None or not left & _held(best):
            break
        behind.append(best)
        left -= _held(best)
    # A feature that no row has makes all its pairs unsupported: it is said once.
    alone = {one[0] for one in left if len(one) == 1}
    shown = [one for one in left if len(one) == 1 or not alone & set(one)]
    return tuple(behind), tuple(sorted(shown, key=lambda one: (len(one), one)))


def _held(row: Row) -> set[tuple[str, ...]]:
    names = sorted(row["features"])
    return {*((one,) for one in names), *combinations(names, 2)}


def _unusable(
    lever: Lever,
    config: Config,
    machine: Environment,
    goal: str,
    rows: Sequence[Row],
) -> str | None:
    """Why a lever is not used at all, or None."""
    if goal == "exact" and not lever.exact:
        return f"it does not keep every number: {lever.costs}"
    problem = FEATURES[lever.feature].problem(machine)
    if problem:
        return problem
    if _known_bad((lever.feature,), rows):
        return "the matrix found that it differs from the reference, or fails"
    try:
        config.replace(**lever.options)
    except LuminaError as error:
        return error.message
    return None


def _known_bad(features: Sequence[str], rows: Iterable[Row]) -> bool:
    """Whether a row says that some of the features differ or fail together."""
    last: dict[tuple[str, ...], str] = {}
    for row in rows:
        if says_something(row):
            last[tuple(row["features"])] = row["status"]
    names = set(features)
    return any(status in BAD and names.issuperset(one) for one, status in last.items())


def _by_cost(levers: Sequence[Lever]) -> Iterator[tuple[Lever, ...]]:
    """Every choice of levers; one costs more than all cheaper ones together."""
    for number in range(2 ** len(levers)):
        yield tuple(lever for place, lever in enumerate(levers) if number >> place & 1)


def _planned(config: Config, machine: Environment, levers: Sequence[Lever]) -> Plan:
    options: dict[str, Any] = {}
    for lever in levers:
        options |= lever.options
    if "activations_in" in options:
        options["gradient_checkpointing"] = "full"
    return make_plan(
        config.replace(**options),
        machine,
        tokenizer_vocab_size=None,
        rows_per_epoch=None,
        world_size=1,
    )


def _tried(plan: Plan) -> tuple[str, ...]:
    """The features of a Plan that the matrix tries, without what data loading does."""
    return tuple(
        name
        for name in active_features(FEATURES, plan)
        if FEATURES[name].trial is not None and name != "prefetch"
    )
