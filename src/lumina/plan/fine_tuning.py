"""How a fine-tuning is trained, where no option says it.

A preset's rate, batch and warm-up are for random weights: taken to trained ones, they
undo what these have learned. Here the recipe follows Alpaca (tatsu-lab/stanford_alpaca:
batches of 128, a rate of 2e-5 and three passes at 7B) and Tulu 2 (Ivison et al. 2023,
arXiv:2311.10702): cosine to zero after 3% of warm-up, and a rate that falls with the
size of the model. It is meant for some thousands of conversations. Whoever turns a base
model into an assistant with a million of them takes more: SmolLM2's recipes (in
huggingface/alignment-handbook) have 1e-3 at 135M and 360M, and 3e-4 at 1.7B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.model.spec import ModelSpec
from lumina.plan.count import count_parameters
from lumina.plan.decisions import asked_for

if TYPE_CHECKING:
    from lumina.config import Config

EPOCHS = 3.0
WARMUP = 0.03

RATE, SIZE, POWER = 2e-5, 7e9, 0.3
"""The rate is RATE at SIZE parameters, and falls with the POWER of their number. That
meets GPT-1's 6.25e-5 at 117M, the 2e-5 of Alpaca and Tulu 2 at 7B and the latter's 1e-5
at 70B within a tenth."""

HIGHEST = 3e-4
"""What the rule gives at one million parameters; smaller models get no more."""

ADAPTERS = 10
"""Adapters learn best at about ten times the rate of a full fine-tuning, whatever their
rank (Schulman and Thinking Machines Lab 2025, "LoRA Without Regret"); at 7B that is the
2e-4 of QLoRA (Dettmers et al. 2023, arXiv:2305.14314)."""

STEP_TOKENS = 2**16
"""Tokens in a step, at most: 128 conversations of some 500 tokens, as Alpaca and Tulu 2
have. Rows are packed, so a step has fewer of them than of conversations."""

LEAST_STEPS = 100
"""Steps that small data is given by smaller batches."""


def fine_tuning(
    config: Config, spec: ModelSpec, *, rows_per_epoch: int | None, data_ranks: int
) -> Config:
    """The settings, with those of a fine-tuning where none were chosen.

    Args:
        config: the settings; `seq_length` is decided already.
        spec: the model that is tuned.
        rows_per_epoch: rows in one pass; None where the data is not known.
        data_ranks: ranks that share the rows of a step evenly.
    """
    active = count_parameters(spec).active
    rate, how = rate_for(active), f"fine-tuning of {_size(active)} parameters"
    if spec.adapters:
        rate, how = (
            min(1e-3, ADAPTERS * rate),
            f"{ADAPTERS} times that of a {how} without adapters",
        )
    decided: dict[str, tuple[object, str]] = {}
    if not asked_for(config, "learning_rate"):
        decided["learning_rate"] = (
            rate,
            f"{how}: {RATE:g} at 7B, as Alpaca and "
            f"Tulu 2 have it, times (7B / parameters)^{POWER:g}",
        )
    if not asked_for(config, "steps") and not asked_for(config, "epochs"):
        decided["epochs"] = EPOCHS, "three passes, as Alpaca has them"
    if not asked_for(config, "global_batch_size"):
        decided["global_batch_size"] = _batch(config, spec, rows_per_epoch, data_ranks)
    if not asked_for(config, "warmup_steps") and not asked_for(config, "warmup_ratio"):
        decided["warmup_ratio"] = WARMUP, "fine-tuning: as in Alpaca and Tulu 2"
    if not asked_for(config, "lr_scheduler"):
        why = "fine-tuning: cosine to zero, as in Alpaca"
        decided["lr_scheduler"] = "cosine", why
        if not asked_for(config, "min_lr"):
            decided["min_lr"] = 0.0, why
    for leaf, (value, why) in decided.items():
        config = config.override({leaf: value}, Source("decided", why))
    return config


def rate_for(parameters: int) -> float:
    """The peak learning rate of a fine-tuning, to two digits."""
    return float(f"{min(HIGHEST, RATE * (SIZE / max(parameters, 1)) ** POWER):.1e}")


def _batch(
    config: Config, spec: ModelSpec, rows_per_epoch: int | None, data_ranks: int
) -> tuple[int, str]:
    """(rows of a step, why)."""
    rows = _power_below(STEP_TOKENS // spec.seq_length)
    why = f"fine-tuning: about {STEP_TOKENS:,} tokens a step, as Alpaca and Tulu 2 have"
    if rows_per_epoch is not None:
        epochs = config.train.epochs if asked_for(config, "epochs") else EPOCHS
        few = _power_below(round((epochs or EPOCHS) * rows_per_epoch) // LEAST_STEPS)
        if few < rows and not asked_for(config, "steps"):
            rows = few
            why = f"fine-tuning: {rows_per_epoch:,} rows in {LEAST_STEPS} steps or more"
        elif rows_per_epoch < rows:
            rows, why = _power_below(rows_per_epoch), "fine-tuning: no more than a pass"
    if data_ranks > 1:
        rows = data_ranks * _power_below(rows // data_ranks)
        why += f", shared by {data_ranks} processes"
    return rows, why


def _power_below(number: int) -> int:
    """The largest power of two that is no larger, and at least one."""
    return 1 << max(number.bit_length() - 1, 0)


def _size(parameters: int) -> str:
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return f"{parameters:,}"
