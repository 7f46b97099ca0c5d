"""Lumina trains transformer language models. The public names load on first use."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "CacheSettings": "lumina.infer.kv.settings",
    "Callback": "lumina.train",
    "Config": "lumina.config",
    "ConfigPresets": "lumina.config",
    "LuminaError": "lumina.errors",
    "Orchestrator": "lumina.train.adaptive",
    "PretestHook": "lumina.guard.safe_optimizations",
    "SafeOptimizations": "lumina.guard.safe_optimizations",
    "Trainer": "lumina.train",
    "build_model": "lumina.assemble.model",
    "chat": "lumina.infer.asking",
    "evaluate": "lumina.infer.evaluate",
    "evaluate_tasks": "lumina.infer.evaluation_tasks.running",
    "export_for_inference": "lumina.infer.export",
    "generate": "lumina.infer.asking",
    "load": "lumina.infer.load",
    "sanitize_dataset": "lumina.data.quality.sanitize",
    "validate_data_comprehensive": "lumina.data.quality.comprehensive",
    "register_attention": "lumina.model.registry",
    "register_backbone": "lumina.model.registry",
    "register_block": "lumina.model.registry",
    "register_control": "lumina.train.controls",
    "register_data": "lumina.data.kinds",
    "register_feedforward": "lumina.model.registry",
    "register_kind": "lumina.model.kinds.table",
    "register_objective": "lumina.model.registry",
    "register_optimizer": "lumina.optim.declared",
    "register_parallel": "lumina.parallel.table",
    "register_reader": "lumina.data.readers.registered",
    "register_rule": "lumina.train.rules",
    "register_schedule": "lumina.plan.schedule_table",
    "register_task": "lumina.infer.evaluation_tasks.task",
    "register_text_judge": "lumina.measure.text_safety.judges",
    "register_tracker": "lumina.observe.trackers.declared",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: importing torch is slow."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lumina' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether they are loaded yet or not."""
    return sorted([*_PUBLIC, *(name for name in globals() if name.startswith("__"))])
