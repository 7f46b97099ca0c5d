"""The compute type: what was asked for, if the device can; else what suits it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.plan.environment import Environment

if TYPE_CHECKING:
    from lumina.config import Config

# What each option computes in. Master weights stay float32 with all of them, so
# "bf16" and "mixed_bf16" name one thing, as do "fp16" and "mixed_fp16".
_COMPUTE = {
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "mixed_bf16": "bfloat16",
    "fp16": "float16",
    "mixed_fp16": "float16",
}

_FEATURES = {"tf32": "tf32", "bfloat16": "bf16", "float16": "fp16"}
"""What is computed in -> the feature that declares what it needs."""


def choose_precision(
    config: Config, environment: Environment
) -> tuple[str, bool, dict[str, str], list[str]]:
    """(compute dtype, tf32, reasons, warnings).

    Raises:
        LuminaError: E003 when the device cannot do what was asked for.
    """
    asked = config.system.precision
    if asked == "auto":
        dtype, reason = automatic_dtype(environment)
        tf32_reason = "precision auto never rounds float32 products"
        return dtype, False, {"compute_dtype": reason, "tf32": tf32_reason}, []
    tf32 = asked == "tf32"
    dtype = _COMPUTE[asked]
    problem = unsupported("tf32" if tf32 else dtype, environment)
    if problem:
        fallback, _ = automatic_dtype(environment)
        raise LuminaError(
            "E003",
            f"precision {asked}: {problem}",
            f"use --precision auto (here: {fallback})",
        )
    reasons = {
        "compute_dtype": f"precision {asked} was asked for",
        "tf32": f"precision {asked} was asked for",
    }
    warnings = []
    if dtype == "bfloat16" and environment.device == "cpu" and not environment.bf16:
        warnings.append(
            "bfloat16 is not clearly faster than float32 on this processor "
            f"({cpu_bf16_detail(environment)}); --precision fp32 is"
        )
    return dtype, tf32, reasons, warnings


def automatic_dtype(environment: Environment) -> tuple[str, str]:
    """(compute dtype, why) for `precision: auto`."""
    capability = environment.capability
    if environment.device == "cpu":
        dtype = "bfloat16" if environment.bf16 else "float32"
        return dtype, cpu_bf16_detail(environment)
    if capability is None:
        raise ValueError("a CUDA environment without a compute capability")
    version = f"compute capability {capability[0]}.{capability[1]}"
    if unsupported("bfloat16", environment) is None:
        return "bfloat16", f"{version} has bfloat16 tensor cores"
    if unsupported("float16", environment) is None:
        return "float16", f"{version} is below 8.0: float16 with a loss scaler"
    return "float32", f"{version} is below 5.3: no fast 16-bit type"


def unsupported(kind: str, environment: Environment) -> str | None:
    """Why the device cannot compute in `kind` (a dtype or "tf32"), or None."""
    if kind not in _FEATURES:
        return None
    return FEATURES[_FEATURES[kind]].problem(environment)


def cpu_bf16_detail(environment: Environment) -> str:
    """What was found out about bfloat16 on the processor."""
    if environment.bf16_speedup is None:
        return "the processor has no bfloat16 instructions"
    ratio = f"{environment.bf16_speedup:.2f}x"
    return f"training in bfloat16 was measured at {ratio} the speed of float32"
