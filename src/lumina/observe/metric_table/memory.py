"""What a run takes of its device's memory."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Memory"

METRICS = (
    Metric(
        "memory_allocated_bytes",
        "bytes in tensors on this process's GPU; on a CPU, resident of the process, "
        "with the pages of mapped files",
        "bytes",
        also=("memory_allocated",),
        of_a_rank=True,
    ),
    Metric(
        "memory_peak_bytes",
        "the most that this was since the process began",
        "bytes",
        also=("memory_peak",),
        of_a_rank=True,
    ),
    Metric(
        "memory_reserved",
        "bytes that PyTorch has taken from the GPU; null on a CPU",
        "bytes",
        of_a_rank=True,
    ),
    Metric(
        "memory_utilization",
        "share of the device's memory that the process has taken",
        "",
        "memory_reserved / memory of the device; on a CPU, memory of the process "
        "without the pages of mapped files (RssAnon + RssShmem on Linux) / its share "
        "of the machine's memory",
        of_a_rank=True,
    ),
    Metric(
        "agreed_memory_share",
        "mean of `memory_utilization` over all processes, of the newest step that was "
        "known when this one began; null where it is not known",
        of_a_machine=True,
    ),
    Metric(
        "model_memory",
        "bytes of parameters, buffers and master weights on this process's device",
        "bytes",
        of_a_rank=True,
    ),
    Metric(
        "optimizer_memory",
        "bytes of the optimizers' states and of averages of the weights",
        "bytes",
        of_a_rank=True,
    ),
    Metric(
        "gradient_memory",
        "bytes of the gradients when all of them are there",
        "bytes",
        of_a_rank=True,
    ),
    Metric(
        "activation_memory",
        "what the peak holds beside model, optimizer and gradients, which is at least "
        "what the activations take beyond the gradients; null on a CPU",
        "bytes",
        "max(0, memory_peak_bytes - model_memory - optimizer_memory - gradient_memory)",
        of_a_rank=True,
    ),
    Metric(
        "memory_fragmentation",
        "share of the reserved bytes that no tensor is in; null on a CPU",
        "",
        "1 - memory_allocated_bytes / memory_reserved",
        of_a_rank=True,
    ),
    Metric(
        "oom_risk_score",
        "how near the device is to running out of memory, from 0 to 1; u is "
        "memory_utilization, and g its growth per step from the first to the last of "
        "100 rows, 0 while there are fewer",
        "",
        "clamp((u + 100 x max(g, 0) - 0.7) / 0.3, 0, 1)",
        of_a_rank=True,
    ),
)
