"""How busy the machine is: processors, memory, disk and GPU.

Read on the host alone; the GPU through NVML (the package `nvidia-ml-py`), which asks
the driver and never waits for the device's work.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from lumina.packages import installed

NO_NVML = (
    "how busy the GPU is stays unknown: it is read by nvidia-ml-py, which "
    "pip install 'luminaai[gpu]' brings"
)


class Utilisation:
    """What a run's machine does beside this process too.

    Args:
        folder: on the disk that counts.
        device: "cuda" or "cpu": whether there is a GPU to look at.

    Attributes:
        missing: why something stays unknown, for a person; "" where nothing does.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import psutil

        self.folder = folder
        self.missing = ""
        self._gpu: Any = None
        psutil.cpu_percent(None)  # the first call only begins the interval
        if device != "cuda":
            return
        if not installed("pynvml"):
            self.missing = NO_NVML
            return
        self._open_gpu()

    def _open_gpu(self) -> None:
        import pynvml
        import torch

        index = torch.cuda.current_device()
        try:
            pynvml.nvmlInit()
            name = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
            self._gpu = pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError as error:
            self.missing = f"how busy the GPU is stays unknown: NVML says {error}"

    def row(self) -> dict[str, Any]:
        """Keys of a row of metrics.jsonl."""
        import psutil

        disk = psutil.disk_usage(str(self.folder))
        row: dict[str, Any] = {
            "cpu_utilization": psutil.cpu_percent(None) / 100,
            "host_memory_utilization": psutil.virtual_memory().percent / 100,
            "disk_utilization": disk.percent / 100,
            "disk_free_bytes": disk.free,
        }
        return row if self._gpu is None else row | self._gpu_row()

    def _gpu_row(self) -> dict[str, Any]:
        """What the driver says; a figure that a GPU does not have is left out."""
        import pynvml

        row: dict[str, Any] = {}
        gpu = self._gpu
        with contextlib.suppress(pynvml.NVMLError):
            busy = pynvml.nvmlDeviceGetUtilizationRates(gpu)
            row["gpu_utilization"] = busy.gpu / 100
            row["gpu_memory_bandwidth_utilization"] = busy.memory / 100
        with contextlib.suppress(pynvml.NVMLError):
            row["gpu_memory_used_bytes"] = pynvml.nvmlDeviceGetMemoryInfo(gpu).used
        with contextlib.suppress(pynvml.NVMLError):
            row["gpu_power_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
        with contextlib.suppress(pynvml.NVMLError):
            kind = pynvml.NVML_TEMPERATURE_GPU
            row["gpu_temperature"] = pynvml.nvmlDeviceGetTemperature(gpu, kind)
        with contextlib.suppress(pynvml.NVMLError):
            kind = pynvml.NVML_CLOCK_SM
            row["gpu_clock_mhz"] = pynvml.nvmlDeviceGetClockInfo(gpu, kind)
        return row
