"""Configurations of DeepSpeed: each item becomes an option, or is refused by name.

The items and their meaning are those of DeepSpeed's documentation of its JSON file. A
value that says nothing ("auto", a part that is not enabled, a default that holds here
by itself) sets nothing, and what the file does not say stays as Lumina has it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lumina.errors import LuminaError
from lumina.json_objects import read_object

MOST_BYTES = 2**20
"""A larger file is no configuration."""

Found = Iterator[tuple[str, object]]

_PLAIN = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "gradient_clipping": "max_grad_norm",
    "steps_per_print": "log_every_n_batches",
}
_STAGES = {1: "zero1", 2: "zero2", 3: "fsdp2"}
_OPTIMIZERS = {"adam": "adamw", "adamw": "adamw", "lion": "lion"}
_PLACES = {"none": "device", "cpu": "host", "nvme": "disk"}
_BY_ITSELF: dict[str, tuple[object, ...]] = {
    "zero_allow_untested_optimizer": (True, False),
    "zero_force_ds_cpu_optimizer": (True, False),
    "wall_clock_breakdown": (False,),
    "memory_breakdown": (False,),
    "dump_state": (False,),
    "prescale_gradients": (False,),
    "gradient_predivide_factor": (1, 1.0),
    "sparse_gradients": (False,),
    "communication_data_type": ("fp32", None),
    "disable_allgather": (False,),
}
"""Items whose values hold here by themselves; any other value is refused."""
_ZERO_BY_ITSELF: dict[str, tuple[object, ...]] = {
    "allgather_partitions": (True,),
    "reduce_scatter": (True,),
    "contiguous_gradients": (True,),
    "round_robin_gradients": (False,),
    "load_from_fp32_weights": (True,),
    "ignore_unused_parameters": (True,),
    "elastic_checkpoint": (True, False),
    "gather_16bit_weights_on_model_save": (True,),
    "stage3_gather_16bit_weights_on_model_save": (True,),
    "stage3_gather_fp16_weights_on_model_save": (True,),
    "sub_group_size": (1_000_000_000,),
}
"""Likewise, in zero_optimization. Checkpoints hold whole weights in every stage."""
_ZERO_DEFAULTS = {
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_model_persistence_threshold": math.inf,
}
"""What stage 3 gathers ahead and keeps; in DeepSpeed by size, here block by block."""
_PERSISTENT = "stage3_param_persistence_threshold"
_BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")
_BUCKET = 500_000_000
_SWITCHED = (
    "amp", "flops_profiler", "tensorboard", "wandb", "csv_monitor", "comet",
    "comms_logger", "autotuning", "elasticity", "curriculum_learning",
    "data_efficiency", "progressive_layer_drop", "eigenvalue", "compression_training",
    "sparse_attention", "hybrid_engine", "aio", "pipeline", "data_types",
    "activation_checkpointing", "checkpoint",
)  # fmt: skip
_INSTEAD = {
    "activation_checkpointing": "--gradient-checkpointing",
    "tensorboard": "--trackers tensorboard", "wandb": "--trackers wandb",
    "csv_monitor": "metrics.jsonl of the run", "flops_profiler": "`lumina profile`",
    "wall_clock_breakdown": "`lumina profile`", "amp": "--precision",
    "comms_logger": "`lumina profile`", "autotuning": "`lumina optimize`",
}  # fmt: skip


class _RefusedError(Exception):
    """An item that has no counterpart, and why."""


def translated(value: object) -> dict[str, object]:
    """The options that a configuration of DeepSpeed stands for.

    Args:
        value: the path of a JSON file, or what stands in one.

    Raises:
        LuminaError: E002 with every item that has no counterpart, E101 for a file that
            is no JSON object, and as `lumina.json_objects.read_object`.
    """
    items = value if isinstance(value, Mapping) else _read(Path(str(value)))
    refused: list[str] = []
    options: dict[str, object] = {}

    def take(name: str, part: Callable[[Any], Found], found: Any) -> None:
        try:
            for option, meant in part(found):
                if options.get(option, meant) != meant:
                    raise _RefusedError(
                        f"{option} is {options[option]} by another item, and {meant} "
                        "by this one"
                    )
                options[option] = meant
        except _RefusedError as error:
            refused.append(f"{name}: {error}")

    for name, found in items.items():
        if _says_nothing(found):
            continue
        if name == "zero_optimization" and isinstance(found, Mapping):
            for inner, one in found.items():
                if not _says_nothing(one):
                    part = _zero(inner, found)
                    take(f"{name}.{inner}", part, one)
            continue
        take(str(name), _part(str(name)), found)
    if refused:
        raise LuminaError(
            "E002",
            "the configuration of DeepSpeed asks for what is done otherwise here: "
            + "; ".join(refused),
            "take these items out; docs/coming-from.md says what each one becomes",
        )
    return options


def _read(path: Path) -> Mapping[str, Any]:
    return read_object(path, "name a configuration", most_bytes=MOST_BYTES)


def _says_nothing(value: object) -> bool:
    """Whether an item is left to who reads it, or switched off."""
    if isinstance(value, Mapping):
        return value.get("enabled") in (False, "auto")
    return value == "auto" or value is None


def _part(name: str) -> Callable[[Any], Found]:
    """What translates an item of the outermost level."""
    if name in _PLAIN:
        return lambda value: iter([(_PLAIN[name], value)])
    if name in _BY_ITSELF:
        return lambda value: _holds(name, value, _BY_ITSELF[name])
    found = {
        "optimizer": _optimizer,
        "scheduler": _scheduler,
        "bf16": lambda _: iter([("precision", "mixed_bf16")]),
        "bfloat16": lambda _: iter([("precision", "mixed_bf16")]),
        "fp16": _fp16,
    }.get(name)
    return found or (lambda value: _unknown(name, value))


def _unknown(name: str, value: Any) -> Found:
    if name in _SWITCHED and value in ({}, False):
        return
    if name in _INSTEAD:
        raise _RefusedError(f"{_INSTEAD[name]} does this")
    raise _RefusedError("nothing here does this")
    yield


def _holds(name: str, value: Any, there: tuple[object, ...]) -> Found:
    """An item that is always so here."""
    if value not in there:
        always = " or ".join(json.dumps(one) for one in there)
        instead = f"; {_INSTEAD[name]} does this" if name in _INSTEAD else ""
        raise _RefusedError(f"it is always {always}{instead}")
    return
    yield


def _zero(name: str, beside: Mapping[str, Any]) -> Callable[[Any], Found]:
    """What translates an item of zero_optimization."""
    stage = beside.get("stage", 0)
    if name in _ZERO_BY_ITSELF:
        return lambda value: _holds(name, value, _ZERO_BY_ITSELF[name])
    if name in _ZERO_DEFAULTS:
        return lambda value: _gathers(value, _ZERO_DEFAULTS[name], stage)
    if name == _PERSISTENT:
        return lambda value: _persistent(value, stage)
    if name in _BUCKETS:
        return lambda value: _bucket(name, value, stage)
    return {
        "stage": _stage,
        "overlap_comm": lambda value: _overlap(value, stage),
        "offload_optimizer": _offload_optimizer,
        "offload_param": _offload_param,
        "cpu_offload": lambda value: _offload_optimizer(
            {"device": "cpu" if value else "none"}
        ),
    }.get(name) or (lambda value: _unknown(name, value))


def _stage(value: Any) -> Found:
    if value == 0 and value is not False:
        yield "parallel", "ddp"
    elif value in _STAGES and value is not True:
        yield "parallel", _STAGES[value]
    else:
        raise _RefusedError(f"there is no stage {value!r} of ZeRO")


def _overlap(value: Any, stage: Any) -> Found:
    if stage == 1:
        yield "overlap_comm", value
    elif value is not True:
        raise _RefusedError("stages 2 and 3 always send while they compute")


def _bucket(name: str, value: Any, stage: Any) -> Found:
    if stage == 1:
        yield name, int(value)
    elif value != _BUCKET:
        raise _RefusedError("a message of stages 2 and 3 is a block of the model")


def _persistent(value: Any, stage: Any) -> Found:
    """The same option here, of stage 3."""
    if stage == 3:
        yield _PERSISTENT, int(value)


def _gathers(value: Any, default: float, stage: Any) -> Found:
    if stage == 3 and value != default:
        raise _RefusedError(
            "a block is gathered whole, and the next one while it computes"
        )
    return
    yield


def _offload_optimizer(value: Any) -> Found:
    found = dict(value)
    device = found.pop("device", "none")
    if device not in _PLACES:
        raise _RefusedError(f"there is no place {device!r}")
    yield "optimizer_states_in", _PLACES[device]
    folder = found.pop("nvme_path", None)
    if device == "nvme" and folder:
        yield "offload_folder", folder
    for name in ("pin_memory", "buffer_count", "fast_init", "pipeline_read"):
        found.pop(name, None)  # pages are pinned, two at a time, read and written ahead
    found.pop("pipeline_write", None)
    if found.pop("ratio", 1.0) != 1.0:
        raise _RefusedError("all states are moved, or none (ratio 1.0)")
    if found:
        raise _RefusedError(f"{', '.join(found)} is not known")


def _offload_param(value: Any) -> Found:
    if value.get("device", "none") != "none":
        raise _RefusedError(
            "weights that are divided over processes live on their devices; one "
            "process alone streams them (--weights-in host or disk)"
        )
    return
    yield


def _fp16(value: Any) -> Found:
    there = {
        "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 2000,
        "hysteresis": 1, "min_loss_scale": 1, "auto_cast": False,
        "consecutive_hysteresis": False,
    }  # fmt: skip
    for name, one in value.items():
        if name != "enabled" and one != "auto" and one != there.get(name, object()):
            raise _RefusedError(
                f"{name} is {one}; the loss scale begins at 2^16, halves after a step "
                "that is not finite and doubles after 2000 that are"
            )
    yield "precision", "mixed_fp16"


def _optimizer(value: Any) -> Found:
    name = str(value.get("type", "")).lower()
    if name not in _OPTIMIZERS:
        raise _RefusedError(f"{value.get('type')} is not there; see --optimizer")
    yield "optimizer", _OPTIMIZERS[name]
    for key, one in dict(value.get("params") or {}).items():
        if one == "auto":
            continue
        if key in ("lr", "eps", "weight_decay"):
            yield ("learning_rate" if key == "lr" else key), one
        elif key == "betas":
            yield "beta1", one[0]
            yield "beta2", one[1]
        elif (key, one) not in (
            ("adam_w_mode", True), ("torch_adam", True), ("torch_adam", False),
            ("bias_correction", True), ("amsgrad", False),
        ):  # fmt: skip
            raise _RefusedError(f"params.{key} {one} is not there")


def _scheduler(value: Any) -> Found:
    shapes = {"WarmupLR": "constant", "WarmupDecayLR": "linear"}
    kind = value.get("type")
    if kind not in shapes:
        raise _RefusedError(f"{kind} is not there; see --lr-scheduler")
    params = {"warmup_num_steps": 1000, **(value.get("params") or {})}
    if params["warmup_num_steps"] not in ("auto", 0) and (
        params.get("warmup_type", "log") != "linear"
    ):
        raise _RefusedError("a warm-up rises linearly here (warmup_type linear)")
    yield "lr_scheduler", shapes[kind]
    if kind == "WarmupDecayLR":
        yield "min_lr", 0.0
    names = {
        "warmup_num_steps": "warmup_steps", "warmup_max_lr": "learning_rate",
        "total_num_steps": "steps",
    }  # fmt: skip
    for key, one in params.items():
        if one == "auto" or key == "warmup_type":
            continue
        if key in names:
            yield names[key], one
        elif (key, one) not in (("warmup_min_lr", 0), ("last_batch_iteration", -1)):
            raise _RefusedError(f"params.{key} {one} is not there")
