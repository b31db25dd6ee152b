"""How well one number per reward model predicts another, never without an interval and n.

Source of the question: RewardBench 2 (Malik et al., 2025), section 5 and figure 3, which correlate benchmark scores with best-of-N
and PPO over many reward models. The paper prints point estimates; with a dozen models the interval is the message. Intervals are
symmetric in z = artanh r, as `python -m benchmarks.intervals` justifies: over 6 to 17 points a percentile bootstrap covers 88 to 92%.

Shape suffixes: N points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.shares import Z95

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Agreement of two measurements over `n` points: Pearson's r and its square, Spearman's rho, Kendall's tau-b.

    `ci95` is the 95% interval of `pearson`, the others those of the ranks. All are None if undefined, and `note` says why.

    >>> correlation([61.2, 68.7, 70.1, 54.9], [50.3, 52.4, 52.2, 49.0]).n
    4
    """

    pearson: float | None
    spearman: float | None
    kendall: float | None
    r2: float | None
    ci95: Interval | None
    spearman_ci95: Interval | None
    kendall_ci95: Interval | None
    n: int
    note: str = ""


def undefined(n: int, note: str) -> Correlation:
    """A correlation of `n` points that cannot be had, and why."""
    return Correlation(pearson=None, spearman=None, kendall=None, r2=None, ci95=None, spearman_ci95=None, kendall_ci95=None, n=n, note=note)


def correlation(x: ArrayLike, y: ArrayLike, *, names: tuple[str, str] = ("x", "y")) -> Correlation:
    """Pearson, Spearman and Kendall correlation of two equally long series, one entry per model, each with its 95% interval.

    Standard errors of z = artanh r: 1 / sqrt(n - 3) for Pearson (Fisher 1921), sqrt((1 + r^2 / 2) / (n - 3)) for Spearman and
    sqrt(0.437 / (n - 4)) for Kendall (Bonett and Wright 2000; Fieller et al. 1957). A perfect order counts as half a swap of neighbours
    away from 1. Over 6 to 50 points of a normal distribution they cover 94 to 96, 93 to 99 and 91 to 100%.

    With fewer than 3 points, or a constant series, nothing is estimated, and with 3 no interval; the note says so, by `names`. Raises
    `ValueError` for unequal lengths and for values that are not finite.
    """
    from scipy import stats  # takes half a second, which scoring a benchmark need not wait for

    x_N, y_N = paired_series(x, y)
    n = len(x_N)
    constant = [name for name, values_N in zip(names, (x_N, y_N), strict=True) if n > 2 and is_constant(values_N)]
    if n < 3 or constant:
        return undefined(n, equal_note(constant, n) if constant else f"{n} reward model{'s' * (n != 1)}; a correlation needs 3.")
    pearson, spearman = pearson_of(x_N, y_N), pearson_of(stats.rankdata(x_N), stats.rankdata(y_N))
    kendall = float(np.asarray(stats.kendalltau(x_N, y_N))[0])
    nearest = 6 / (n**3 - n)
    ranked, ordered = _within(spearman, 1 - nearest), _within(kendall, 1 - 2 / (n**2 - n))
    return Correlation(
        pearson=pearson,
        spearman=spearman,
        kendall=kendall,
        r2=pearson**2,
        ci95=fisher(pearson, 1 / math.sqrt(n - 3)) if n > 3 else None,
        spearman_ci95=fisher(ranked, math.sqrt((1 + ranked**2 / 2) / (n - 3))) if n > 3 else None,
        kendall_ci95=fisher(ordered, math.sqrt(0.437 / (n - 4))) if n > 4 else None,
        n=n,
        note="3 reward models; an interval needs 4." if n == 3 else "",
    )


def _within(r: float, limit: float) -> float:
    return min(max(r, -limit), limit)


def fisher(r: float, standard_error: float) -> Interval:
    """The interval around `r` that reaches 1.96 standard errors to either side in z = artanh r."""
    if abs(r) == 1:
        return r, r
    z = math.atanh(r)
    return math.tanh(z - Z95 * standard_error), math.tanh(z + Z95 * standard_error)


def upper_half(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points of (x, y) with x at or above the median of x, in their order: does x still rank the good models?

    A correlation over all models owes much to telling bad ones from good ones. Raises `ValueError` as `correlation` does.
    """
    x_N, y_N = paired_series(x, y)
    if not len(x_N):
        return x_N, y_N
    upper_N = x_N >= np.median(x_N)
    return x_N[upper_N], y_N[upper_N]


def pearson_of(x_N: NDArray[np.float64], y_N: NDArray[np.float64]) -> float:
    """Pearson correlation of two series, neither constant."""
    return float(np.clip(np.sum(_unit_deviations(x_N) * _unit_deviations(y_N)), -1.0, 1.0))


def _unit_deviations(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values minus their mean, scaled to length 1."""
    deviation_N = values_N - values_N.mean()
    # Scaled first: squares of tiny deviations would underflow to a length of 0.
    deviation_N = deviation_N / np.max(np.abs(deviation_N))
    return deviation_N / np.linalg.norm(deviation_N)


def is_constant(values_N: NDArray[np.float64]) -> bool:
    """Whether the values are equal up to rounding in their last digits."""
    mean = np.mean(values_N)
    return bool(np.linalg.norm(values_N - mean) <= 1e-13 * abs(mean))


def equal_note(names: Sequence[str], n: int) -> str:
    """Why series that do not vary cannot be correlated.

    >>> equal_note(["PPO downstream average"], 5), equal_note(["rb2", "elo"], 4)
    ('PPO downstream average is the same for all 5.', 'rb2 and elo do not differ among the 4.')
    """
    return (
        f"{names[0]} is the same for all {n}."
        if len(names) == 1
        else f"{', '.join(names[:-1])} and {names[-1]} do not differ among the {n}."
    )


def paired_series(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as flat arrays of equal length; raises `ValueError` if they are not, or hold values that are not finite."""
    x_N, y_N = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ValueError(f"Two flat series of equal length are needed, got shapes {x_N.shape} and {y_N.shape}.")
    if wrong := np.flatnonzero(~np.isfinite(x_N) | ~np.isfinite(y_N)).tolist():
        raise ValueError(f"Entries {wrong} are not finite in both series; leave them out of both.")
    return x_N, y_N
