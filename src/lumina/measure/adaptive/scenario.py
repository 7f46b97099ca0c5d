"""One run of the benchmark: a small model, a text, a seed and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SEED = 20261129
"""Of the population. Changing it makes another benchmark."""

STEPS, ROWS, LENGTH = 160, 8, 64
"""Of a run with the competent batch: steps, rows of a step, tokens of a row."""

BUDGET = STEPS * ROWS * LENGTH
"""Tokens that every run trains on, whatever its batch."""

HALVES = ("development", "held-out")


@dataclass(frozen=True)
class Shape:
    """A model of the population.

    Attributes:
        hidden: its width.
        layers: its blocks.
        heads: of its attention.
        experts: in each block; 0: it is dense.
        qk_norm: whether queries and keys are normalised.
    """

    hidden: int
    layers: int
    heads: int
    experts: int = 0
    qk_norm: bool = False


SHAPES: Mapping[str, Shape] = {
    "narrow": Shape(64, 2, 4),
    "wide": Shape(96, 2, 4),
    "deep": Shape(64, 3, 4),
    "deeper": Shape(48, 4, 4, qk_norm=True),
    "four-experts": Shape(64, 2, 4, experts=4),
    "eight-experts": Shape(48, 2, 4, experts=8),
}
"""By name; each has its own tuned rate."""


@dataclass(frozen=True)
class Scenario:
    """A run before an arm is chosen.

    Attributes:
        id: unique in both halves.
        half: "development" or "held-out".
        stratum: "clean", "misconfigured" or "fault".
        family: what is wrong, such as "learning_rate"; "clean" where nothing is.
        level: how much, in words, for tables.
        seen: the development half has this family and this level, too.
        natural: nothing is injected, and where trouble begins is not known.
        twin: id of the clean scenario with the same shape, text and seed; its own where
            it is clean.
        shape: a name of `SHAPES`.
        seed: of weights.
        text_at: where its piece of text begins, as a share of the half's text.
        settings: what it sets otherwise than a competent run does; see `Recipe`.
        faults: what happens to the run; each has a "kind" and an "at", the share of the
            run after which it happens.
        expects: kinds of alarms that would be right.
    """

    id: str
    half: str
    stratum: str
    family: str
    level: str
    seen: bool
    natural: bool
    twin: str
    shape: str
    seed: int
    text_at: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    expects: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {
            "faults": [dict(one) for one in self.faults],
            "expects": list(self.expects),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scenario:
        """The inverse of `to_dict`."""
        tuples = {name: tuple(values[name]) for name in ("faults", "expects")}
        return cls(**(dict(values) | tuples))


@dataclass(frozen=True)
class Recipe:
    """Every setting of a run, in words that any trainer has.

    Attributes:
        shape: the model.
        seed: of its weights.
        steps: of the optimizer.
        rows: of a step.
        length: tokens of a row.
        learning_rate: the peak.
        end_share: the last rate over the peak; the rate falls along a cosine.
        warmup: share of the steps in which the rate rises.
        clip: of the global gradient norm; 0: none.
        weight_decay: decoupled.
        beta2: Adam's second decay rate.
        eps: Adam's epsilon.
        init_std: spread of the initial weights.
        embedding_rate: factor on the embedding's rate.
        balance: weight of the loss that balances experts.
        checkpoints: steps between checkpoints; 0: none.
        restarts: how often a run that died is resumed.
        evaluations: steps between evaluations.
        robust_clip: gradient norms that stand out are clipped.
        skip_step: steps of which the gradient norm stands out are left out.
        adaptive: "off", "shadow" or "on".
        without: interventions that the orchestrator may not use.
        experience: a file with what earlier runs have taught; "": none.
    """

    shape: Shape
    seed: int
    learning_rate: float
    steps: int = STEPS
    rows: int = ROWS
    length: int = LENGTH
    end_share: float = 0.1
    warmup: float = 0.0
    clip: float = 0.0
    weight_decay: float = 0.01
    beta2: float = 0.95
    eps: float = 1e-8
    init_std: float = 0.02
    embedding_rate: float = 1.0
    balance: float = 0.01
    checkpoints: int = 0
    restarts: int = 0
    evaluations: int = STEPS // 20
    robust_clip: bool = False
    skip_step: bool = False
    adaptive: str = "off"
    without: tuple[str, ...] = ()
    experience: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.length
