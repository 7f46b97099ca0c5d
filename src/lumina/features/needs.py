"""Needs that several features share: why a machine cannot have them."""

from __future__ import annotations

from collections.abc import Callable

from lumina.features.feature import Machine

Need = Callable[[Machine], str | None]


def capability(major: int, minor: int, *, cpu_too: bool = False) -> Need:
    """A CUDA device of at least this compute capability; perhaps the CPU as well."""

    def need(machine: Machine) -> str | None:
        wanted = f"compute capability {major}.{minor}"
        if machine.device != "cuda":
            return (
                None if cpu_too else f"needs a CUDA device of {wanted}; this is a CPU"
            )
        have = machine.capability or (0, 0)
        if have >= (major, minor):
            return None
        return (
            f"needs {wanted}; {machine.device_name} has capability {have[0]}.{have[1]}"
        )

    return need


def kernel_compiler(machine: Machine) -> str | None:
    """What torch.compile needs to build kernels."""
    if machine.compiler:
        return None
    needed = "triton and a C compiler" if machine.device == "cuda" else "a C++ compiler"
    detail = f" ({machine.compiler_detail})" if machine.compiler_detail else ""
    return f"needs {needed}{detail}"
