"""The values of `--precision` as one table: what each computes in, and what it needs.

Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Precision:
    """What a value of `--precision` means.

    Attributes:
        name: the value.
        compute: the type of products and activations.
        summary: what it is, in one line.
        tf32: whether float32 products are rounded to TF32.
        fp8: "" for none; "e4m3" where the matrices of linear layers are multiplied
            with 8 bits, all as float8 e4m3; "hybrid" where their gradients are
            float8 e5m2.
        feature: the feature that declares what the hardware must have, or "".
        missing: why no device can use it, as the end of a sentence; "" where some can.
    """

    name: str
    compute: str
    summary: str
    tf32: bool = False
    fp8: str = ""
    feature: str = ""
    missing: str = ""


_TABLE = (
    Precision("fp32", "float32", "float32 everywhere"),
    Precision(
        "tf32",
        "float32",
        "float32, and products rounded to TF32 (10 bits of mantissa)",
        tf32=True,
        feature="tf32",
    ),
    Precision("bf16", "bfloat16", "the same as mixed_bf16", feature="bf16"),
    Precision(
        "mixed_bf16",
        "bfloat16",
        "bfloat16 products and activations, float32 sums and weights",
        feature="bf16",
    ),
    Precision("fp16", "float16", "the same as mixed_fp16", feature="fp16"),
    Precision(
        "mixed_fp16",
        "float16",
        "float16 products and activations with a loss scale, float32 sums and weights",
        feature="fp16",
    ),
    Precision(
        "mixed_fp8",
        "bfloat16",
        "linear layers of the blocks multiply float8: e4m3 forwards, e5m2 for "
        "gradients; the rest as mixed_bf16",
        fp8="hybrid",
        feature="fp8",
    ),
    Precision(
        "fp8_e4m3",
        "bfloat16",
        "linear layers of the blocks multiply float8 e4m3, gradients too; the rest as "
        "mixed_bf16",
        fp8="e4m3",
        feature="fp8",
    ),
    Precision(
        "fp8_e5m2",
        "bfloat16",
        "linear layers of the blocks multiply float8 e5m2",
        fp8="e5m2",
        missing="cuBLAS has no product of two float8 e5m2 matrices; mixed_fp8 keeps "
        "e5m2 for gradients",
    ),
    Precision(
        "fp64",
        "float64",
        "float64 everywhere",
        missing="norms, routers, the loss and the optimizers compute in float32 here, "
        "and would round what float64 holds",
    ),
)

PRECISIONS = {one.name: one for one in _TABLE}
"""Value of `--precision`, except "auto" -> what it means."""

TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Short name of a type -> torch's name."""


def asked_precision(config: Any) -> str:
    """The precision that a Config asks for: a key of `PRECISIONS`, or "auto".

    With `--no-amp` everything is computed in the type of the weights.
    """
    system = config.system
    if config.kernels.experimental_fp8 and system.precision == "auto":
        return precision_of_fp8(config)
    if system.amp or system.precision != "auto":
        return str(system.precision)
    return str(system.model_dtype)


def precision_of_fp8(config: Any) -> str:
    """The precision that `--experimental-fp8` and `--fp8-format` stand for."""
    chosen = config.kernels.fp8_format
    return f"fp8_{chosen}" if chosen else "mixed_fp8"
