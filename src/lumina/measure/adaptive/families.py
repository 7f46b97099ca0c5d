"""What may be wrong with a run: the families, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Level:
    """How much is wrong.

    Attributes:
        words: for tables.
        settings: of `Recipe`; "rate_factor" and "batch_factor" multiply.
        faults: what is injected, each with its kind.
    """

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Family:
    """One way in which a run is wrong.

    Attributes:
        name: of the family.
        stratum: "misconfigured" or "fault".
        seen: levels that both halves have; empty for a family of the held-out half.
        unseen: levels of the held-out half alone.
        expects: kinds of alarms that would be right.
        experts: only models with experts can have it.
        dense: only models without experts and without normalised queries have it.
        natural: nothing is injected, and where trouble begins is not known.
    """

    name: str
    stratum: str
    seen: tuple[Level, ...] = ()
    unseen: tuple[Level, ...] = ()
    expects: tuple[str, ...] = ()
    experts: bool = False
    dense: bool = False
    natural: bool = False


def _set(name: str, *values: Any, words: str = "{}") -> tuple[Level, ...]:
    """Levels that differ in one setting."""
    return tuple(Level(words.format(value), {name: value}) for value in values)


def _event(kind: str, words: str, **details: Any) -> Level:
    """A level with one fault."""
    return Level(words, {}, ({"kind": kind, **details},))


INSTABLE = (
    "loss_spike",
    "severe_loss_spike",
    "divergence",
    "nonfinite",
    "exploding_gradients",
    "oscillation",
    "attention_logits",
)
SLOW = ("slow_learning", "plateau", "vanishing_gradients")
DATA = (*INSTABLE, "repeated_data", "forgetting", "overfitting")
ROUTING = ("expert_imbalance", "dead_experts")
RESTART = ("restart",)

FAMILIES = (
    # Misconfigured, in both halves.
    Family(
        "rate_too_low",
        "misconfigured",
        _set("rate_factor", 0.1, 0.3, words="x {}"),
        _set("rate_factor", 0.03, 0.2, words="x {}"),
        SLOW,
    ),
    Family(
        "rate_too_high",
        "misconfigured",
        _set("rate_factor", 3, 10, 30, words="x {}"),
        _set("rate_factor", 5, 20, 100, words="x {}"),
        (*INSTABLE, *SLOW),
    ),
    Family(
        "no_warmup",
        "misconfigured",
        (
            Level("none", {"warmup": 0.0}),
            Level("none, x 3", {"warmup": 0.0, "rate_factor": 3}),
        ),
        (Level("none, x 5", {"warmup": 0.0, "rate_factor": 5}),),
        (*INSTABLE, *SLOW),
    ),
    Family(
        "epsilon",
        "misconfigured",
        _set("eps", 1e-4, 1e-2),
        _set("eps", 1e-3, 1e-1),
        SLOW,
    ),
    Family(
        "beta2",
        "misconfigured",
        _set("beta2", 0.5, 0.9999),
        _set("beta2", 0.2, 0.99999),
        (*INSTABLE, *SLOW),
    ),
    Family(
        "initial_weights",
        "misconfigured",
        _set("init_std", 0.002, 0.2),
        _set("init_std", 0.0005, 0.5),
        (*INSTABLE, *SLOW),
    ),
    Family(
        "batch",
        "misconfigured",
        _set("batch_factor", 0.25, 4, words="x {}"),
        _set("batch_factor", 0.5, 8, words="x {}"),
        (*SLOW, "oscillation"),
    ),
    Family(
        "no_balance",
        "misconfigured",
        _set("balance", 0.0),
        (Level("0, x 3", {"balance": 0.0, "rate_factor": 3}),),
        (*ROUTING, *INSTABLE),
        experts=True,
    ),
    # Misconfigured, in the held-out half alone.
    Family(
        "weight_decay",
        "misconfigured",
        (),
        _set("weight_decay", 3.0, 10.0),
        (*SLOW, *INSTABLE),
    ),
    Family(
        "no_decay",
        "misconfigured",
        (),
        _set("end_share", 1.0),
        ("plateau", "oscillation", "slow_learning"),
    ),
    Family("long_warmup", "misconfigured", (), _set("warmup", 0.5, 0.8), SLOW),
    Family(
        "natural_no_qk_norm",
        "misconfigured",
        (),
        (
            Level(
                "rate x 6, wide initial weights", {"rate_factor": 6, "init_std": 0.06}
            ),
            Level("rate x 12, no clip", {"rate_factor": 12, "clip": 0.0}),
        ),
        dense=True,
        natural=True,
    ),
    Family(
        "natural_late_spikes",
        "misconfigured",
        (),
        (
            Level(
                "embedding rate x 20, beta2 0.999",
                {"embedding_rate": 20.0, "beta2": 0.999},
            ),
            Level(
                "rate x 4, beta2 0.9995, no clip",
                {"rate_factor": 4, "beta2": 0.9995, "clip": 0.0},
            ),
        ),
        natural=True,
    ),
    Family(
        "natural_small_batch_high_rate",
        "misconfigured",
        (),
        (Level("batch x 0.5, rate x 4", {"batch_factor": 0.5, "rate_factor": 4}),),
        natural=True,
    ),
    # Faults, in both halves.
    Family(
        "nan_batch",
        "fault",
        (
            _event("nan_batch", "1 step", steps=1),
            _event("nan_batch", "3 steps", steps=3),
        ),
        (_event("nan_batch", "8 steps", steps=8),),
        DATA,
    ),
    Family(
        "repeated_words",
        "fault",
        (
            _event("repeated_words", "4 steps", steps=4),
            _event("repeated_words", "10 steps", steps=10),
        ),
        (_event("repeated_words", "20 steps", steps=20),),
        DATA,
    ),
    Family(
        "gradient_factor",
        "fault",
        (
            _event("gradient_factor", "x 1000", factor=1000.0, steps=1),
            _event("gradient_factor", "x 1000, 3 steps", factor=1000.0, steps=3),
        ),
        (
            _event("gradient_factor", "x 1e6", factor=1e6, steps=1),
            _event("gradient_factor", "x 30, 10 steps", factor=30.0, steps=10),
        ),
        INSTABLE,
    ),
    Family(
        "sigkill",
        "fault",
        (_event("sigkill", "once"),),
        (_event("sigkill", "twice", times=2),),
        RESTART,
    ),
    Family(
        "hang",
        "fault",
        (_event("sigstop", "SIGSTOP"),),
        (_event("sigstop", "SIGSTOP twice", times=2),),
        RESTART,
    ),
    Family(
        "damaged_checkpoint",
        "fault",
        (_event("damaged_checkpoint", "a byte", how="byte"),),
        (_event("damaged_checkpoint", "cut short", how="cut"),),
        RESTART,
    ),
    Family(
        "expert_bias",
        "fault",
        (_event("expert_bias", "x 30", factor=30.0),),
        (_event("expert_bias", "x 300", factor=300.0),),
        (*ROUTING, *INSTABLE),
        experts=True,
    ),
    # Faults, in the held-out half alone.
    Family(
        "noise",
        "fault",
        (),
        (_event("noise", "8 steps", steps=8), _event("noise", "20 steps", steps=20)),
        DATA,
    ),
    Family(
        "same_document",
        "fault",
        (),
        (_event("same_document", "20 steps", steps=20),),
        DATA,
    ),
    Family(
        "abort",
        "fault",
        (),
        (_event("sigabrt", "SIGABRT"), _event("exception", "exception")),
        RESTART,
    ),
    Family(
        "flipped_bit",
        "fault",
        (),
        (_event("flipped_bit", "a weight x 2^40"),),
        INSTABLE,
    ),
    Family(
        "lost_moments",
        "fault",
        (),
        (_event("lost_moments", "second moments 0"),),
        INSTABLE,
    ),
    Family(
        "wrong_sign",
        "fault",
        (),
        (_event("gradient_factor", "x -1, 8 steps", factor=-1.0, steps=8),),
        INSTABLE,
    ),
    Family(
        "two_faults",
        "fault",
        (),
        (
            Level(
                "x 1000, SIGKILL later",
                {},
                (
                    {"kind": "gradient_factor", "factor": 1000.0, "steps": 1},
                    {"kind": "sigkill", "later": 0.2},
                ),
            ),
        ),
        (*INSTABLE, *RESTART),
    ),
    Family(
        "natural_other_text",
        "fault",
        (),
        (_event("other_text", "40 steps in capitals", steps=40),),
        natural=True,
    ),
)
"""All of them. A trainer that cannot express one refuses its scenarios by name."""
