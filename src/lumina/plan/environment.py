"""What this machine is: asked once, before anything is decided."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.host_memory import host_memory_bytes, usable_cores
from lumina.packages import installed
from lumina.plan.cpu_precision import bf16_speedup, worth
from lumina.plan.hardware import DTYPES, peak_flops
from lumina.quantities import bytes_of

if TYPE_CHECKING:
    from lumina.config import Config


PLAIN_BACKWARDS = {
    "HYDRA_DISABLE_FUSED_SWIGLU_BWD": "swiglu",
    "HYDRA_DISABLE_FUSED_RMS_NORM_BWD": "rms_norm",
    "HYDRA_DISABLE_FUSED_QK_NORM_BWD": "qk_norm",
}
"""Variable that is 1 -> the fused kernel whose gradient PyTorch computes."""


@dataclass(frozen=True)
class Environment:
    """The hardware and software a plan is made for.

    Attributes:
        device: "cpu", "cuda" or "mps", where the run will be.
        device_name: the chip's own name.
        device_count: CUDA devices seen, else 1.
        memory_bytes: memory of one device; on the CPU this process's share of the host.
        host_memory_bytes: host memory, container limits honoured.
        cores: CPU cores this process may use.
        capability: CUDA compute capability, None on the CPU.
        bf16: bfloat16 products are worth using: CUDA 8.0 or later; on the CPU only
            when training was measured to be clearly faster than in float32.
        bf16_speedup: measured on a CPU that has instructions for it, float32 time /
            bfloat16 time (`lumina.plan.cpu_precision`); else None.
        cpu_name: the processor.
        cpu_features: of "amx_bf16", "avx512_bf16", "avx512f", "avx2", those it has.
        compiler: torch.compile can build kernels for the device.
        compiler_detail: what was found, or what is missing.
        flash3: FlashAttention-3 can take the place of torch's kernel (Hopper only).
        flash3_detail: the package found, or what is missing.
        torch_version: as installed.
        cuda_version: what torch was built for, None without CUDA.
        peak_flops: dense peak by compute type, None where unknown.
        local_processes: processes of this run on this machine.
        failed_pretests: feature -> why its pretest failed here (`lumina.guard`).
        plain_backwards: fused kernels whose gradient is to be computed operation by
            operation: HYDRA_DISABLE_FUSED_NAME_BWD is 1.
        capped: `memory_bytes` is what may be used of more (`cap_memory`).
    """

    device: str
    device_name: str
    device_count: int
    memory_bytes: int
    host_memory_bytes: int
    cores: int
    capability: tuple[int, int] | None = None
    bf16: bool = False
    bf16_speedup: float | None = None
    cpu_name: str = ""
    cpu_features: tuple[str, ...] = ()
    compiler: bool = False
    compiler_detail: str = ""
    flash3: bool = False
    flash3_detail: str = ""
    torch_version: str = ""
    cuda_version: str | None = None
    peak_flops: dict[str, float | None] = field(default_factory=dict)
    local_processes: int = 1
    failed_pretests: dict[str, str] = field(default_factory=dict)
    capped: bool = False
    plain_backwards: tuple[str, ...] = ()

    def on_cpu(self) -> Environment:
        """The same machine without its accelerator."""
        if self.device == "cpu":
            return self
        return replace(
            self,
            device="cpu",
            device_name=self.cpu_name,
            device_count=1,
            memory_bytes=self.host_memory_bytes // self.local_processes,
            capability=None,
            flash3=False,
            flash3_detail="",
            bf16=worth(self.bf16_speedup),
            compiler=cpp_compiler() is not None,
            compiler_detail=_cpu_compiler_detail(),
            peak_flops=dict.fromkeys(DTYPES),
        )


def probe(wanted: Config | str = "auto") -> Environment:
    """Look at this machine. Imports torch.

    The first time on a CPU with bfloat16 instructions it takes a second longer, to
    measure what they are worth.

    Args:
        wanted: "auto", "cpu", "cuda" or "mps", or a Config whose `device` says so.
            "auto" is CUDA where there is such a device, else the CPU.

    Raises:
        LuminaError: E003 for a device that is not there.
    """
    import torch

    device = wanted if isinstance(wanted, str) else wanted.system.device
    if not isinstance(wanted, str) and wanted.system.cuda_ids:
        device = "cuda"
    processes = _local_processes()
    host = host_memory_bytes()
    features = cpu_features()
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device in there and not there[device]():
        raise no_device(device)
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    speedup = bf16_speedup(features, _cpu_name()) if on_cpu else None
    machine = Environment(
        device="cpu",
        device_name=_cpu_name(),
        device_count=1,
        memory_bytes=host // processes,
        host_memory_bytes=host,
        cores=usable_cores(),
        bf16=worth(speedup),
        bf16_speedup=speedup,
        cpu_name=_cpu_name(),
        cpu_features=features,
        compiler=cpp_compiler() is not None,
        compiler_detail=_cpu_compiler_detail(),
        torch_version=torch.__version__,
        cuda_version=torch.version.cuda,
        peak_flops=dict.fromkeys(DTYPES),
        local_processes=processes,
        plain_backwards=tuple(
            name
            for variable, name in PLAIN_BACKWARDS.items()
            if os.environ.get(variable) == "1"
        ),
    )
    if on_cpu:
        return machine
    return _with_mps(machine) if device == "mps" else _with_cuda(machine)


def capped(machine: Environment, config: Config) -> Environment:
    """The machine with no more memory on its GPU than `cap_memory` allows.

    Raises:
        LuminaError: E003 where there is no GPU to limit.
    """
    asked = config.system.cap_memory
    if asked is None:
        return machine
    if machine.device != "cuda" or config.system.device in ("cpu", "mps"):
        raise LuminaError(
            "E003",
            "cap_memory limits what is allocated on a CUDA device, and the run is on "
            f"{'the CPU' if config.system.device != 'mps' else 'mps'}",
            'leave --cap-memory out; `lumina plan --hardware-profile "8 GB"` plans '
            "for a card of that size on any machine",
        )
    size = bytes_of(asked)
    assert size is not None  # the configuration has checked it
    return replace(machine, memory_bytes=min(machine.memory_bytes, size), capped=True)


_MISSING = {
    "cuda": (
        "this torch sees no CUDA device",
        "use --device cpu, or install a driver and a CUDA build of torch",
    ),
    "mps": (
        "this torch sees no GPU of an Apple computer",
        "use --device cpu, or cuda where there is such a device",
    ),
}
"""Kind of device -> what is missing, and what to do."""


def no_device(kind: str) -> LuminaError:
    """The refusal of a device that is not there."""
    missing, hint = _MISSING[kind]
    return LuminaError("E003", f"device {kind}: {missing}", hint)


def _local_processes() -> int:
    """Processes of this run on this machine, as the launcher tells."""
    everywhere = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", everywhere)))


def _with_mps(machine: Environment) -> Environment:
    import torch

    return replace(
        machine,
        device="mps",
        device_name=machine.cpu_name,
        memory_bytes=torch.mps.recommended_max_memory(),
        bf16=False,
        compiler=False,
        compiler_detail="Triton has no code for Apple GPUs",
    )


def _with_cuda(machine: Environment) -> Environment:
    import torch

    from lumina.ops.attention import flash3

    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    card = torch.cuda.get_device_properties(index)
    triton = installed("triton")
    c_compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    missing = [
        name
        for name, there in (("triton", triton), ("a C compiler", c_compiler))
        if not there
    ]
    hopper = card.major == 9
    newest, detail = flash3.found() if hopper else (False, "needs a Hopper GPU")
    return replace(
        machine,
        flash3=newest,
        flash3_detail=detail,
        device="cuda",
        device_name=card.name,
        device_count=torch.cuda.device_count(),
        memory_bytes=card.total_memory,
        capability=(card.major, card.minor),
        bf16=card.major >= 8,
        compiler=not missing and card.major >= 7,
        compiler_detail=(
            f"{' and '.join(missing)} missing"
            if missing
            else f"triton, {Path(str(c_compiler)).name}"
        ),
        peak_flops={kind: peak_flops(card.name, kind) for kind in DTYPES},
    )


def cpu_features() -> tuple[str, ...]:
    """The vector and matrix extensions that matter here, best first."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        flags = next(
            (line for line in text.splitlines() if line.startswith("flags")), ""
        ).split()
    except OSError:
        flags = []
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    return tuple(name for name in known if name in flags)


def cpp_compiler() -> str | None:
    """The C++ compiler torch.compile would call on the CPU, or None."""
    named = os.environ.get("CXX")
    candidates = (named,) if named else ("g++", "clang++", "c++")
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _cpu_compiler_detail() -> str:
    found = cpp_compiler()
    return Path(found).name if found else "no C++ compiler"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_asked_for(config: Config, environment: Environment) -> Environment:
    """The environment on the device that was asked for.

    Raises:
        LuminaError: E003 where it is not there.
    """
    asked = "cuda" if config.system.cuda_ids else config.system.device
    if asked == "cpu":
        return environment.on_cpu()
    if asked not in ("auto", environment.device):
        raise no_device(asked)
    return environment
