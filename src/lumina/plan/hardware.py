"""What known cards can do at most. A card that is not here has no known peak."""

from __future__ import annotations

import re
from typing import Any

# Dense peaks in 1e12 operations a second, from the vendors' data sheets, with float32
# accumulation (which halves GeForce cards' 16-bit rate). First match wins, so a
# variant stands before the card it is a variant of. None: not stated or not supported.
# pattern: (bfloat16, float16, tf32, float32)
_PEAKS: tuple[tuple[str, tuple[float | None, float | None, float | None, float]], ...]
_PEAKS = (
    (r"\bGB200\b", (2500, 2500, 1250, 80)),
    (r"\bB200\b", (2250, 2250, 1100, 75)),
    (r"\bGH200\b", (989, 989, 494, 67)),
    (r"\bH200 NVL\b", (835.5, 835.5, 417.5, 60)),
    (r"\bH200\b", (989, 989, 494, 67)),
    (r"\bH100 PCIe\b", (756, 756, 378, 51)),
    (r"\bH100 NVL\b", (835.5, 835.5, 417.5, 60)),
    (r"\bH100\b", (989, 989, 494, 67)),
    (r"\bH800 PCIe\b", (756, 756, 378, 51)),
    (r"\bH800\b", (989, 989, 494, 67)),
    (r"\bH20\b", (148, 148, 74, 44)),
    (r"\bA100\b", (312, 312, 156, 19.5)),
    (r"\bA800\b", (312, 312, 156, 19.5)),
    (r"\bA30\b", (165, 165, 82, 10.3)),
    (r"\bA40\b", (149.7, 149.7, 74.8, 37.4)),
    (r"\bA10\b", (125, 125, 62.5, 31.2)),
    (r"\bRTX A6000\b", (154.8, 154.8, 77.4, 38.7)),
    (r"\bL40S\b", (362, 362, 183, 91.6)),
    (r"\bL40\b", (181, 181, 90.5, 90.5)),
    (r"\bL4\b", (121, 121, 60, 30.3)),
    (r"\bRTX 6000 Ada\b", (364.2, 364.2, 182.1, 91.1)),
    (r"\bRTX 5090\b(?! (D|Laptop))", (209.5, 209.5, 104.8, 104.8)),
    (r"\bRTX 4090\b(?! (D|Laptop))", (165.2, 165.2, 82.6, 82.6)),
    (r"\bRTX 3090\b(?! Ti)", (71, 71, 35.6, 35.6)),
    (r"\bT4\b", (None, 65, None, 8.1)),
    (r"\bV100-PCIE", (None, 112, None, 14)),
    (r"\bV100-SXM2", (None, 125, None, 15.7)),
)

DTYPES = ("bfloat16", "float16", "tf32", "float32")
"""The compute types a peak is given for."""


def peak_flops(device_name: str, dtype: Any) -> float | None:
    """Dense peak in operations a second, or None: unknown is never guessed.

    Args:
        device_name: as CUDA reports it, such as "NVIDIA H100 80GB HBM3".
        dtype: "bfloat16", "float16", "tf32", "float32", or the torch type.
    """
    kind = str(dtype).removeprefix("torch.")
    if kind not in DTYPES or " MIG " in f"{device_name} ":
        # A slice of a card has a share of its peak that its name does not tell.
        return None
    for pattern, peaks in _PEAKS:
        if re.search(pattern, device_name):
            value = peaks[DTYPES.index(kind)]
            return None if value is None else value * 1e12
    return None
