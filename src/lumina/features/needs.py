"""Needs that several features share: why a machine cannot have them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lumina.features.feature import Machine

Need = Callable[[Machine], str | None]

_WORDS = {"cpu": "a CPU", "mps": "an Apple GPU"}


def capability(major: int, minor: int, *, also: Collection[str] = ()) -> Need:
    """A CUDA device of at least this compute capability.

    Args:
        major: of the least capability.
        minor: likewise.
        also: other kinds of device that meet the need as well: "cpu", "mps".
    """

    def need(machine: Machine) -> str | None:
        wanted = f"compute capability {major}.{minor}"
        if machine.device != "cuda":
            if machine.device in also:
                return None
            kind = _WORDS.get(machine.device, machine.device)
            return f"needs a CUDA device of {wanted}; this is {kind}"
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
