"""What each of several processes does."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "Processes side by side"

WHEN = (
    "50 times in a run, every 5 to 100 steps, with several processes and "
    "`--health-checks`"
)


def _of_ranks(key: str, meaning: str, unit: str) -> Metric:
    """A list with an entry for each process, the same on all of them."""
    return Metric(key, f"{meaning}: a list, by rank", unit, "", WHEN, of_a_machine=True)


METRICS = (
    _of_ranks(
        "ranks.wait_seconds",
        "how long a process waits for the slowest one where all agree to exchange "
        "gradients, lower quartile of the steps since the last such row",
        "seconds",
    ),
    _of_ranks(
        "ranks.product_seconds",
        "time of a small product, the fastest of 3, which is the same work everywhere",
        "seconds",
    ),
    _of_ranks(
        "ranks.link_seconds",
        "time to send 256 KiB to the next process and hear that they arrived",
        "seconds",
    ),
    _of_ranks(
        "ranks.exchange_seconds",
        "time to add up 256 KiB over all processes, times what the gradients are of "
        "that",
        "seconds",
    ),
    _of_ranks(
        "ranks.memory_bytes",
        "memory of its device that it has taken; on a CPU, without mapped files",
        "bytes",
    ),
    _of_ranks("ranks.memory_limit_bytes", "memory that a process has at most", "bytes"),
)
