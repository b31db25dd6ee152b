"""What a reward model is worth on preference pairs: accuracy with its interval, calibration, margin."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from core.records import ScoredRow
from core.shares import wilson
from evalhooks.on_policy import ranking_credit
from evalhooks.rewardbench.finite import REMEDY

NUM_BINS = 10
"""Bins of the calibration error, as in training."""


def pair_metrics(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Metrics of pairs from the rewards of chosen and rejected, all finite; empty without pairs.

    `accuracy` counts equal rewards half; `accuracy_low` and `accuracy_high` bound it at 95% (Wilson 1927). `calibration_error` is that
    of Guo et al. 2017, eq. 3, over ten bins of the confidence max(p, 1 - p) with p = sigmoid(chosen - rejected); `margin` is the mean
    of chosen - rejected.

    >>> {name: round(value, 3) for name, value in pair_metrics([(1.0, 0.0), (0.0, 0.0)]).items() if name.startswith("accuracy")}
    {'accuracy': 0.75, 'accuracy_low': 0.198, 'accuracy_high': 0.973}
    """
    if not scores:
        return {}
    credits = [ranking_credit(chosen, rejected) for chosen, rejected in scores]
    accuracy = fmean(credits)
    low, high = wilson(accuracy, len(scores))
    margins = [chosen - rejected for chosen, rejected in scores]
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "calibration_error": _calibration_error(margins, credits),
        "margin": fmean(margins),
    }


PAIR_METRICS = ("accuracy_low", "accuracy_high", "calibration_error", "margin")


def pairs_result(rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """The result of scored pairs, chosen first, as `rewardloop bench` writes it; by source in `per_subset`.

    A pair whose scores are not finite counts as wrong, and then there is neither interval nor calibration. Raises `ValueError` if no pair
    has finite scores.
    """
    scores = [(row.scores[0], row.scores[1]) for row in rows]
    credits = [ranking_credit(*pair) if all(map(math.isfinite, pair)) else 0.0 for pair in scores]
    broken = [row.id for row, pair in zip(rows, scores, strict=True) if not all(map(math.isfinite, pair))]
    if len(broken) == len(rows):
        raise ValueError(f"none of the {len(rows)} pairs has finite scores, so there is nothing to report; {REMEDY}.")
    by_source: dict[str, list[float]] = {}
    for row, credit in zip(rows, credits, strict=True):
        by_source.setdefault(row.subset, []).append(credit)
    found = {} if broken else {name: value for name, value in pair_metrics(scores).items() if name in PAIR_METRICS}
    return {
        "per_subset": {name: fmean(own) for name, own in by_source.items()},
        "overall": fmean(credits),
        "reason": "",
        "refusals": [],
        **found,
        "row_results": credits,
        "not_finite": {"pairs": broken} if broken else {},
    }


def _calibration_error(margins: Sequence[float], credits: Sequence[float]) -> float:
    gaps = [0.0] * NUM_BINS
    for margin, credit in zip(margins, credits, strict=True):
        confidence = 1 / (1 + math.exp(-min(abs(margin), 700.0)))
        gaps[min(int((confidence - 0.5) * 2 * NUM_BINS), NUM_BINS - 1)] += confidence - credit
    return sum(map(abs, gaps)) / len(margins)
