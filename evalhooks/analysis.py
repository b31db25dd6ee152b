"""How well one number predicts another, and whether two models really differ: estimates with their uncertainty.

Source of the questions: RewardBench 2 (Malik et al., 2025), section 5 and figure 3, which correlate benchmark scores with
best-of-N and PPO over many reward models. The paper prints point estimates; with a dozen models the interval is the
message, so nothing here comes without one. Correlations have Fisher's interval: with 6 to 17 points a percentile bootstrap covers 89 to
92% instead of 95. Differences have percentile bootstrap intervals (Efron and Tibshirani, 1993), and below 20 rows those of an exact test.

Shape suffixes: N points or rows, R resamples, F subsets of the rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK = 1_000_000
"""Numbers held at once while resampling; bounds the memory at some 10 MB per array."""

_ROUNDING = 1e-12
"""Sums of thirds and quarters miss 0 by less than this; such a draw lies on both sides of 0."""


EXACT_BELOW = 20
"""With fewer rows all sign flips are enumerated; from here on a bootstrap is good enough, and all flips would be too many."""

MIN_ROWS = 6
"""With fewer rows no outcome has a p-value below 0.05: of n differences in one direction it is 2^(1 - n)."""

_Z95 = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Agreement of two measurements over `n` points.

    `ci95` is the 95% interval of `pearson`, `spearman_ci95` that of `spearman`. All are None if undefined, and `note` says why.

    >>> correlation([61.2, 68.7, 70.1, 54.9], [50.3, 52.4, 52.2, 49.0]).n
    4
    """

    pearson: float | None
    spearman: float | None
    ci95: tuple[float, float] | None
    spearman_ci95: tuple[float, float] | None
    n: int
    note: str = ""


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


def correlation(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Pearson and Spearman correlation of two equally long series, one entry per model, each with its 95% interval.

    The intervals are symmetric in z = artanh r: for Pearson with the standard error 1 / sqrt(n - 3) (Fisher 1921), for Spearman with
    sqrt((1 + r^2 / 2) / (n - 3)) (Bonett and Wright 2000), where a perfect rank correlation counts as half a swap of neighbours away from
    1. Over 6 to 17 points of a normal distribution they cover 94 to 96% and 93 to 98%.

    With fewer than 3 points, or constant x or y, nothing is estimated, and with 3 no interval. Raises `ValueError` for unequal lengths
    and for values that are not finite.
    """
    from scipy import stats  # takes half a second, which scoring a benchmark need not wait for

    x_N, y_N = _paired_series(x, y)
    n = len(x_N)
    constant = [name for name, values_N in (("x", x_N), ("y", y_N)) if n > 2 and _is_constant(values_N)]
    if n < 3 or constant:
        note = f"{' and '.join(constant)} constant." if constant else f"{n} points; a correlation needs 3."
        return Correlation(pearson=None, spearman=None, ci95=None, spearman_ci95=None, n=n, note=note)
    pearson, spearman = _pearson(x_N, y_N), _pearson(stats.rankdata(x_N), stats.rankdata(y_N))
    if n == 3:
        return Correlation(pearson=pearson, spearman=spearman, ci95=None, spearman_ci95=None, n=n, note="3 points; an interval needs 4.")
    nearest = 1 - 6 / (n**3 - n)
    ranked = min(max(spearman, -nearest), nearest)
    return Correlation(
        pearson=pearson,
        spearman=spearman,
        ci95=_fisher(pearson, 1 / math.sqrt(n - 3)),
        spearman_ci95=_fisher(ranked, math.sqrt((1 + ranked**2 / 2) / (n - 3))),
        n=n,
    )


def _fisher(r: float, standard_error: float) -> tuple[float, float]:
    """The interval around `r` that reaches 1.96 standard errors to either side in z = artanh r."""
    if abs(r) == 1:
        return r, r
    z = math.atanh(r)
    return math.tanh(z - _Z95 * standard_error), math.tanh(z + _Z95 * standard_error)


def upper_half(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points of (x, y) with x at or above the median of x, in their order: does x still rank the good models?

    A correlation over all models owes much to telling bad ones from good ones. Raises `ValueError` as `correlation` does.
    """
    x_N, y_N = _paired_series(x, y)
    if not len(x_N):
        return x_N, y_N
    upper_N = x_N >= np.median(x_N)
    return x_N[upper_N], y_N[upper_N]


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


def resampled_sums(strata: Sequence[NDArray[np.float64]], num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums of all contributions, each stratum resampled at its own size, with replacement; shape (num_resamples,)."""
    draws = [len(stratum) * bootstrap_means(stratum, num_resamples=num_resamples, rng=rng) for stratum in strata]
    return np.sum(draws, axis=0)


def bootstrap_means(values_N: NDArray[np.float64], *, num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of `num_resamples` samples of N values each, drawn from `values_N` with replacement; shape (num_resamples,)."""
    return np.concatenate([values_N[index_RN].mean(axis=1) for index_RN in _resamples(len(values_N), num_resamples, rng)])


def _pearson(x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> float:
    """Pearson correlation of two series, neither constant."""
    return float(np.clip(np.sum(_unit_deviations(x_N) * _unit_deviations(y_N)), -1.0, 1.0))


def _unit_deviations(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values minus their mean, scaled to length 1."""
    deviation_N = values_N - values_N.mean()
    # Scaled first: squares of tiny deviations would underflow to a length of 0.
    deviation_N = deviation_N / np.max(np.abs(deviation_N))
    return deviation_N / np.linalg.norm(deviation_N)


def _resamples(n: int, num_resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Row indices of shape (r, n) in chunks, the r adding up to `num_resamples`."""
    chunk = max(1, _CHUNK // n)
    for start in range(0, num_resamples, chunk):
        yield rng.integers(n, size=(min(chunk, num_resamples - start), n))


def _percentiles(draws_R: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws_R, [2.5, 97.5])
    return float(low), float(high)


def _is_constant(values_N: NDArray[np.float64]) -> bool:
    """Whether the values are equal up to rounding in their last digits."""
    mean = np.mean(values_N)
    return bool(np.linalg.norm(values_N - mean) <= 1e-13 * abs(mean))


def _paired_series(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ValueError(f"Two flat series of equal length are needed, got shapes {x_N.shape} and {y_N.shape}.")
    if wrong := np.flatnonzero(~np.isfinite(x_N) | ~np.isfinite(y_N)).tolist():
        raise ValueError(f"Entries {wrong} are not finite in both series; leave them out of both.")
    return x_N, y_N
