"""How well one number predicts another, and whether two models really differ: estimates with their uncertainty.

Source of the questions: RewardBench 2 (Malik et al., 2025), section 5 and figure 3, which correlate benchmark scores with
best-of-N and PPO over many reward models. The paper prints point estimates; with a dozen models the interval is the
message, so nothing here comes without one. All intervals are percentile bootstrap intervals (Efron and Tibshirani, 1993).

Shape suffixes: N points or rows, R resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK = 1_000_000
"""Numbers held at once while resampling; bounds the memory at some 10 MB per array."""

_ROUNDING = 1e-12
"""Sums of thirds and quarters miss 0 by less than this; such a draw lies on both sides of 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Agreement of two measurements over `n` points.

    `ci95` is the 95% bootstrap interval of `pearson`. All three are None if undefined, and `note` says why; `note` also
    says how many resamples were dropped, if any.

    >>> correlation([61.2, 68.7, 70.1, 54.9], [50.3, 52.4, 52.2, 49.0]).n
    4
    """

    pearson: float | None
    spearman: float | None
    ci95: tuple[float, float] | None
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


def correlation(x: ArrayLike, y: ArrayLike, *, num_resamples: int = 10_000, seed: int = 0) -> Correlation:
    """Pearson and Spearman correlation of two equally long series, one entry per model.

    Points are resampled with their partner; a resample that is constant in x or y has no correlation and is dropped.
    With fewer than 3 points, or constant x or y, nothing is estimated. Raises `ValueError` for unequal lengths, for
    values that are not finite, and for `num_resamples` below 1.
    """
    from scipy import stats  # takes half a second, which scoring a benchmark need not wait for

    x_N, y_N = _paired_series(x, y)
    _require_resamples(num_resamples)
    if len(x_N) < 3:
        return Correlation(pearson=None, spearman=None, ci95=None, n=len(x_N), note=f"{len(x_N)} points; a correlation needs 3.")
    constant = [name for name, values_N in (("x", x_N), ("y", y_N)) if _is_constant(values_N)]
    if constant:
        return Correlation(pearson=None, spearman=None, ci95=None, n=len(x_N), note=f"{' and '.join(constant)} constant.")
    draws = _bootstrap_pearson(x_N, y_N, num_resamples=num_resamples, rng=np.random.default_rng(seed))
    num_dropped = num_resamples - len(draws)
    return Correlation(
        pearson=float(_pearson(x_N[None], y_N[None])[0]),
        spearman=float(_pearson(stats.rankdata(x_N)[None], stats.rankdata(y_N)[None])[0]),
        ci95=_percentiles(draws) if len(draws) else None,
        n=len(x_N),
        note=f"{num_dropped} of {num_resamples} resamples were constant and dropped." if num_dropped else "",
    )


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


def resampled_sums(strata: Sequence[NDArray[np.float64]], num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums of all contributions, each stratum resampled at its own size, with replacement; shape (num_resamples,)."""
    draws = [len(stratum) * bootstrap_means(stratum, num_resamples=num_resamples, rng=rng) for stratum in strata]
    return np.sum(draws, axis=0)


def bootstrap_means(values_N: NDArray[np.float64], *, num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of `num_resamples` samples of N values each, drawn from `values_N` with replacement; shape (num_resamples,)."""
    return np.concatenate([values_N[index_RN].mean(axis=1) for index_RN in _resamples(len(values_N), num_resamples, rng)])


def _bootstrap_pearson(
    x_N: NDArray[np.float64], y_N: NDArray[np.float64], *, num_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Pearson correlations of the resamples in which both series vary; at most `num_resamples` of them."""
    draws = []
    for index_RN in _resamples(len(x_N), num_resamples, rng):
        x_RN, y_RN = x_N[index_RN], y_N[index_RN]
        # Equality of the extremes is exact; a variance of equal numbers may round to above 0.
        varies_R = (np.ptp(x_RN, axis=1) > 0) & (np.ptp(y_RN, axis=1) > 0)
        draws.append(_pearson(x_RN[varies_R], y_RN[varies_R]))
    return np.concatenate(draws)


def _pearson(x_RN: NDArray[np.float64], y_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of every row of x with that of y, neither constant; shape (R,)."""
    return np.clip(np.sum(_unit_deviations(x_RN) * _unit_deviations(y_RN), axis=1), -1.0, 1.0)


def _unit_deviations(values_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every row minus its mean, scaled to length 1."""
    deviation_RN = values_RN - values_RN.mean(axis=1, keepdims=True)
    # Scaled first: squares of tiny deviations would underflow to a length of 0.
    deviation_RN /= np.max(np.abs(deviation_RN), axis=1, keepdims=True)
    return deviation_RN / np.linalg.norm(deviation_RN, axis=1, keepdims=True)


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


def _require_resamples(num_resamples: int) -> None:
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; it must be at least 1, 10000 is usual.")
