"""What suits each kind of device, as one table. Imports no torch.

`precision auto`, the advice in a plan and `lumina doctor --capabilities` read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.plan.environment import Environment


@dataclass(frozen=True)
class DeviceRule:
    """One kind of device.

    Attributes:
        name: what it is called here.
        device: "cuda", "mps" or "cpu".
        capability: of CUDA devices, the least compute capability; the rule with the
            highest one that a device has is its own.
        precisions: values of `--precision` that suit it, the best first. The first is
            what `auto` takes.
        why: what the first rests on, after the compute capability.
        batch_size: most sequences of a forward where none are named; None: by memory.
        notes: what else to know, in one sentence, or "".
    """

    name: str
    device: str
    precisions: tuple[str, ...]
    why: str
    capability: tuple[int, int] = (0, 0)
    batch_size: int | None = None
    notes: str = ""

    @property
    def automatic(self) -> str:
        """The value of `--precision` that "auto" stands for."""
        return self.precisions[0]


_BF16 = "has bfloat16 tensor cores"
_FP16 = "is below 8.0: float16 with a loss scaler"

_FULL = ("mixed_bf16", "mixed_fp8", "tf32")
_NO_BF16 = "no bfloat16 and no FlashAttention-2"
_NEWEST = "FlashAttention-3 where its package is installed"
_NO_CORES = "no tensor cores: float16 saves more memory than time"

RULES = (
    DeviceRule("Blackwell, workstation", "cuda", _FULL, _BF16, (12, 0)),
    DeviceRule("Blackwell, data centre", "cuda", _FULL, _BF16, (10, 0)),
    DeviceRule("Hopper", "cuda", _FULL, _BF16, (9, 0), notes=_NEWEST),
    DeviceRule("Ada", "cuda", ("mixed_bf16", "tf32"), _BF16, (8, 9)),
    DeviceRule("Ampere, workstation", "cuda", ("mixed_bf16", "tf32"), _BF16, (8, 6)),
    DeviceRule("Ampere, data centre", "cuda", ("mixed_bf16", "tf32"), _BF16, (8, 0)),
    DeviceRule("Turing", "cuda", ("mixed_fp16",), _FP16, (7, 5), notes=_NO_BF16),
    DeviceRule("Volta", "cuda", ("mixed_fp16",), _FP16, (7, 0), notes=_NO_BF16),
    DeviceRule(
        "Pascal", "cuda", ("mixed_fp16", "fp32"), _FP16, (5, 3), notes=_NO_CORES
    ),
    DeviceRule("before Pascal", "cuda", ("fp32",), "is below 5.3: no fast 16-bit type"),
    DeviceRule(
        "Apple GPU",
        "mps",
        ("mixed_fp16", "fp32"),
        "float16 with a loss scaler, as on GPUs without bfloat16 tensor cores",
        batch_size=4,
        notes="no flash kernels, no torch.compile, one process",
    ),
    DeviceRule(
        "processor",
        "cpu",
        ("fp32", "mixed_bf16"),
        "float32, unless training in bfloat16 was measured to be clearly faster",
    ),
)
"""Every kind, in any order."""


def rule_for(machine: Environment) -> DeviceRule:
    """The rule of a machine's device."""
    have = machine.capability or (0, 0)
    fitting = [
        rule
        for rule in RULES
        if rule.device == machine.device and rule.capability <= have
    ]
    return max(fitting, key=lambda rule: rule.capability)
