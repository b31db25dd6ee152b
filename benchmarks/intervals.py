"""How often 95% intervals of a correlation hold the true one: `python -m benchmarks.intervals`.

Samples are bivariate normal. Fisher's z is the one that reports use; percentile, basic and BCa bootstraps (Efron and Tibshirani 1993)
and the jackknife stand beside it, and the intervals of Spearman's and Kendall's rank correlations.

Shapes: N points, R resamples.
"""

import argparse
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evalhooks.analysis.correlation import Interval, correlation, pearson_of

Floats = NDArray[np.float64]
SIZES, RHOS = (6, 10, 17, 50), (0.0, 0.7, 0.9)


def bootstrapped(x_N: Floats, y_N: Floats, rng: np.random.Generator, resamples: int = 999) -> Mapping[str, Interval]:
    """The three bootstrap intervals of Pearson's r from one set of resamples, and the jackknife's."""
    n, r = len(x_N), pearson_of(x_N, y_N)
    index_RN = rng.integers(n, size=(resamples, n))
    r_R = _pearsons(x_N[index_RN], y_N[index_RN])
    r_R = r_R[np.isfinite(r_R)]  # a resample of one point alone has none
    keep_NN = ~np.eye(n, dtype=bool)
    left_N = np.array([pearson_of(x_N[kept], y_N[kept]) for kept in keep_NN])
    away_N = left_N.mean() - left_N
    error = math.sqrt((n - 1) / n * float(np.sum(away_N**2)))
    low, high = np.quantile(r_R, [0.025, 0.975])
    bias = stats.norm.ppf(np.clip(np.mean(r_R < r), 1e-3, 1 - 1e-3))
    skew = float(np.sum(away_N**3)) / (6 * float(np.sum(away_N**2)) ** 1.5 or 1.0)
    ends = [stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-1.96, 1.96)]
    return {
        "percentile": (float(low), float(high)),
        "basic": (float(2 * r - high), float(2 * r - low)),
        "BCa": (float(np.quantile(r_R, ends[0])), float(np.quantile(r_R, ends[1]))),
        "jackknife": (r - 1.96 * error, r + 1.96 * error),
    }


def _pearsons(x_RN: Floats, y_RN: Floats) -> Floats:
    x_RN, y_RN = x_RN - x_RN.mean(axis=1, keepdims=True), y_RN - y_RN.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(x_RN * y_RN, axis=1) / np.sqrt(np.sum(x_RN**2, axis=1) * np.sum(y_RN**2, axis=1))


def intervals_of(x_N: Floats, y_N: Floats, rng: np.random.Generator) -> Mapping[str, Interval | None]:
    """All intervals by name."""
    found = correlation(x_N, y_N)
    ranks = {"Spearman": found.spearman_ci95, "Kendall": found.kendall_ci95}
    return {"Fisher z": found.ci95, **bootstrapped(x_N, y_N, rng), **ranks}


TRUTHS: Mapping[str, Callable[[float], float]] = {
    "Spearman": lambda rho: 6 / math.pi * math.asin(rho / 2),
    "Kendall": lambda rho: 2 / math.pi * math.asin(rho),
}
"""What the rank correlations of a normal distribution are (Kruskal 1958); the others estimate rho itself."""


def coverage(n: int, rho: float, samples: int, rng: np.random.Generator) -> Mapping[str, float]:
    """The share of samples whose interval holds the truth, by interval."""
    held: dict[str, list[bool]] = {}
    for _ in range(samples):
        x_N = rng.standard_normal(n)
        y_N = rho * x_N + math.sqrt(1 - rho**2) * rng.standard_normal(n)
        for name, bounds in intervals_of(x_N, y_N, rng).items():
            truth = TRUTHS[name](rho) if name in TRUTHS else rho
            held.setdefault(name, []).append(bounds is not None and bounds[0] <= truth <= bounds[1])
    return {name: float(np.mean(values)) for name, values in held.items()}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="samples for each n and rho")
    samples = parser.parse_args().samples
    rng = np.random.default_rng(0)
    for n in SIZES:
        for rho in RHOS:
            found = coverage(n, rho, samples, rng)
            print(f"n {n:2}  rho {rho:.1f}  " + "  ".join(f"{name} {100 * value:.1f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
