"""Whether two models really differ on the same rows: differences with their uncertainty.

Differences have percentile bootstrap intervals (Efron and Tibshirani, 1993), and below 20 rows those of an exact test.

Shape suffixes: N rows, R resamples, F subsets of the rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.shares import wilson

_CHUNK = 1_000_000
"""Numbers held at once while resampling; bounds the memory at some 10 MB per array."""

_ROUNDING = 1e-12
"""Sums of thirds and quarters miss 0 by less than this; such a draw lies on both sides of 0."""


EXACT_BELOW = 20
"""With fewer rows all sign flips are enumerated; from here on a bootstrap is good enough, and all flips would be too many."""

MIN_ROWS = 6
"""With fewer rows no outcome has a p-value below 0.05: of n differences in one direction it is 2^(1 - n)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DifferenceEstimate:
    """The 95% percentile interval of a difference and a two-sided p-value for no difference.

    >>> difference_estimate(np.array([0.1, 0.2, 0.3])).excludes_zero
    True
    """

    ci95: tuple[float, float]
    p_value: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.ci95[0] > _ROUNDING or self.ci95[1] < -_ROUNDING


def difference_estimate(draws_R: NDArray[np.float64]) -> DifferenceEstimate:
    """What the resampled differences `draws_R` of two scores, of the order of 1, say of the difference.

    The p-value is twice the smaller share of draws on either side of 0 (one draw added to each side, since a bootstrap
    cannot show p = 0), so it agrees with the interval.
    """
    smaller_tail = min(int(np.sum(draws_R <= _ROUNDING)), int(np.sum(draws_R >= -_ROUNDING)))
    return DifferenceEstimate(ci95=_percentiles(draws_R), p_value=min(1.0, 2 * (smaller_tail + 1) / (len(draws_R) + 1)))


def sign_flip_estimate(
    contributions_N: NDArray[np.float64], weights_N: NDArray[np.float64], *, num_resamples: int, rng: np.random.Generator
) -> tuple[DifferenceEstimate | None, float]:
    """What the differences of paired rows, each times the row's weight, say of their sum; and the two-sided p-value alone.

    If the models do not differ, every difference is as likely with the other sign (Fisher 1935). The p-value is twice the share of all
    2^N signs that give a sum as far out, and the interval holds the differences that such a test does not reject, which lie between
    means of subsets of the rows (Hartigan 1969). From 20 rows on, `num_resamples` random signs stand for all. There is no interval
    with fewer than 6 rows, which cannot tell. The weights sum to 1.
    """
    n = len(contributions_N)
    if n < EXACT_BELOW:
        sums_F, weights_F = np.zeros(1), np.zeros(1)
        for contribution, weight in zip(contributions_N, weights_N, strict=True):
            sums_F, weights_F = np.concatenate([sums_F, sums_F + contribution]), np.concatenate([weights_F, weights_F + weight])
    else:
        parts = [rng.random((len(index_RN), n)) < 0.5 for index_RN in _resamples(n, num_resamples, rng)]
        sums_F = np.concatenate([[0.0], *(part @ contributions_N for part in parts)])  # no row at all, as among the enumerated ones
        weights_F = np.concatenate([[0.0], *(part @ weights_N for part in parts)])
    smaller_tail = min(int(np.sum(sums_F <= _ROUNDING)), int(np.sum(sums_F >= -_ROUNDING)))
    p_value = min(1.0, 2 * smaller_tail / len(sums_F))
    if n < MIN_ROWS:
        return None, p_value
    ends_F = np.sort(sums_F[weights_F > 0] / weights_F[weights_F > 0])
    outside = int(0.025 * len(sums_F))
    return DifferenceEstimate(ci95=(float(ends_F[outside - 1]), float(ends_F[-outside])), p_value=p_value), p_value


def no_difference_estimate(contributions: Sequence[NDArray[np.float64]], weights: Sequence[float]) -> DifferenceEstimate | None:
    """What strata of paired rows in which no row differs say of the weighted sum of their mean differences; None if a row differs.

    Neither a bootstrap nor flipped signs can show a width then, and among rows not yet seen some may differ. Of n rows of which none
    does, the share that differs is at most z^2 / (n + z^2) by Tango's (1998) score interval for paired shares, which here is Wilson's
    limit of 0 in n; credits lie in 0..1, so the mean difference is no further from 0. Independent strata add by their squares (Zou and
    Donner 2008).
    """
    if any(np.any(np.abs(stratum) > _ROUNDING) for stratum in contributions):
        return None
    half = math.hypot(*(weight * wilson(0.0, len(stratum))[1] for weight, stratum in zip(weights, contributions, strict=True)))
    return DifferenceEstimate(ci95=(-half, half), p_value=1.0)


def resampled_sums(strata: Sequence[NDArray[np.float64]], num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums of all contributions, each stratum resampled at its own size, with replacement; shape (num_resamples,)."""
    draws = [len(stratum) * bootstrap_means(stratum, num_resamples=num_resamples, rng=rng) for stratum in strata]
    return np.sum(draws, axis=0)


def bootstrap_means(values_N: NDArray[np.float64], *, num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of `num_resamples` samples of N values each, drawn from `values_N` with replacement; shape (num_resamples,)."""
    return np.concatenate([values_N[index_RN].mean(axis=1) for index_RN in _resamples(len(values_N), num_resamples, rng)])


def _resamples(n: int, num_resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Row indices of shape (r, n) in chunks, the r adding up to `num_resamples`."""
    chunk = max(1, _CHUNK // n)
    for start in range(0, num_resamples, chunk):
        yield rng.integers(n, size=(min(chunk, num_resamples - start), n))


def _percentiles(draws_R: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws_R, [2.5, 97.5])
    return float(low), float(high)
