"""Clock, power and temperature of the GPU while something is timed."""

from __future__ import annotations

import statistics
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from lumina.observe.utilisation import Utilisation

PERIOD = 0.25
"""Seconds between two readings. NVML asks the driver and does not wait for the GPU."""

READ = {
    "gpu_clock_mhz": "clock_mhz",
    "gpu_power_watts": "power_watts",
    "gpu_temperature": "temperature_celsius",
}
"""Metric of `Utilisation` -> name in the results."""


class GpuWatch:
    """Reads the GPU four times a second for as long as it is entered.

    Args:
        device: "cuda"; on anything else there is nothing to read.

    Attributes:
        missing: why there are no readings, for a person; "" where there are.
    """

    def __init__(self, device: str) -> None:
        self._source = Utilisation(Path("/"), device)
        self.missing = self._source.missing
        if device != "cuda":
            self.missing = "clock, power and temperature are read of CUDA devices only"
        self._found: dict[str, list[float]] = {name: [] for name in READ.values()}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> GpuWatch:
        if not self.missing:
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            row = self._source.row()
            for metric, name in READ.items():
                if metric in row:
                    self._found[name].append(float(row[metric]))
            if self._ended.wait(PERIOD):
                return

    def readings(self) -> dict[str, Any]:
        """Median, least and most of each, and how many; why there are none."""
        found: dict[str, Any] = {
            name: {
                "median": statistics.median(values),
                "least": min(values),
                "most": max(values),
                "readings": len(values),
            }
            for name, values in self._found.items()
            if values
        }
        return found if found else {"missing": self.missing or "the driver says none"}
