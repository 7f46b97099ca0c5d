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


def memory_beside(what: str) -> Need:
    """A device whose memory is not the host's: a CUDA device.

    Args:
        what: would be moved into host memory.
    """

    def need(machine: Machine) -> str | None:
        if machine.device == "cuda":
            return None
        return (
            f"needs a CUDA device: the memory of {machine.device_name} is the host's, "
            f"where {what} are anyway"
        )

    return need


def not_apple(machine: Machine) -> str | None:
    """Anything but an Apple GPU, where it was not tried."""
    return None if machine.device != "mps" else "was not tried on Apple GPUs"


def kernel_compiler(machine: Machine) -> str | None:
    """What torch.compile needs to build kernels."""
    if machine.compiler:
        return None
    needed = "triton and a C compiler" if machine.device == "cuda" else "a C++ compiler"
    detail = f" ({machine.compiler_detail})" if machine.compiler_detail else ""
    return f"needs {needed}{detail}"
