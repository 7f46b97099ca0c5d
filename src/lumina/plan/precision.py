"""The compute type: what was asked for, if the device can; else what suits it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.features.precisions import PRECISIONS, TYPES, Precision, asked_precision
from lumina.plan.device_rules import rule_for
from lumina.plan.environment import Environment

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass(frozen=True)
class PrecisionChoice:
    """What a run computes in.

    Attributes:
        values: field of the Plan -> value.
        reasons: field of the Plan -> why.
        warnings: advice.
    """

    values: dict[str, str | bool]
    reasons: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def choose_precision(config: Config, environment: Environment) -> PrecisionChoice:
    """The compute type, TF32, float8 and the type of the weights, with reasons.

    Raises:
        LuminaError: E003 when the device cannot do what was asked for.
    """
    asked = asked_precision(config)
    weights = TYPES[config.system.model_dtype]
    if asked == "auto":
        mode, reason = automatic_precision(environment)
        other = "precision auto never rounds float32 products"
        narrow = "precision auto never takes float8"
        warnings = []
    else:
        mode = PRECISIONS[asked]
        _check(mode, asked, environment)
        reason = other = narrow = f"precision {asked} was asked for"
        if not config.system.amp:
            reason = f"--no-amp: the type of the weights, {config.system.model_dtype}"
        reason += _better_suited(mode, environment)
        warnings = _slow(mode, environment)
    return PrecisionChoice(
        values={
            "compute_dtype": mode.compute,
            "tf32": mode.tf32,
            "fp8": mode.fp8,
            "weights_dtype": weights,
        },
        reasons={
            "compute_dtype": reason,
            "tf32": other,
            "fp8": narrow,
            "weights_dtype": f"model_dtype {config.system.model_dtype}",
        },
        warnings=warnings,
    )


def _better_suited(mode: Precision, environment: Environment) -> str:
    """What the table of devices names for a GPU, where that is something else."""
    rule = rule_for(environment)
    suited = {PRECISIONS[name].compute for name in rule.precisions if name != "tf32"}
    if environment.device == "cpu" or mode.compute in suited:
        return ""
    return f"; {', '.join(rule.precisions)} suits this device better ({rule.name})"


def _check(mode: Precision, asked: str, environment: Environment) -> None:
    """Refuse what no device can do yet, and what this one cannot.

    Raises:
        LuminaError: E003.
    """
    problem = unsupported(mode, environment)
    if problem:
        fallback, _ = automatic_precision(environment)
        raise LuminaError(
            "E003",
            f"precision {asked}: {problem}",
            f"use --precision auto (here: {fallback.compute})",
        )


def _slow(mode: Precision, environment: Environment) -> list[str]:
    """Advice against a type that the processor only emulates."""
    if mode.compute != "bfloat16" or environment.device != "cpu" or environment.bf16:
        return []
    return [
        "bfloat16 is not clearly faster than float32 on this processor "
        f"({cpu_bf16_detail(environment)}); --precision fp32 is"
    ]


def automatic_precision(environment: Environment) -> tuple[Precision, str]:
    """(what `precision auto` stands for, why), by the table of devices.

    A type that fails its pretest gives way to the next narrower choice.
    """
    if environment.device == "cpu":
        name = "mixed_bf16" if environment.bf16 else "fp32"
        return PRECISIONS[name], cpu_bf16_detail(environment)
    if environment.device == "cuda" and environment.capability is None:
        raise ValueError("a CUDA environment without a compute capability")
    rule = rule_for(environment)
    why, problem = rule.why, None
    if environment.capability is not None:
        version = f"{environment.capability[0]}.{environment.capability[1]}"
        why = f"compute capability {version} {why}"
    for name in (rule.automatic, "mixed_fp16", "fp32"):
        mode = PRECISIONS[name]
        found = unsupported(mode, environment)
        if found is None:
            break
        problem = problem or found
    return (
        mode,
        why if problem is None else f"{PRECISIONS[rule.automatic].name} {problem}",
    )


def unsupported(mode: Precision, environment: Environment) -> str | None:
    """Why the device cannot compute so, or None."""
    if mode.missing:
        return mode.missing
    return FEATURES[mode.feature].problem(environment) if mode.feature else None


def cpu_bf16_detail(environment: Environment) -> str:
    """What was found out about bfloat16 on the processor."""
    if environment.bf16_speedup is None:
        return "the processor has no bfloat16 instructions"
    ratio = f"{environment.bf16_speedup:.2f}x"
    return f"training in bfloat16 was measured at {ratio} the speed of float32"
