"""Which of two values of a metric is the better one."""

from __future__ import annotations


def is_highest(metric: str, best_is: str | None) -> bool:
    """Whether more of a metric is better.

    Args:
        metric: a key of an evaluation, such as `eval_loss` or `eval_accuracy`.
        best_is: "lowest" or "highest" where the settings say so, else None.
    """
    if best_is is not None:
        return best_is == "highest"
    return not any(part in metric for part in ("loss", "steps", "perplexity", "bits"))
