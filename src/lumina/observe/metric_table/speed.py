"""How fast a run is, and how busy the machine."""

from __future__ import annotations

from lumina.observe.metric_table.core import LOGGED
from lumina.observe.metric_table.metric import Metric

TITLE = "Speed and utilisation"

BUSY = f"{LOGGED}, with `--metrics full`"
NVML = f"{BUSY}, on a GPU where `nvidia-ml-py` is installed"

METRICS = (
    Metric(
        "step_seconds",
        "from the end of the step before to the end of this one, on the device; "
        "evaluations and checkpoints are left out",
        "seconds",
        also=("step_time",),
        of_a_rank=True,
    ),
    Metric(
        "agreed_step_seconds",
        "mean of `step_seconds` over all processes, of the newest step that was known "
        "when this one began; null in the first steps of a process",
        "seconds",
        of_a_machine=True,
    ),
    Metric(
        "agreed_compiled_graphs",
        "graphs that torch.compile made in the newest step that was known when this "
        "one began, mean over all processes; where it is not 0 long after the start, "
        "blocks are compiled again and again",
        "graphs",
        of_a_machine=True,
    ),
    Metric(
        "data_wait_seconds",
        "how long the step waited for its data",
        "seconds",
        of_a_rank=True,
    ),
    Metric(
        "tokens_per_second",
        "input tokens of all processes in a second",
        "tokens / s",
        "tokens of the step / step_seconds",
        of_a_rank=True,
    ),
    Metric(
        "samples_per_second",
        "rows of all processes in a second",
        "rows / s",
        "rows of the step / step_seconds",
        of_a_rank=True,
    ),
    Metric(
        "steps_per_second",
        "optimizer steps in a second",
        "steps / s",
        "1 / step_seconds",
        of_a_rank=True,
    ),
    Metric(
        "mfu",
        "model FLOPs utilisation: operations that the model needs, as a share of what "
        "the devices can do at most; null where that is not known",
        "",
        "tokens_per_second x FLOPs per token / (peak x processes)",
        of_a_rank=True,
    ),
    Metric(
        "hfu",
        "hardware FLOPs utilisation: the same with what `gradient_checkpointing full` "
        "computes a second time; equal to `mfu` without it",
        "",
        "mfu x (FLOPs + forward FLOPs of the blocks) / FLOPs",
        of_a_rank=True,
    ),
    Metric(
        "epoch_time",
        "time of the steps of one pass over the data",
        "seconds",
        "sum of step_seconds over the pass",
        "the last step of a pass, if this process did its first step too",
        of_a_rank=True,
    ),
    Metric(
        "cpu_utilization",
        "share of the machine's processor time in use since the last such row",
        "",
        "",
        BUSY,
        of_a_rank=True,
    ),
    Metric(
        "host_memory_utilization",
        "share of the machine's memory in use",
        "",
        "",
        BUSY,
        of_a_rank=True,
    ),
    Metric(
        "disk_utilization",
        "share of the disk of the run directory in use",
        "",
        "",
        BUSY,
        of_a_rank=True,
    ),
    Metric(
        "disk_free_bytes", "room left on that disk", "bytes", "", BUSY, of_a_rank=True
    ),
    Metric(
        "gpu_utilization",
        "share of the last second or less in which a kernel ran",
        "",
        "",
        NVML,
        of_a_rank=True,
    ),
    Metric(
        "gpu_memory_bandwidth_utilization",
        "share of that time in which the GPU's memory was read or written",
        "",
        "",
        NVML,
        of_a_rank=True,
    ),
    Metric(
        "gpu_memory_used_bytes",
        "memory of the GPU in use by all processes",
        "bytes",
        "",
        NVML,
        of_a_rank=True,
    ),
    Metric(
        "gpu_power_watts", "power that the GPU draws", "watts", "", NVML, of_a_rank=True
    ),
    Metric(
        "gpu_temperature",
        "temperature of the GPU",
        "degrees Celsius",
        "",
        NVML,
        of_a_rank=True,
    ),
    Metric(
        "gpu_clock_mhz",
        "clock of the GPU's processors",
        "MHz",
        "",
        NVML,
        of_a_rank=True,
    ),
)
