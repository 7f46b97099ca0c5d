"""What goes together, what can be trained today, and what the guidelines advise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.config.depth import check_depth, idle_depth
from lumina.config.embedding import check_embedding, embedding_advice, idle_embedding
from lumina.config.leaves import field
from lumina.config.moe import check_moe, idle_moe, moe_advice
from lumina.config.parts import check_parts, idle_parts
from lumina.config.provenance import SUGGESTED
from lumina.config.reasoner import check_reasoner, idle_reasoner
from lumina.config.refusing import multiple, refuse
from lumina.config.shape import check_shape, shape_advice
from lumina.config.tasks import check_tasks, idle_tasks
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.config import Config


def check_combinations(config: Config) -> None:
    """Refuse values that contradict each other.

    Raises:
        LuminaError: E002, naming the options, their values and a way out.
    """
    _check_run(config)
    if config.run.resume is not None:
        return  # Laid over the run's own settings first; then this is asked again.
    check_shape(config)
    check_embedding(config)
    check_moe(config)
    check_reasoner(config)
    check_depth(config)
    check_parts(config)
    check_tasks(config)
    _check_training(config)


def _check_training(config: Config) -> None:
    train = config.train
    if train.expert_id is not None:
        _check_expert(config)
    if train.min_lr is not None and train.min_lr > train.learning_rate:
        refuse(
            f"min_lr {train.min_lr:g} is above learning_rate {train.learning_rate:g}",
            "the rate decays from learning_rate down to min_lr",
        )
    # A preset's global batch gives way to a batch size (plan/batching.py).
    asked = config.provenance["global_batch_size"].kind not in SUGGESTED
    if train.global_batch_size is not None and asked:
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


def _check_expert(config: Config) -> None:
    """What one expert that trains alone needs."""
    if not (config.train.init_from or config.run.resume):
        refuse(
            f"expert_id {config.train.expert_id} has no model to be added to",
            "name one that was trained with experts: --init-from RUN",
        )
    if config.moe.moe_groups > 1:
        refuse(
            "expert_id and moe_groups do not go together: groups are equal",
            "use a model without groups",
        )


def _check_run(config: Config) -> None:
    name = config.run.experiment_name
    if name is not None and (not name.strip(". ") or Path(name).name != name):
        raise LuminaError(
            "E005",
            f"experiment_name cannot be {name!r}",
            "it names one folder below runs/; use run_dir for a path",
        )
    if config.run.resume and config.train.init_from:
        refuse(
            "resume and init_from are both set",
            "resume goes on with a run; init_from starts a new one from its weights",
        )


def advise(config: Config) -> list[str]:
    """Advice on unusual values, one sentence each, naming option and value."""
    return [
        *shape_advice(config),
        *embedding_advice(config),
        *moe_advice(config),
        *_training_advice(config),
        *_idle_advice(config),
    ]


def _training_advice(config: Config) -> list[str]:
    train, advice = config.train, []
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
        if config.provenance[leaf].kind == "preset":
            continue
        if value is None or (leaf == "max_grad_norm" and value == 0):
            continue
        if not low <= value <= high:
            advice.append(f"{leaf} {value:g} is outside the usual {low:g} to {high:g}")
    workers, cores = config.system.num_workers, os.cpu_count() or 1
    if workers is not None and workers > cores:
        advice.append(
            f"num_workers {workers} is more than this machine's {cores} cores"
        )
    return advice


def _idle_advice(config: Config) -> list[str]:
    """Options that somebody set and that have no effect beside the others."""
    idle = {
        **idle_moe(config),
        **idle_depth(config),
        **idle_embedding(config),
        **idle_parts(config),
        **idle_tasks(config),
        **idle_reasoner(config),
        **_idle_training(config),
        **_idle_run(config),
    }
    return [
        f"{leaf} is set but has no effect: {why}"
        for leaf, why in idle.items()
        if config.provenance[leaf].kind not in SUGGESTED
        and not _restates_default(config, leaf)
    ]


def _idle_training(config: Config) -> dict[str, str]:
    """Options of training without effect, and why."""
    train, idle = config.train, dict[str, str]()
    if train.expert_id is None:
        named = ("expert_registry", "default_goal")
        idle |= dict.fromkeys(named, "expert_id names no expert")
    if train.optimizer == "adam_atan2":
        idle["eps"] = "optimizer adam_atan2 has none"
    if train.lr_scheduler != "wsd":
        idle["decay_ratio"] = f"lr_scheduler is {train.lr_scheduler}"
    if train.lr_scheduler == "constant":
        idle["min_lr"] = "lr_scheduler is constant"
    if train.warmup_steps is not None:
        idle["warmup_ratio"] = "warmup_steps is set"
    return idle


def _idle_run(config: Config) -> dict[str, str]:
    """Options of data and of the run's folder without effect, and why."""
    idle: dict[str, str] = {}
    if config.data.eval_data:
        idle["eval_fraction"] = "eval_data is given"
    name, folder = config.run.experiment_name, config.run.run_dir
    if name is not None and folder is not None and Path(folder).name != name:
        idle["experiment_name"] = "run_dir is set"
    if config.data.tokenizer is not None:
        idle["tokenizer_vocab_size"] = "a tokenizer is given"
    return idle


def _restates_default(config: Config, leaf: str) -> bool:
    """Whether a file merely restates the default, as a saved run's file does."""
    return bool(config.get(leaf) == field(leaf).default)
