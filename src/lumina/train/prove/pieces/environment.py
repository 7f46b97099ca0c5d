"""The machine, the versions, and what was decided for the training, with reasons."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
from typing import Any

from lumina.packages import installed
from lumina.train.prove.markdown import table
from lumina.train.prove.piece import Asked, Piece, register_piece
from lumina.train.prove.sessions import planned

PACKAGES = (
    "luminaai", "torch", "triton", "numpy", "safetensors", "tokenizers", "transformers",
    "liger-kernel", "torchtitan", "torchao", "flash-attn", "flash-attn-3",
    "bitsandbytes", "peft", "nvidia-ml-py",
)  # fmt: skip


def run(asked: Asked) -> dict[str, Any]:
    """Look, and plan."""
    prepared = planned(asked)
    plan = prepared.plan
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "driver": _driver(),
        "machine": dataclasses.asdict(prepared.environment),
        "plan": plan.to_dict(),
    }


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where it is not known."""
    if not installed("pynvml"):
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def page(found: dict[str, Any]) -> list[str]:
    """The machine, the versions, the plan."""
    machine, plan = found["machine"], found["plan"]
    rows = [
        ["device", machine["device_name"]],
        ["system", f"{found['system']}, Python {found['python']}"],
        ["driver", found["driver"] or "unknown"],
        *found["packages"].items(),
        ["parameters", f"{plan['parameters']:,}"],
        ["of them for a token", f"{plan['active_parameters']:,}"],
        ["rows of a step", plan["global_batch_size"]],
        ["tokens of a row", plan["spec"]["seq_length"]],
    ]
    chosen = (
        "compute_dtype", "attention", "compile", "gradient_checkpointing",
        "micro_batch_size", "grad_accum", "optimizer",
    )  # fmt: skip
    reasons = [[name, plan[name], plan["reasons"].get(name, "")] for name in chosen]
    return [*table(("", ""), rows), *table(("decided", "", "because"), reasons)]


register_piece(Piece("environment", run, page))
