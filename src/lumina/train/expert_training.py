"""One named expert trained alone, from a frozen base to a file and the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.state.expert_registry import Registry, check_name
from lumina.state.experts import (
    FILE_NAME,
    attach,
    base_patterns,
    read_expert,
    take_expert,
    with_new_expert,
    write_expert,
)
from lumina.state.weights import Weights, open_weights


def with_expert(config: Config, weights: Weights) -> tuple[Config, Weights]:
    """The base with the expert to train in its last place, all else frozen.

    An expert that the registry has weights of goes on from them; another starts as a
    copy of the base's busiest one. Names in the base are forgotten: it is one model.

    Raises:
        LuminaError: E002 for a base without experts, a frozen expert, one trained with
            another base, or `freeze` beside `expert_id`; E005 for a bad name.
    """
    name = config.train.expert_id
    assert name is not None
    check_name(name)
    entry = Registry(config.train.expert_registry).entries.get(name)
    if entry is not None and entry.frozen:
        raise LuminaError(
            "E002",
            f"the expert {name} is frozen",
            f"`lumina experts freeze {name} --off` lets it train again",
        )
    spec = weights.spec
    if spec.moe is not None:
        base = replace(spec.moe, names=(), trained=0, goal_bias=0.0)
        weights = replace(weights, spec=replace(spec, moe=base))
    if entry is not None and entry.checkpoint is not None:
        weights = attach(weights, read_expert(Path(entry.checkpoint)), name)
    else:
        weights = with_new_expert(weights, config.train.seed)
    frozen = base_patterns(weights.spec)
    if config.train.freeze and set(config.train.freeze) != set(frozen):
        raise LuminaError(
            "E002",
            "freeze and expert_id do not go together",
            "with expert_id all but the new expert is frozen; leave freeze out",
        )
    settled: dict[str, Any] = {"freeze": frozen}
    if spec.moe is not None and config.moe.num_experts == spec.moe.num_experts:
        # If num_experts repeats the base's count, train one more.
        settled["num_experts"] = spec.moe.num_experts + 1
    origin = Source("file", f"expert_id {name}")
    return config.override(settled, origin), weights


def keep_expert(config: Config, run: Path, loss: float | None, steps: int) -> Path:
    """Write the expert that a run trained, and enter it in the registry.

    Args:
        config: the run's settings.
        run: its directory, with a checkpoint; gets an `expert.safetensors`.
        loss: the last step's.
        steps: completed ones.

    Returns:
        The registry's own file of the weights.
    """
    train = config.train
    name = train.expert_id
    assert name is not None
    weights = open_weights(run)
    try:
        expert = take_expert(weights, name)
        rate = weights.source.meta.plan["learning_rate"]
    finally:
        weights.close()
    registry = Registry(train.expert_registry)
    kept = registry.file_of(name)
    write_expert(run / FILE_NAME, expert)
    training = {
        "base": train.init_from,
        "run": str(run),
        "steps": steps,
        "final_loss": loss,
        "learning_rate": rate,
        "train_data": list(config.data.train_data),
        "default_goal": train.default_goal,
        "seed": train.seed,
    }
    with registry.changing():
        entry = registry.entries.get(name) or registry.create(name)
        if train.default_goal:
            registry.link(name, train.default_goal)
        # In here, so that the weights there and what is said of them are of one run.
        write_expert(kept, expert)
        entry.checkpoint, entry.training = str(kept.resolve()), training
        registry.touch(entry)
    return kept
