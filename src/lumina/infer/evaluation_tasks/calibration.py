"""Whether a model is as sure as it is right: calibration error and Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumina.infer.evaluation_tasks.task import Metric, Values

BINS = 15


def expected_calibration_error(values: Values) -> float:
    """How far confidence and accuracy are apart, on average over the examples.

    Guo et al., 2017, arXiv:1706.04599: examples are divided into 15 bins of equal
    width by their confidence; of each bin the distance between the mean confidence and
    the share of right answers counts with its number of examples.

    Args:
        values: [examples, 2]: confidence from 0 to 1, and 1 where the answer is right.
    """
    confidence, right = values[:, 0], values[:, 1]
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    count = np.bincount(bins, minlength=BINS)
    apart = np.abs(np.bincount(bins, confidence, BINS) - np.bincount(bins, right, BINS))
    return float(apart.sum() / count.sum())


def confidence_of(logs: Sequence[float], gold: int) -> tuple[float, float]:
    """(probability of the likeliest choice, Brier score) of one question.

    Args:
        logs: log-likelihoods of the choices; their probabilities are made to add up
            to one.
        gold: the number of the right choice.

    Returns:
        The Brier score (1950) is the squared distance from certainty of the right
        choice, summed over the choices: 0 to 2.
    """
    scores = np.array(logs)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    wanted = np.zeros_like(shares)
    wanted[gold] = 1.0
    return float(shares.max()), float(((shares - wanted) ** 2).sum())


CALIBRATION = Metric(
    "uncertainty_calibration",
    "expected calibration error: how far confidence is from accuracy",
    higher_is_better=False,
    combine=expected_calibration_error,
)
BRIER = Metric(
    "brier",
    "Brier score of the choices' probabilities",
    higher_is_better=False,
)
