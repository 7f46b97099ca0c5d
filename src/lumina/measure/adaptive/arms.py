"""The arms: how a scenario's settings become those of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.measure.adaptive.scenario import (
    BUDGET,
    LENGTH,
    ROWS,
    SHAPES,
    STEPS,
    Recipe,
    Scenario,
)

TUNED = Path(__file__).with_name("competent.json")
"""Peak rate of each shape and the warm-up, tuned on the development half."""

RESTARTS = 3
COMPETENT: dict[str, Any] = {
    "clip": 1.0,
    "checkpoints": STEPS // 8,
    "restarts": RESTARTS,
}
"""Beside the tuned warm-up."""

ADAPTIVE: dict[str, Any] = COMPETENT | {"adaptive": "on"}


@dataclass(frozen=True)
class Arm:
    """One way to run every scenario.

    Attributes:
        name: on the command line.
        words: what it has.
        settings: of `Recipe`, under those of the scenario.
        every: it runs all scenarios of a half, not a sample.
        warm: its rate rises over the tuned share of steps.
        probes: factors on the rate that are tried before the run, at its expense.
        best_of: factors on the rate of which the best run counts, at no expense.
        clean: what is wrong is removed.
        learns: it remembers runs of the other families.
    """

    name: str
    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    every: bool = False
    warm: bool = True
    probes: tuple[float, ...] = ()
    best_of: tuple[float, ...] = ()
    clean: bool = False
    learns: bool = False


INTERVENTIONS = (
    "restart_lower_rate",
    "rollback",
    "lower_rate",
    "raise_rate",
    "tighter_clip",
    "reset_moments",
)
"""What an ablation takes from the orchestrator, one at a time."""

ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("naive", "the given settings alone", every=True, warm=False),
        Arm("competent", "warm-up, clip, checkpoints, restarts", COMPETENT, every=True),
        Arm("orchestrator", "competent, and --adaptive on", ADAPTIVE, every=True),
        Arm(
            "shadow",
            "competent, and --adaptive shadow",
            ADAPTIVE | {"adaptive": "shadow"},
        ),
        Arm(
            "robust-clip",
            "competent, and robust clipping",
            COMPETENT | {"robust_clip": True},
        ),
        Arm(
            "skip-step",
            "competent, and outlying steps left out",
            COMPETENT | {"skip_step": True},
        ),
        Arm(
            "rate-search",
            "the best of four rates",
            COMPETENT,
            probes=(0.1, 0.3, 1.0, 3.0),
        ),
        Arm("orchestrator-warm", "orchestrator with a memory", ADAPTIVE, learns=True),
        Arm(
            "oracle",
            "what is wrong removed, best of three rates",
            COMPETENT,
            best_of=(0.7, 1.0, 1.4),
            clean=True,
        ),
        *(
            Arm(
                f"without-{name}",
                f"orchestrator without {name}",
                ADAPTIVE | {"without": (name,)},
            )
            for name in INTERVENTIONS
        ),
    )
}


def arm_named(name: str) -> Arm:
    """The arm of a name.

    Raises:
        LuminaError: E005, with those that there are.
    """
    if name not in ARMS:
        raise LuminaError(
            "E005", f"there is no arm {name!r}", f"choose among {', '.join(ARMS)}"
        )
    return ARMS[name]


@cache
def tuned(path: Path = TUNED) -> Mapping[str, Any]:
    """What the competent arm was tuned to: "rates" by shape, and "warmup".

    Raises:
        LuminaError: E101 where it is not tuned yet.
    """
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise LuminaError(
            "E101", f"{path} is missing", "run `lumina bench adaptive tune`"
        ) from error
    return found


def recipe(
    scenario: Scenario,
    arm: Arm,
    *,
    factor: float = 1.0,
    found: Mapping[str, Any] | None = None,
) -> Recipe:
    """The settings of a scenario's run under an arm.

    Args:
        scenario: what is wrong.
        arm: what is done about it.
        factor: on the rate, for probes.
        found: of `tuned`, which is read where it is absent.
    """
    found = tuned() if found is None else found
    settings: dict[str, Any] = dict(arm.settings)
    settings["warmup"] = found["warmup"] if arm.warm else 0.0
    wrong = {} if arm.clean else dict(scenario.settings)
    factor *= wrong.pop("rate_factor", 1.0)
    rows = round(ROWS * wrong.pop("batch_factor", 1.0))
    settings |= wrong
    steps = BUDGET // (rows * LENGTH)
    if settings.get("checkpoints"):
        settings["checkpoints"] = max(1, steps // 8)
    return Recipe(
        shape=SHAPES[scenario.shape],
        seed=scenario.seed,
        learning_rate=min(1.0, found["rates"][scenario.shape] * factor),
        steps=steps,
        rows=rows,
        evaluations=max(1, steps // 20),
        **settings,
    )


def shortened(whole: Recipe, steps: int) -> Recipe:
    """The same run in this many steps."""
    every = max(1, steps // 8) if whole.checkpoints else 0
    return replace(whole, steps=steps, checkpoints=every)


def faults_of(scenario: Scenario, arm: Arm, steps: int) -> tuple[dict[str, Any], ...]:
    """What happens to the run, with "step" in place of "at"."""
    if arm.clean:
        return ()
    return tuple(
        {name: value for name, value in fault.items() if name != "at"}
        | {"step": round(fault["at"] * steps)}
        for fault in scenario.faults
    )
