"""Training: what does not go together, is unusual, or does nothing."""

from __future__ import annotations

import os

from lumina.config.rules.refusing import multiple, refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings


def check(settings: Settings) -> None:
    """Refuse rates, batches and evaluations that contradict each other.

    Raises:
        LuminaError: E002.
    """
    train = settings.train
    if train.min_lr is not None and train.min_lr > train.learning_rate:
        refuse(
            f"min_lr {train.min_lr:g} is above learning_rate {train.learning_rate:g}",
            "the rate decays from learning_rate down to min_lr",
        )
    # A preset's global batch gives way to a batch size (plan/batching.py).
    chosen = settings.is_chosen("global_batch_size")
    if train.global_batch_size is not None and chosen:
        product = (train.batch_size or 1) * (train.grad_accum or 1)
        if train.global_batch_size % product:
            refuse(
                f"global_batch_size {train.global_batch_size} is not a multiple of "
                f"batch_size x grad_accum = {product}",
                f"use a global batch of {multiple(train.global_batch_size, product)}, "
                "or leave one of the three out",
            )
    if train.early_stopping_patience and train.eval_every_n_batches == 0:
        refuse(
            f"early_stopping_patience {train.early_stopping_patience} needs "
            "evaluations during the run, and eval_every_n_batches is 0",
            "set eval_every_n_batches, or early_stopping_patience 0",
        )


def advice(settings: Settings) -> list[str]:
    """Advice on unusual values."""
    train, found = settings.train, []
    usual = (
        ("learning_rate", 1e-6, 1e-3),
        ("epochs", 1, 100),
        ("batch_size", 1, 64),
        ("grad_accum", 1, 128),
        ("weight_decay", 0, 0.1),
        ("max_grad_norm", 0.1, 10),
    )
    for leaf, low, high in usual:
        value = getattr(train, leaf)
        # A preset's value was chosen for its model; the guideline is for others.
        if settings.provenance[leaf].kind == "preset":
            continue
        if value is None or (leaf == "max_grad_norm" and value == 0):
            continue
        if not low <= value <= high:
            found.append(f"{leaf} {value:g} is outside the usual {low:g} to {high:g}")
    workers, cores = settings.system.num_workers, os.cpu_count() or 1
    if workers is not None and workers > cores:
        found.append(f"num_workers {workers} is more than this machine's {cores} cores")
    return found


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of training without effect, and why."""
    train, unused = settings.train, dict[str, str]()
    if train.decay_steps is not None:
        unused["decay_ratio"] = "decay_steps is set"
    if not train.early_stopping_patience:
        why = "early_stopping_patience is 0"
        unused["early_stopping_min_improvement"] = why
    if not train.gradient_steps and not settings.recovery.robust_clip:
        unused["gradient_step_options"] = "gradient_steps names none"
    if not train.lookahead_steps:
        unused["lookahead_share"] = "lookahead_steps is 0"
    if train.warmup_steps is not None:
        unused["warmup_ratio"] = "warmup_steps is set"
    return unused


RULE = Rule(check=check, advice=advice, without_effect=without_effect)
