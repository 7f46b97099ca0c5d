"""The values of `--inference-precision` as one table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lumina.errors import LuminaError


@dataclass(frozen=True)
class InferencePrecision:
    """What a trained model is used in.

    Attributes:
        name: the value of the option.
        dtype: of weights and activations; None: bfloat16 on a GPU that has it, else
            float32.
        codec: what holds the large matrices in few bits (`lumina.ops.low_bits`), which
            are widened to `dtype` as a layer runs; None: they are of `dtype` too.
    """

    name: str
    dtype: torch.dtype | None = None
    codec: str | None = None


INFERENCE_PRECISIONS = {
    one.name: one
    for one in (
        InferencePrecision("auto"),
        InferencePrecision("fp32", torch.float32),
        InferencePrecision("bf16", torch.bfloat16),
        InferencePrecision("fp16", torch.float16),
        InferencePrecision("int8", codec="int8"),
        InferencePrecision("int4", codec="nf4"),
        InferencePrecision("llm_int8", codec="llm_int8"),
    )
}
"""Every value by its name."""


def find_inference_precision(
    name: str, device: torch.device
) -> tuple[torch.dtype, InferencePrecision]:
    """The type to compute in on a device, and the entry of the table.

    Raises:
        LuminaError: E005 for a name that there is not.
    """
    found = INFERENCE_PRECISIONS.get(name)
    if found is None:
        raise LuminaError(
            "E005",
            f"inference precision {name!r} does not exist",
            f"choose one of {', '.join(INFERENCE_PRECISIONS)}",
        )
    if found.dtype is not None:
        return found.dtype, found
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return (torch.bfloat16 if fast else torch.float32), found
