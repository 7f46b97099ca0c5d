"""What is installed, what the machine can do, what is missing: `lumina doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass
from typing import Literal

from lumina.cache_root import cache_root
from lumina.features import FEATURES
from lumina.features.precisions import PRECISIONS
from lumina.plan.environment import Environment
from lumina.plan.precision import automatic_precision, unsupported
from lumina.quantities import byte_size

REQUIRED = (
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "pydantic",
    "PyYAML",
    "rich",
    "jinja2",
    "psutil",
)
OPTIONAL = {
    "triton": "kernels and torch.compile on CUDA",
    "transformers": "comparing exported models",
    "pyarrow": "Parquet and Arrow files",
    "zstandard": "files compressed as .zst",
    "datasets": "data sets of the hub (hf://)",
    "datasketch": "finding near duplicates",
    "tiktoken": "tokenizers of tiktoken's make",
    "sentencepiece": "tokenizers of SentencePiece's make",
    "tensorboard": "--trackers tensorboard",
    "wandb": "--trackers wandb",
    "mlflow": "--trackers mlflow",
    "trackio": "--trackers trackio",
    "onnx": "lumina export --format onnx",
    "onnxscript": "lumina export --format onnx",
}
"""Packages that are used when they are there."""


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        status: "missing" is a problem, "absent" is not.
    """

    section: str
    name: str
    value: str
    status: Literal["ok", "absent", "missing"] = "ok"


def report(environment: Environment) -> list[Row]:
    """Everything that decides how a run goes on this machine."""
    return [
        *_software(environment),
        *_hardware(environment),
        *_precisions(environment),
        *_kernels(environment),
        *_features(environment),
        *_packages(),
    ]


def _software(environment: Environment) -> list[Row]:
    cuda = environment.cuda_version
    return [
        Row("software", "lumina", version_of("luminaai") or "not installed"),
        Row("software", "python", platform.python_version()),
        Row("software", "system", f"{platform.system()} {platform.machine()}"),
        Row("software", "torch", environment.torch_version),
        Row(
            "software",
            "CUDA of torch",
            cuda or "built without",
            "ok" if cuda else "absent",
        ),
    ]


def _hardware(environment: Environment) -> list[Row]:
    rows = [
        Row("hardware", "processor", environment.cpu_name),
        Row("hardware", "cores", str(environment.cores)),
        Row("hardware", "host memory", byte_size(environment.host_memory_bytes)),
        Row(
            "hardware",
            "vector units",
            ", ".join(environment.cpu_features) or "none that matter",
        ),
    ]
    if environment.device == "cuda":
        capability = ".".join(map(str, environment.capability or ()))
        count = environment.device_count
        rows += [
            Row("hardware", "GPU", f"{environment.device_name} x {count}"),
            Row("hardware", "GPU memory", byte_size(environment.memory_bytes)),
            Row("hardware", "compute capability", capability),
        ]
        for kind, peak in environment.peak_flops.items():
            known = f"{peak / 1e12:,.0f} TFLOP/s" if peak else "unknown, so no MFU"
            rows.append(Row("hardware", f"peak {kind}", known))
    else:
        rows.append(Row("hardware", "GPU", "none that torch sees", "absent"))
    cache = cache_root()
    place = next(p for p in (cache, *cache.parents) if p.exists())
    free = byte_size(shutil.disk_usage(place).free)
    return [*rows, Row("hardware", "disk free at LUMINA_CACHE", free)]


def _precisions(environment: Environment) -> list[Row]:
    rows = []
    for name, mode in PRECISIONS.items():
        problem = unsupported(mode, environment)
        slow = mode.compute == "bfloat16" and not environment.bf16
        fine = "works, not clearly faster than float32" if slow else "works"
        rows.append(
            Row("precision", name, problem or fine, "absent" if problem else "ok")
        )
    chosen, why = automatic_precision(environment)
    return [*rows, Row("precision", "auto", f"{chosen.compute}: {why}")]


def _kernels(environment: Environment) -> list[Row]:
    detail = environment.compiler_detail
    recent = (environment.capability or (0, 0)) >= (8, 0)
    flash2 = "works, with 16-bit types" if recent else "needs CUDA 8.0; sdpa instead"
    newest = environment.flash3
    flash3 = environment.flash3_detail or "needs CUDA 9.0 (Hopper)"
    return [
        Row(
            "kernels",
            "torch.compile",
            detail,
            "ok" if environment.compiler else "absent",
        ),
        Row("kernels", "FlashAttention-2", flash2, "ok" if recent else "absent"),
        Row("kernels", "FlashAttention-3", flash3, "ok" if newest else "absent"),
    ]


def _features(environment: Environment) -> list[Row]:
    """Only those that are not available here."""
    rows = [
        Row("features", name, problem, "absent")
        for name, feature in FEATURES.items()
        if (problem := feature.problem(environment))
    ]
    return rows or [Row("features", "all", "can be used here")]


def _packages() -> list[Row]:
    rows = []
    for name in REQUIRED:
        version = version_of(name)
        status: Literal["ok", "missing"] = "ok" if version else "missing"
        rows.append(Row("packages", name, version or "not installed", status))
    for name, purpose in OPTIONAL.items():
        version = version_of(name)
        text = version or f"not installed; for {purpose}"
        rows.append(Row("optional packages", name, text, "ok" if version else "absent"))
    return rows


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
