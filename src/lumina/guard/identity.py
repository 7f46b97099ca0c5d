"""What a pretest is valid for: the model, its shapes, the machine and the versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lumina
from lumina.guard.thresholds import THRESHOLDS
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan

NUMERIC = (
    "device",
    "compute_dtype",
    "weights_dtype",
    "tf32",
    "fp8",
    "fp8_scaling",
    "fp8_experts",
    "cuda_graphs",
    "parallel",
    "world_size",
    "micro_batch_size",
    "optimizer",
    "optimizer_options",
    "gradient_checkpointing",
    "block_checkpointing",
    "compile",
    "attention",
    "chunk_size",
    "loss_chunk_bytes",
    "label_smoothing",
    "feedforward_tile",
    "attention_head_groups",
    "activations_in",
    "activation_bits",
    "deterministic",
    "rounded_to",
    "base_storage",
    "freeze",
    "features",
    "seed",
)
"""Fields of a Plan that change what a step computes, or how."""

PACKAGES = ("triton", "torchao", "flash-attn-3")
"""Packages besides torch that kernels come from."""

DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux has the version of the driver."""


def identity(
    plan: Plan, lever: str, machine: Environment, checkpoint: str = ""
) -> dict[str, Any]:
    """Everything that a pretest of a lever depends on, as plain JSON values.

    Args:
        plan: of the run, with the lever.
        lever: its name, or those of a bundle.
        machine: where it is tried.
        checkpoint: the fingerprint of the weights; "" for initial ones.
    """
    fields = {name: getattr(plan, name) for name in NUMERIC}
    fields["features"] = sorted(plan.features)  # in whatever order they came on
    found = {
        "lever": lever,
        "model": plan.spec.to_dict(),
        "plan": fields,
        "checkpoint": checkpoint,
        "device": machine.device_name,
        "capability": machine.capability,
        "driver": driver() if plan.device == "cuda" else "",
        "versions": versions(machine),
        "limits": asdict(THRESHOLDS),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def versions(machine: Environment) -> dict[str, str]:
    """Versions of what computes."""
    found = {
        "lumina": lumina.__version__,
        "python": platform.python_version(),
        "torch": machine.torch_version,
        "cuda": machine.cuda_version or "",
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def driver() -> str:
    """The version of the NVIDIA driver; "" where it is not known."""
    try:
        text = DRIVER.read_text()
    except OSError:
        return ""
    match = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", text)
    return match[1] if match else text.strip()


def key_of(values: dict[str, Any]) -> str:
    """A short name for an identity."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed between two identities, in words; "" for nothing."""
    words = {
        "checkpoint": "a new checkpoint",
        "device": "another device",
        "capability": "another device",
        "driver": "another driver",
        "versions": "other versions",
        "limits": "other thresholds",
        "plan": "the configuration changed",
        "model": "the model changed",
    }
    changed = [
        text for name, text in words.items() if before.get(name) != now.get(name)
    ]
    return ", ".join(dict.fromkeys(changed))
