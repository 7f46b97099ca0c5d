"""What each device can compute, and with which kernels: `lumina doctor --capabilities`.

Everything here is read from tables: `lumina.plan.device_rules`,
`lumina.features.precisions`, `lumina.plan.memory_rules` and `KERNELS` below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lumina.features.needs import Need, capability, kernel_compiler
from lumina.features.precisions import PRECISIONS
from lumina.plan.device_rules import RULES, rule_for
from lumina.plan.memory_rules import MEMORY_RULES, rule_of_memory
from lumina.plan.precision import automatic_precision, unsupported

if TYPE_CHECKING:
    from lumina.plan.environment import Environment


@dataclass(frozen=True)
class Kernel:
    """A kernel that takes the place of plain operations where it can.

    Attributes:
        name: what it is called.
        computes: what it computes.
        need: why a machine cannot have it, or None.
        otherwise: what computes the same without it.
    """

    name: str
    computes: str
    need: Need
    otherwise: str


def _flash3(machine: Any) -> str | None:
    found = capability(9, 0)(machine)
    if found is None and not machine.flash3:
        found = machine.flash3_detail or "its package flash-attn-3 is missing"
    return found


def _on_cuda(machine: Any) -> str | None:
    return None if machine.device == "cuda" else "needs CUDA"


def _compiled_on_cuda(machine: Any) -> str | None:
    return _on_cuda(machine) or kernel_compiler(machine)


KERNELS = (
    Kernel("FlashAttention-3", "attention in packed rows", _flash3, "FlashAttention-2"),
    Kernel(
        "FlashAttention-2",
        "attention in packed rows, 16-bit types",
        capability(8, 0),
        "scaled dot product attention with a mask",
    ),
    Kernel(
        "cuDNN attention",
        "causal attention of whole rows, and of blocks of long ones, 16-bit types",
        capability(9, 0),
        "FlashAttention-2",
    ),
    Kernel("torch.compile", "blocks", kernel_compiler, "eager blocks"),
    Kernel(
        "one-pass AdamW (Triton)",
        "the optimizer's step",
        _compiled_on_cuda,
        "torch's fused AdamW",
    ),
    Kernel(
        "fused cross entropy (Triton)",
        "the loss of a chunk of logits",
        _compiled_on_cuda,
        "torch's operations",
    ),
    Kernel(
        "grouped products",
        "experts in bfloat16",
        capability(8, 0),
        "one product for each expert",
    ),
    Kernel(
        "float8 products (cuBLAS)",
        "linear layers with mixed_fp8 and fp8_e4m3",
        capability(9, 0),
        "bfloat16 products",
    ),
)
"""Every kernel that a plan may use."""


@dataclass(frozen=True)
class Capability:
    """One line of the table.

    Attributes:
        section: what the line is about.
        name: the device, precision or kernel.
        says: columns of the section, in its order.
        here: whether it is this machine's device, or works on it.
    """

    section: str
    name: str
    says: tuple[str, ...]
    here: bool


HEADS = {
    "devices": ("kind of device", "from", "automatic", "suited", "remarks"),
    "precisions": ("--precision", "computes in", "on this device"),
    "kernels": ("kernel", "computes", "on this device", "otherwise"),
    "memory": ("memory of a device", "what --adapt-to-memory does"),
}
"""Section -> the heads of its columns; the first is of `Capability.name`."""


def capabilities(machine: Environment) -> list[Capability]:
    """Every line, section by section, in the order of `HEADS`."""
    return [
        *_devices(machine),
        *_precisions(machine),
        *_kernels(machine),
        *_memory(machine),
    ]


def capability_facts(machine: Environment) -> dict[str, Any]:
    """The same as plain values for JSON."""
    return {
        "device": machine.device_name,
        "kind": rule_for(machine).name,
        "automatic": automatic_precision(machine)[0].name,
        "lines": [asdict(line) for line in capabilities(machine)],
    }


def _devices(machine: Environment) -> list[Capability]:
    own = rule_for(machine)
    lines = []
    for rule in RULES:
        least = f"{rule.capability[0]}.{rule.capability[1]}"
        remarks = rule.notes or rule.why
        says = (
            least if rule.capability > (0, 0) else "-",
            rule.automatic,
            ", ".join(rule.precisions),
            remarks,
        )
        lines.append(Capability("devices", rule.name, says, rule is own))
    return lines


def _precisions(machine: Environment) -> list[Capability]:
    lines = []
    for name, mode in PRECISIONS.items():
        problem = unsupported(mode, machine)
        says = (mode.summary, problem or "works")
        lines.append(Capability("precisions", name, says, problem is None))
    chosen, why = automatic_precision(machine)
    return [*lines, Capability("precisions", "auto", (chosen.name, why), True)]


def _kernels(machine: Environment) -> list[Capability]:
    lines = []
    for kernel in KERNELS:
        problem = kernel.need(machine)
        says = (kernel.computes, problem or "works", kernel.otherwise)
        lines.append(Capability("kernels", kernel.name, says, problem is None))
    return lines


def _memory(machine: Environment) -> list[Capability]:
    own = rule_of_memory(machine)
    return [
        Capability("memory", rule.words, (rule.effect,), rule is own)
        for rule in MEMORY_RULES
    ]
