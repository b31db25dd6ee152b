"""Which reward model to take, with which probability it is the best, and what is expected to be lost if it is not.

The model, all of it Gaussian: reward model k has a true benchmark score t_k ~ N(m, s^2), seen as t_k with the noise of its standard
error and of its seed; its downstream result is u_k = a + b t_k + c_g + e_k with an offset c_g ~ N(0, g^2) for its group (lineage,
prompts) and a rest e_k ~ N(0, r^2); where u_k was measured, it was with the downstream column's noise. The slope b is at least 0: a
benchmark is not taken to mislead, and where the results say so the answer warns. (m, a) have flat priors, (s, b, g, r) a grid of plausible
values weighted by how well they explain what was seen; so doubt about the relation is part of the probability.

Shapes: K reward models, M those with a measured result, G points of the grid, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalhooks.analysis.correlation import is_constant

Floats = NDArray[np.float64]

POINTS, DRAWS = 250, 16
"""Points of the grid that are drawn by their weights, and draws from each."""
_MANY = 200
"""Reward models above which roots are triangular, and solved as such: the general ways would take most of the time of a report."""
_FLAT = 30.0
"""Standard deviation, in those of the results, of the flat prior of their level."""
_SPREADS = np.array([0.15, 0.35, 0.6, 0.85, 1.1, 1.4])
"""The true spread of the benchmark scores, in standard deviations of those seen."""
_SLOPES = np.linspace(0.0, 1.3, 12)
"""Standard deviations of the result for one of the benchmark."""
_RESTS = np.array([0.05, 0.12, 0.22, 0.35, 0.5, 0.7, 0.9, 1.2])
_OFFSETS = np.array([0.05, 0.3, 0.6, 1.0, 1.6])
"""Standard deviations of the rest and of the offsets of groups, in standard deviations of the results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A reward model that may be taken. `measured` is its downstream result, None where that is still to come.

    >>> Candidate(score=68.2, error=0.9, group="on-policy").measured is None
    True
    """

    score: float
    error: float = 0.0
    """Standard deviation of the score's noise: that of the choice of prompts and that of the seed together."""
    group: str = ""
    measured: float | None = None
    measured_error: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """The candidate that loses least on average, the probability that it is the best, and its expected regret.

    `probabilities` of being the best, `expected` results and `regrets` are those of all candidates, in their order. `slope` is the mean
    of the fitted relation, in points of the result for one of the benchmark; None where nothing was measured, and then results are
    the benchmark's own scores.
    """

    index: int
    probability: float
    regret: float
    highest: int
    """The candidate with the highest score as it stands."""
    highest_regret: float
    probabilities: tuple[float, ...]
    expected: tuple[float, ...]
    regrets: tuple[float, ...]
    slope: float | None
    num_measured: int


def pick(candidates: Sequence[Candidate], *, past: Sequence[Candidate] = (), seed: int = 0) -> Pick:
    """The pick among at least one candidate. `past` are reward models that are not to be had any more, but tell of the relation.

    With fewer than 3 measured results there is no relation, and the pick is that of the true benchmark score. Raises `ValueError` without
    a candidate, and for numbers that are not finite.
    """
    if not candidates:
        raise ValueError("there is no reward model to pick: none has a score.")
    everyone = [*candidates, *past]
    score_K = _finite([one.score for one in everyone], "scores")
    error_K = _finite([one.error for one in everyone], "standard errors")
    rng = np.random.default_rng(seed)
    measured = [place for place, one in enumerate(everyone) if one.measured is not None]
    known = _related(everyone, score_K, error_K, measured, rng) if len(measured) >= 3 else _own(score_K, error_K, rng)
    draws_DK, mean_K, slope = known
    draws_DK, mean_K = draws_DK[:, : len(candidates)], mean_K[: len(candidates)]
    regret_K = np.maximum(draws_DK.max(axis=1).mean() - mean_K, 0.0)  # the draws alone may put the best below its mean
    share_K = np.bincount(draws_DK.argmax(axis=1), minlength=len(candidates)) / len(draws_DK)
    own_K = score_K[: len(candidates)]
    equal = np.flatnonzero(mean_K >= mean_K.max() - 1e-9 * (np.abs(mean_K).max() or 1.0))
    index, highest = int(equal[np.argmax(own_K[equal])]), int(np.argmax(own_K))
    return Pick(
        index=index,
        probability=float(share_K[index]),
        regret=float(regret_K[index]),
        highest=highest,
        highest_regret=float(regret_K[highest]),
        probabilities=tuple(share_K.tolist()),
        expected=tuple(mean_K.tolist()),
        regrets=tuple(regret_K.tolist()),
        slope=slope,
        num_measured=len(measured),
    )


def _finite(values: Sequence[float], what: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{what} hold numbers that are not finite; leave these reward models out.")
    return found


def _truth(score_K: Floats, error_K: Floats, spread: float) -> tuple[Floats, Floats, float]:
    """Mean and covariance of the true scores for a spread, and the log-likelihood of the scores; their level has a flat prior."""
    total_K = error_K**2 + spread**2
    weight_K = 1 / total_K
    level = float(np.sum(weight_K * score_K) / weight_K.sum())
    kept_K = spread**2 / total_K
    covariance_KK = np.diag(kept_K * error_K**2) + np.outer(1 - kept_K, 1 - kept_K) / weight_K.sum()
    fit = -0.5 * float(np.sum(np.log(total_K)) + np.log(weight_K.sum()) + np.sum(weight_K * (score_K - level) ** 2))
    return level + kept_K * (score_K - level), covariance_KK, fit


def _scaled(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation, 1 where all are equal: of rounding alone there is no scale."""
    return float(values.mean()), 1.0 if is_constant(values) else float(values.std())


def _own(score_K: Floats, error_K: Floats, rng: np.random.Generator) -> tuple[Floats, Floats, None]:
    """Draws of the true benchmark scores, and their means."""
    level, scale = _scaled(score_K)
    scores, errors = (score_K - level) / scale, error_K / scale
    truths = [_truth(scores, errors, spread) for spread in _SPREADS]
    share_G = _shares(_weights(np.array([fit for _, _, fit in truths])), rng)
    parts = [(share, *truths[place][:2]) for place, share in share_G.items()]
    draws_DK = np.concatenate([_normal(mean_K, covariance_KK, DRAWS * share, rng) for share, mean_K, covariance_KK in parts])
    mean_K = np.sum([share / POINTS * mean_K for share, mean_K, _ in parts], axis=0)
    return level + scale * draws_DK, level + scale * mean_K, None


def _related(
    everyone: Sequence[Candidate], score_K: Floats, error_K: Floats, measured: Sequence[int], rng: np.random.Generator
) -> tuple[Floats, Floats, float]:
    """Draws of the downstream results, their means, and the mean slope."""
    level, scale = _scaled(score_K)
    scores, errors = (score_K - level) / scale, error_K / scale
    result_M = _finite([everyone[place].measured or 0.0 for place in measured], "downstream results")
    noise_M = _finite([everyone[place].measured_error for place in measured], "errors of downstream results")
    base, unit = _scaled(result_M)
    # Measured exactly, a result still must not make the covariance singular.
    result_M, noise_M = (result_M - base) / unit, np.maximum(noise_M / unit, 1e-3)
    groups = [one.group for one in everyone]
    same_KK = np.equal.outer(np.array(groups), np.array(groups)).astype(np.float64)
    offsets = _OFFSETS if len(set(groups)) > 1 else _OFFSETS[:1] * 0
    grid: list[tuple[int, float, float, float]] = []
    fits: list[Floats] = []
    truths = [_truth(scores, errors, spread) for spread in _SPREADS]
    spots = [(slope, offset, rest) for slope in _SLOPES for offset in offsets for rest in _RESTS]
    slope_G, offset_G, rest_G = (np.array(column) for column in zip(*spots, strict=True))
    rows = np.ix_(measured, measured)
    for number, (mean_K, covariance_KK, fit) in enumerate(truths):
        for slope in _SLOPES:  # all slopes at once would take much memory with many reward models
            part = slope_G == slope
            covariance_GMM = _covariance(covariance_KK[rows], same_KK[rows], slope_G[part], offset_G[part], rest_G[part])
            fits.append(fit + _log_densities(result_M - slope * mean_K[measured], covariance_GMM + np.diag(noise_M**2)))
        grid += [(number, *spot) for spot in spots]
    weight_G = _weights(np.concatenate(fits) + np.tile(_log_prior(offset_G, rest_G), len(truths)))
    draws: list[Floats] = []
    expected_K = np.zeros(len(everyone))
    for place, share in _shares(weight_G, rng).items():
        number, slope, offset, rest = grid[place]
        mean_K, covariance_KK, _ = truths[number]
        [whole_KK] = _covariance(covariance_KK, same_KK, *(np.array([value]) for value in (slope, offset, rest)))
        own_K, own_KK = _conditioned(slope * mean_K, whole_KK, measured, result_M, noise_M)
        draws.append(_normal(own_K, own_KK, DRAWS * share, rng))
        expected_K += share / POINTS * own_K
    mean_slope = float(np.sum(weight_G * np.tile(slope_G, len(truths)))) * unit / scale
    return base + unit * np.concatenate(draws), base + unit * expected_K, mean_slope


def _covariance(truth_KK: Floats, same_KK: Floats, slope_G: Floats, offset_G: Floats, rest_G: Floats) -> Floats:
    """Covariances of the results, one for each point of the grid."""
    slope, offset, rest = (values[:, None, None] ** 2 for values in (slope_G, offset_G, rest_G))
    return _FLAT**2 + slope * truth_KK + offset * same_KK + rest * np.eye(len(same_KK))


def _log_prior(offset_G: Floats, rest_G: Floats) -> Floats:
    """Half-normal priors of the offsets' and the rest's deviation; the grid is finer where they are small, which counts as density."""
    density = np.zeros_like(rest_G)
    for values_G, grid in ((offset_G, _OFFSETS), (rest_G, _RESTS)):
        width = dict(zip(grid.tolist(), np.gradient(grid).tolist(), strict=True))
        density += np.array([np.log(width.get(value, 1.0)) for value in values_G.tolist()]) - values_G**2 / 2
    return density


def _shares(weight_G: Floats, rng: np.random.Generator) -> dict[int, int]:
    """How many of `POINTS` equidistant steps through the weights fall on each point of the grid, those without any left out."""
    steps = (rng.random() + np.arange(POINTS)) / POINTS
    chosen = np.minimum(np.searchsorted(np.cumsum(weight_G), steps), len(weight_G) - 1)
    places, counts = np.unique(chosen, return_counts=True)
    return dict(zip(places.tolist(), counts.tolist(), strict=True))


def _log_densities(rest_M: Floats, covariance_GMM: Floats) -> Floats:
    """Log-densities of one residual under each covariance, up to a constant."""
    from scipy.linalg import solve_triangular  # scipy takes half a second to import

    root_GMM = np.linalg.cholesky(covariance_GMM)
    if len(rest_M) > _MANY:
        white_GM = np.stack([solve_triangular(root_MM, rest_M, lower=True, check_finite=False) for root_MM in root_GMM])
    else:
        white_GM = np.linalg.solve(root_GMM, np.broadcast_to(rest_M[:, None], (len(root_GMM), len(rest_M), 1)))[:, :, 0]
    return -0.5 * np.sum(white_GM**2, axis=1) - np.sum(np.log(np.diagonal(root_GMM, axis1=1, axis2=2)), axis=1)


def _conditioned(mean_K: Floats, whole_KK: Floats, measured: Sequence[int], result_M: Floats, noise_M: Floats) -> tuple[Floats, Floats]:
    """Mean and covariance of all results given those measured."""
    seen_MM = whole_KK[np.ix_(measured, measured)] + np.diag(noise_M**2)
    gain_KM = np.linalg.solve(seen_MM, whole_KK[measured]).T
    return mean_K + gain_KM @ (result_M - mean_K[measured]), whole_KK - gain_KM @ whole_KK[measured]


def _normal(mean_K: Floats, covariance_KK: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Draws of a normal distribution whose covariance rounding may have made slightly indefinite."""
    return mean_K + rng.standard_normal((count, len(mean_K))) @ _root((covariance_KK + covariance_KK.T) / 2).T


def _root(covariance_KK: Floats) -> Floats:
    """A matrix whose product with its transpose is the covariance, of which eigenvalues below 0 count as 0."""
    if (size := len(covariance_KK)) > _MANY:
        try:
            return np.linalg.cholesky(covariance_KK + 1e-9 * np.trace(covariance_KK) / size * np.eye(size))
        except np.linalg.LinAlgError:
            pass  # more indefinite than that
    values_K, vectors_KK = np.linalg.eigh(covariance_KK)
    return vectors_KK * np.sqrt(np.maximum(values_K, 0.0))


def _weights(fits: ArrayLike) -> Floats:
    fit_G = np.asarray(fits, dtype=np.float64)
    weight_G = np.exp(fit_G - fit_G.max())
    return weight_G / weight_G.sum()
