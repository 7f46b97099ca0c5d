"""Starting points: tables of guidance, and the fits of published runs.

The numbers and their sources stand in guidance.toml. A fit says nothing outside the
range it was made in, so that each answer tells whether it is within.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FAR = 3.0
"""So many times more or less than the table has is worth a word."""


@cache
def tables() -> dict[str, Any]:
    """What stands in guidance.toml."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def rate_for(parameters: float, purpose: str) -> float:
    """The rate of the table for a model of a size.

    Args:
        parameters: of the model.
        purpose: "base" or "finetune".
    """
    row = next(row for row in tables()["rates"] if parameters < row["below"])
    return float(row[purpose])


def batch_for(gib: float, preset: str, purpose: str) -> int | None:
    """Sequences a forward, by the largest listed device that is no larger; or None."""
    fitting = [
        row
        for row in tables()["batches"]
        if row["gib"] <= gib * 1.02 and row["preset"] == preset
    ]
    best = max(fitting, key=lambda row: row["gib"], default=None)
    return None if best is None else int(best[purpose])


def window_for(length: int) -> tuple[int, int]:
    """The least and the most that a sliding window is suggested to have; 0: full.

    It makes attention cheaper, and a layer cannot look further back than it.

    Args:
        length: tokens of a row.
    """
    row = next(row for row in tables()["windows"] if length < row["below"])
    return int(row["tokens"][0]), int(row["tokens"][-1])


def epochs_for(tokens: float) -> int:
    """Passes over this many tokens in which a base model learns from them."""
    rows = [row for row in tables()["epochs"] if "below" in row]
    return int(next(row for row in rows if tokens < row["below"])["epochs"][0])


def stage_for(parameters: float) -> tuple[int, bool]:
    """The stage of ZeRO of the table, and whether states leave the devices.

    By size alone: what a plan counts on the devices that there are decides.

    Args:
        parameters: of the model.
    """
    row = next(row for row in tables()["stages"] if parameters < row["below"])
    return int(row["stage"]), bool(row["offload"])


@dataclass(frozen=True)
class Answer:
    """What a fit says.

    Attributes:
        law: its key in guidance.toml.
        rate: peak learning rate, where it says one.
        batch_tokens: tokens of a step, likewise.
        tokens: of training, likewise.
        within: whether the question is in the range of the fit.
        asked: the quantity the fit is over, and its value, in words.
    """

    law: str
    rate: float | None
    batch_tokens: float | None
    tokens: float | None
    within: bool
    asked: str

    @property
    def source(self) -> str:
        """The paper."""
        return str(tables()["laws"][self.law]["source"])


def answers(
    parameters: float, without_embeddings: float, operations: float, tokens: float
) -> list[Answer]:
    """What each fit says of a run.

    Args:
        parameters: of the model, those that a token uses.
        without_embeddings: the same without embeddings.
        operations: of a token, forward and backward, without the head's.
        tokens: of training.
    """
    compute = operations * tokens
    return [
        _answer(
            "kaplan",
            without_embeddings,
            rate=kaplan_rate(without_embeddings),
            batch_tokens=critical_batch(kaplan_loss(without_embeddings, tokens)),
        ),
        _answer("hoffmann", parameters, tokens=20.0 * parameters),
        _answer(
            "deepseek",
            compute,
            rate=0.3118 * compute**-0.1250,
            batch_tokens=0.2920 * compute**0.3271,
        ),
    ]


def kaplan_rate(without_embeddings: float) -> float | None:
    """Equation D.1 of arXiv:2001.08361; None where it is not above 0."""
    found = 0.003239 - 0.0001395 * math.log(without_embeddings)
    return found if found > 0 else None


def kaplan_loss(without_embeddings: float, tokens: float) -> float:
    """The loss of equation 1.5 of arXiv:2001.08361, in nats per token."""
    by_size = (6.4e13 / without_embeddings) ** (0.076 / 0.103)
    return float((by_size + 1.8e13 / tokens) ** 0.103)


def critical_batch(loss: float) -> float:
    """Tokens of a step beyond which more of them save few steps: equation 1.4."""
    return float(2e8 / loss ** (1 / 0.21))


def _answer(
    law: str,
    value: float,
    *,
    rate: float | None = None,
    batch_tokens: float | None = None,
    tokens: float | None = None,
) -> Answer:
    entry = tables()["laws"][law]
    within = entry["least"] <= value <= entry["most"]
    asked = f"{value:.3g} {entry['of']}"
    return Answer(law, rate, batch_tokens, tokens, within, asked)


def far_from(value: float, table: float, name: str) -> str | None:
    """A sentence where a value is far from that of the table."""
    if table / FAR <= value <= table * FAR:
        return None
    return f"{name} {value:.3g} is far from the {table:.3g} of the table for this size"
