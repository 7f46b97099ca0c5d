"""Settings for a model on some hardware, with the rows of the matrix behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES, active_features
from lumina.features.measured import BAD, VERIFIED, Row, says_something
from lumina.model.kinds.table import why_not
from lumina.parallel.sizes import Sizes
from lumina.plan.decisions import asked_for
from lumina.plan.environment import Environment
from lumina.plan.fine_tuning import fine_tuning
from lumina.plan.layout_choice import smallest_estimate
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.plan.shape import resolve_spec
from lumina.quantities import byte_size
from lumina.train.matrix.levers import LEVERS, Lever, by_cost

STEPS = 1000
"""Of the run that is planned, where its length is not named."""

GOALS = {
    "speed": "the fewest settings that make it fit, the cheapest first",
    "memory": "the least memory that the settings reach",
    "exact": "as speed, of settings that keep every number up to rounding",
}
"""Value of `--goal` -> what is looked for."""

ENOUGH = 2**60
"""Bytes that every model fits into."""

WEIGHTS = "WEIGHTS"
"""What stands for weights of the model's shape that are not there yet."""

_LOOKED_AT = 8
"""Attempts without success, those with most settings, of which the nearest is told."""

ADAPTERS = {"init_from": WEIGHTS, "use_peft": True, "load_in_4bit": True}


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
        options: the settings as leaves of the configuration.
    """

    levers: tuple[Lever, ...]
    plan: Plan
    features: tuple[str, ...]
    rows: tuple[Row, ...]
    unsupported: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """What settings are looked for, and where."""

    config: Config
    machine: Environment
    goal: str
    rows: Sequence[Row]
    vocab_size: int | None

    @property
    def devices(self) -> int:
        """How many train together."""
        return self.config.processes

    def options(self, levers: Sequence[Lever]) -> dict[str, Any]:
        """The leaves of several levers."""
        found: dict[str, Any] = {}
        for lever in levers:
            found |= lever.options
        if "global_batch_size" in found:  # a row on each device
            found["global_batch_size"] = self.devices
        return found

    def planned(self, levers: Sequence[Lever], machine: Environment) -> Plan:
        """The plan with these levers."""
        return make_plan(
            self.config.replace(**self.options(levers)),
            machine,
            tokenizer_vocab_size=self.vocab_size,
            rows_per_epoch=None,
            world_size=self.devices,
        )

    def least(self, levers: Sequence[Lever]) -> int:
        """Bytes on a device of the smallest step with these levers."""
        config = self.config.replace(**self.options(levers))
        spec = resolve_spec(config, self.vocab_size)
        return smallest_estimate(config, self.machine, spec, self.devices)["bound"]


def recommend(
    config: Config,
    machine: Environment,
    goal: str,
    rows: Sequence[Row],
    vocab_size: int | None = None,
) -> Recommendation:
    """Settings with which the model trains on the machine.

    What is asked for in the configuration stays as it is.

    Args:
        config: the model, its context, and whatever else is settled; as many devices
            train together as it has processes.
        machine: present or not.
        goal: a key of `GOALS`.
        rows: of the matrix.
        vocab_size: tokens of the tokenizer; None: the configuration says it.

    Raises:
        LuminaError: E201 or its like where no settings make it fit: of the attempt that
            needs least.
    """
    machine = replace(machine, local_processes=config.processes)
    asked = _Asked(config, machine, goal, rows, vocab_size)
    left_out = {}
    usable = []
    for lever in LEVERS:
        if "parallel" in lever.options and config.processes == 1:
            continue
        why = _unusable(lever, asked)
        if why:
            left_out[lever.feature] = why
        else:
            usable.append(lever)
    best: tuple[float, tuple[Lever, ...], Plan] | None = None
    refused: list[tuple[tuple[Lever, ...], LuminaError]] = []
    for levers in by_cost(usable):
        try:
            plan = asked.planned(levers, machine)
        except LuminaError as error:
            refused.append((levers, error))
            continue
        if _known_bad(_tried(plan), rows):
            continue
        size = float(plan.memory["expected"])
        if best is None or size < best[0]:
            best = (size, levers, plan)
        if goal != "memory":
            break
    if best is None:
        raise _nearest(refused, asked)
    _, levers, plan = best
    features = _tried(plan)
    behind, unsupported = support(features, rows, machine.device)
    return Recommendation(
        levers, plan, features, behind, unsupported, left_out, asked.options(levers)
    )


def as_tuned(config: Config, devices: int) -> Config:
    """The settings with those that a fine-tuning takes where none were chosen.

    A preset's rate and batch are for random weights. `lumina train` changes them where
    it begins with trained ones, and so does what is recommended for them.

    Args:
        config: with `init_from`, or from random weights, which leaves it as it is.
        devices: that train together.
    """
    if config.train.init_from is None:
        return config
    spec = resolve_spec(config, None)
    if why_not(spec, "fine_tuning"):
        return config
    ranks = Sizes.of(devices).data
    return fine_tuning(config, spec, rows_per_epoch=None, data_ranks=ranks)


def support(
    features: Sequence[str], rows: Iterable[Row], device: str = ""
) -> tuple[tuple[Row, ...], tuple[tuple[str, ...], ...]]:
    """The fewest verified rows found that hold the pairs, and what none holds.

    Args:
        features: of the recommended run.
        rows: of the matrix.
        device: its kind; rows of it are taken before those of others.

    Returns:
        Rows, those with most of the features first; and single features or pairs.
    """
    left = {
        *((one,) for one in features),
        *combinations(sorted(features), 2),
    }
    verified = [row for row in rows if row["status"] == VERIFIED]
    here = [row for row in verified if row["hardware"]["device"] == device]
    behind = []
    for group in (here, verified):
        while best := _most(group, left):
            behind.append(best)
            left -= _held(best)
    # A feature that no row has makes all its pairs unsupported: it is said once.
    alone = {one[0] for one in left if len(one) == 1}
    shown = [one for one in left if len(one) == 1 or not alone & set(one)]
    return tuple(behind), tuple(sorted(shown, key=lambda one: (len(one), one)))


def _most(rows: Sequence[Row], left: set[tuple[str, ...]]) -> Row | None:
    """The row that holds most of what is left; of equal ones that with least beside."""

    def worth(row: Row) -> tuple[int, int]:
        return len(left & _held(row)), -len(row["features"])

    best = max(rows, key=worth, default=None)
    return best if best is not None and left & _held(best) else None


def _nearest(
    refused: Sequence[tuple[tuple[Lever, ...], LuminaError]], asked: _Asked
) -> LuminaError:
    """Of attempts without success, why the one failed that needs least, and what would.

    Options that do not go together say less than a lack of memory.
    """
    if not refused:
        return LuminaError(
            "E002",
            "lumina matrix found every choice of settings that fits to differ from its "
            "reference, or to fail",
            "`lumina matrix --pairs --only FEATURES` tries them again here",
        )
    short = [one for one in refused if one[1].code.startswith("E2")]
    if not short:
        return refused[0][1]
    most = sorted(short, key=lambda one: -len(one[0]))[:_LOOKED_AT]
    levers, error = min(most, key=lambda one: asked.least(one[0]))
    hints = [error.hint] if error.hint else []
    config = asked.config
    if not config.adapters.use_peft:
        source = config.get("init_from") or WEIGHTS
        beside = config.replace(**ADAPTERS | {"init_from": source})
        beside = as_tuned(beside, asked.devices)
        try:
            found = recommend(beside, asked.machine, asked.goal, asked.rows)
        except LuminaError:
            pass
        else:
            need = byte_size(found.plan.memory["bound"])
            hints.append(
                "--use-peft --load-in-4bit trains adapters beside frozen weights in "
                f"{need}"
            )
    used = ", ".join(lever.feature for lever in levers) or "none"
    message = f"{error.message}; settings that save memory and were used: {used}"
    return LuminaError(error.code, message, "; or ".join(hints))


def _held(row: Row) -> set[tuple[str, ...]]:
    names = sorted(row["features"])
    return {*((one,) for one in names), *combinations(names, 2)}


def _unusable(lever: Lever, asked: _Asked) -> str | None:
    """Why a lever is not used at all, or None."""
    config = asked.config
    if asked.goal == "exact" and not lever.exact:
        return f"it does not keep every number: {lever.costs}"
    problem = FEATURES[lever.feature].problem(asked.machine)
    if problem:
        return problem
    for leaf, value in lever.options.items():
        if asked_for(config, leaf) and config.get(leaf) != value:
            return f"{leaf} is set to {config.get(leaf)}"
    if lever.instead_of and config.train.optimizer != lever.instead_of:
        return f"it is for the optimizer {lever.instead_of}"
    if _known_bad((lever.feature,), asked.rows):
        return "the matrix found that it differs from the reference, or fails"
    large = replace(asked.machine, memory_bytes=ENOUGH, host_memory_bytes=ENOUGH)
    why = None
    # Some need another one beside them: weights that train, states on the host.
    for beside in (None, *(other for other in LEVERS if other != lever)):
        levers = (lever,) if beside is None else (lever, beside)
        try:
            plan = asked.planned(levers, large)
        except LuminaError as error:
            why = why or error.message
            continue
        if lever.feature in active_features(FEATURES, plan):
            return None
        why = why or "the plan does without it here"
    return why


def _known_bad(features: Sequence[str], rows: Iterable[Row]) -> bool:
    """Whether a row says that some of the features differ or fail together."""
    last: dict[tuple[str, ...], str] = {}
    for row in rows:
        if says_something(row):
            last[tuple(row["features"])] = row["status"]
    names = set(features)
    return any(status in BAD and names.issuperset(one) for one, status in last.items())


def _tried(plan: Plan) -> tuple[str, ...]:
    """The features of a Plan that the matrix tries, without what data loading does."""
    return tuple(
        name
        for name in active_features(FEATURES, plan)
        if FEATURES[name].trial is not None and name != "prefetch"
    )
