"""Known hardware as data, so that a run can be planned for what is not present.

Peak rates of products are those of `lumina.plan.hardware`, by the name that the driver
gives the card. Bandwidths are the vendors': the data sheet that `source` names. Memory
is what PyTorch reports as a card's total, which is a little less than the data sheet's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lumina.errors import LuminaError
from lumina.plan.environment import Environment
from lumina.plan.hardware import DTYPES, peak_flops
from lumina.quantities import byte_size, bytes_of

GIB = 2**30

USABLE_SHARE = 0.97
"""What PyTorch reports of the size that a card is sold by: 0.97 to 0.99 in the table
below, less only with error correction in the same memory."""


@dataclass(frozen=True)
class HardwareProfile:
    """One kind of device.

    Attributes:
        device: "cuda", "mps" or "cpu".
        device_name: as the driver reports it; "" for the processor of this machine.
        memory_gib: of one device, as PyTorch reports it; 0: that of this machine.
        bandwidth: bytes a second between the device and its memory; None: not known.
        link: bytes a second that one device can send to another of the same machine;
            None: not known.
        capability: CUDA compute capability; None on the CPU.
        source: where memory, bandwidth and link are from.
        note: what else there is to know.
        host_link: bytes a second between device and pinned host memory, each way while
            both ways are in use; None: not known.
        host_measured: whether that was measured on such a card; else it is assumed of
            its generation of PCIe.
    """

    device: str
    device_name: str
    memory_gib: float
    bandwidth: float | None
    link: float | None
    capability: tuple[int, int] | None
    source: str
    note: str = ""
    host_link: float | None = None
    host_measured: bool = False

    def machine(self, here: Environment, devices: int = 1) -> Environment:
        """The machine to plan for.

        Args:
            here: the present machine; software and host are taken to be as here.
            devices: how many of these devices it has.
        """
        memory = int(self.memory_gib * GIB)
        if self.device == "cpu":
            described = here.on_cpu()
            size = memory or described.host_memory_bytes
            return replace(
                described,
                device_name=self.device_name or described.device_name,
                memory_bytes=size,
                host_memory_bytes=size,
                device_count=devices,
            )
        if self.device == "mps":
            return replace(
                here.on_cpu(),
                device="mps",
                device_name=self.device_name,
                memory_bytes=memory,
                bf16=False,
                bf16_speedup=None,
                compiler=False,
                compiler_detail="Triton has no code for Apple GPUs",
                device_count=devices,
            )
        assert self.capability is not None
        return replace(
            here,
            device="cuda",
            device_name=self.device_name,
            device_count=devices,
            memory_bytes=memory,
            capability=self.capability,
            bf16=self.capability >= (8, 0),
            bf16_speedup=None,
            compiler=self.capability >= (7, 0),
            compiler_detail="triton and a C compiler, which are taken to be there",
            flash3=False,
            flash3_detail="taken to be absent",
            peak_flops={kind: peak_flops(self.device_name, kind) for kind in DTYPES},
        )


def _card(
    name: str,
    gib: float,
    bandwidth: float,
    link: float,
    capability: tuple[int, int],
    source: str,
    note: str = "",
    host: float | None = None,
) -> HardwareProfile:
    """A CUDA card; bandwidth, link and link to the host in 1e9 bytes a second.

    Args:
        host: of a link to the host that was measured.
    """
    assumed = {7: _PCIE3, 8: _PCIE4}.get(capability[0], _PCIE5)
    return HardwareProfile(
        "cuda",
        name,
        gib,
        bandwidth * 1e9,
        link * 1e9,
        capability,
        source,
        note,
        host_link=1e9 * (host or assumed),
        host_measured=host is not None,
    )


def _mac(name: str, gib: float, bandwidth: float) -> HardwareProfile:
    """A Mac with the smallest memory that it is sold with, in GiB.

    Metal recommends that a program takes two thirds of it, and of larger ones three
    quarters.
    """
    return HardwareProfile(
        "mps",
        f"Apple {name}",
        round(gib * (2 / 3 if gib <= 36 else 3 / 4), 1),
        bandwidth * 1e9,
        None,
        None,
        f"Apple's technical specifications of the {name} with {gib} GB",
        "Apple states no rate of its GPU's products, so that no time is estimated",
    )


_PCIE5, _PCIE4, _PCIE3 = 50, 25, 12
"""What 16 lanes carry one way in practice; their nominal rates are 64, 32 and 16."""

_H200 = 49.2
"""Each way of both, by `benchmarks/offload.py`: 45.8 GiB/s (docs/claims.md)."""

PROFILES: dict[str, HardwareProfile] = {
    "a100-40gb": _card(
        "NVIDIA A100-SXM4-40GB", 39.4, 1555, 300, (8, 0),
        "NVIDIA A100 data sheet, 2020; NVLink 3",
    ),
    "a100-80gb": _card(
        "NVIDIA A100-SXM4-80GB", 79.1, 2039, 300, (8, 0),
        "NVIDIA A100 80 GB data sheet, 2021; NVLink 3",
    ),
    "h100-80gb": _card(
        "NVIDIA H100 80GB HBM3", 79.1, 3350, 450, (9, 0),
        "NVIDIA H100 data sheet, SXM; NVLink 4",
    ),
    "h100-pcie": _card(
        "NVIDIA H100 PCIe", 79.1, 2000, _PCIE4, (9, 0),
        "NVIDIA H100 data sheet, PCIe, without a bridge",
    ),
    "h200": _card(
        "NVIDIA H200", 139.8, 4800, 450, (9, 0),
        "NVIDIA H200 data sheet, SXM; NVLink 4", host=_H200,
    ),
    "b200": _card(
        "NVIDIA B200", 178.3, 8000, 900, (10, 0),
        "NVIDIA DGX B200 data sheet, an eighth of the machine; NVLink 5",
    ),
    "rtx-5090": _card(
        "NVIDIA GeForce RTX 5090", 31.3, 1792, _PCIE5, (12, 0),
        "NVIDIA RTX Blackwell architecture white paper; PCIe 5",
    ),
    "rtx-4090": _card(
        "NVIDIA GeForce RTX 4090", 23.5, 1008, _PCIE4, (8, 9),
        "NVIDIA Ada architecture white paper; PCIe 4",
    ),
    "rtx-3090": _card(
        "NVIDIA GeForce RTX 3090", 23.6, 936, _PCIE4, (8, 6),
        "NVIDIA GA102 architecture white paper; PCIe 4",
    ),
    "a10": _card(
        "NVIDIA A10", 22.1, 600, _PCIE4, (8, 6),
        "NVIDIA A10 data sheet; PCIe 4",
        "error correction, which is on, takes a sixteenth of its memory",
    ),
    "l40s": _card(
        "NVIDIA L40S", 44.3, 864, _PCIE4, (8, 9),
        "NVIDIA L40S data sheet; PCIe 4",
    ),
    "v100-16gb": _card(
        "Tesla V100-SXM2-16GB", 15.7, 900, 150, (7, 0),
        "NVIDIA V100 data sheet, SXM2; NVLink 2",
    ),
    "v100-32gb": _card(
        "Tesla V100-SXM2-32GB", 31.7, 900, 150, (7, 0),
        "NVIDIA V100 data sheet, SXM2; NVLink 2",
    ),
    "t4": _card(
        "Tesla T4", 14.5, 300, _PCIE3, (7, 5),
        "NVIDIA T4 data sheet; PCIe 3",
    ),
    "m1": _mac("M1", 8, 68.25),
    "m1-max": _mac("M1 Max", 32, 400),
    "m2": _mac("M2", 8, 100),
    "m2-ultra": _mac("M2 Ultra", 64, 800),
    "m3": _mac("M3", 8, 100),
    "m4": _mac("M4", 16, 120),
    "m4-max": _mac("M4 Max", 36, 410),
    "cpu": HardwareProfile(
        "cpu", "", 0, None, None, None, "this machine without its GPU"
    ),
}  # fmt: skip
"""Name on the command line -> the device."""

ALIASES = {
    "a100": "a100-80gb",
    "h100": "h100-80gb",
    "h100-sxm": "h100-80gb",
    "h200-141gb": "h200",
    "b200-180gb": "b200",
    "5090": "rtx-5090",
    "4090": "rtx-4090",
    "3090": "rtx-3090",
    "v100": "v100-16gb",
}
"""Further names."""


def find_profile(name: str) -> tuple[str, HardwareProfile]:
    """The name and the profile; capitals and underscores do not matter.

    A size such as "8 GB" stands for any card of it.

    Raises:
        LuminaError: E005, naming those there are.
    """
    size = bytes_of(name)
    if size is not None:
        return _card_of(size)
    key = name.strip().lower().replace("_", "-")
    key = ALIASES.get(key, key)
    if key not in PROFILES:
        raise LuminaError(
            "E005",
            f"there is no hardware profile {name!r}",
            f'a size such as "8 GB", or one of {", ".join(PROFILES)}',
        )
    return key, PROFILES[key]


def _card_of(size: int) -> tuple[str, HardwareProfile]:
    """A card of which only the memory is known."""
    name = f"a card of {byte_size(size)}"
    usable = USABLE_SHARE * size / GIB
    source = "the size alone; its speed is not known"
    note = "any CUDA card of the Ampere generation or a later one"
    return name, HardwareProfile("cuda", name, usable, None, None, (8, 0), source, note)


def profile_of(device_name: str) -> HardwareProfile | None:
    """The profile of a device that is present, or None: it is not in the table."""
    found = [p for p in PROFILES.values() if p.device_name == device_name]
    return found[0] if found else None
