"""Which of two benchmarks predicts the same downstream results better, and what picking by each would have cost.

Shape suffixes: N reward models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalhooks.analysis.correlation import Interval, equal_note, fisher, is_constant, paired_series, pearson_of

_ROUNDING = 1e-9
"""Copies of one benchmark differ by less than this, which is no difference."""

CANDIDATES = 5
"""How many reward models the choice of `expected_regret` is among."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The correlation of A with the downstream result minus that of B over the same `n` reward models, with its 95% interval.

    `ranking` is Kendall's tau between A and B, `right_a` and `right_b` the shares of pairs of reward models that each puts in the right
    order. What is undefined is None, and `note` says why.

    >>> difference([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [1, 2, 3, 5, 4]).n
    5
    """

    a: float | None
    b: float | None
    difference: float | None
    ci95: Interval | None
    ranking: float | None
    right_a: float | None
    right_b: float | None
    n: int
    note: str = ""

    @property
    def better(self) -> str:
        """ "a" or "b", or nothing where the interval holds 0 or there is none."""
        if self.ci95 is None or (self.ci95[0] <= _ROUNDING and self.ci95[1] >= -_ROUNDING):
            return ""
        return "a" if self.ci95[0] > 0 else "b"


def difference(
    a: ArrayLike, b: ArrayLike, downstream: ArrayLike, *, names: tuple[str, str, str] = ("A", "B", "the downstream result")
) -> Difference:
    """How much better A predicts the downstream result than B does; the note calls them by `names`.

    The interval puts the two Fisher intervals together with regard to the correlation of the two estimates (Zou 2007, Toward using
    confidence intervals to compare correlations, equations 10 and 16). It needs 5 reward models, and scores that are not constant.
    Raises `ValueError` for series of unequal length or with values that are not finite.
    """
    from scipy import stats

    a_N, down_N = paired_series(a, downstream)
    b_N, _ = paired_series(b, downstream)
    n = len(a_N)
    constant = [name for name, values_N in zip(names, (a_N, b_N, down_N), strict=True) if n and is_constant(values_N)]
    if n < 3 or constant:
        have = ("no reward model has", "1 reward model has", "2 reward models have")
        note = f"{have[n]} both scores and the result; it takes 5." if n < 3 else equal_note(constant, n)
        return Difference(a=None, b=None, difference=None, ci95=None, ranking=None, right_a=None, right_b=None, n=n, note=note)
    r_a, r_b, r_ab = pearson_of(a_N, down_N), pearson_of(b_N, down_N), pearson_of(a_N, b_N)
    return Difference(
        a=r_a,
        b=r_b,
        difference=r_a - r_b,
        ci95=_zou(r_a, r_b, r_ab, n) if n >= 5 else None,
        ranking=float(np.asarray(stats.kendalltau(a_N, b_N))[0]),
        right_a=_share_in_order(a_N, down_N),
        right_b=_share_in_order(b_N, down_N),
        n=n,
        note="" if n >= 5 else "an interval needs 5 reward models.",
    )


def _zou(r_a: float, r_b: float, r_ab: float, n: int) -> Interval:
    """The interval of r_a - r_b, two correlations with one series, where r_ab is that of the other two."""
    (low_a, high_a), (low_b, high_b) = (fisher(r, 1 / math.sqrt(n - 3)) for r in (r_a, r_b))
    spread = (1 - r_a**2) * (1 - r_b**2)
    shared = (r_ab - r_a * r_b / 2) * (1 - r_a**2 - r_b**2 - r_ab**2) + r_ab**3
    both = min(max(shared / spread, -1.0), 1.0) if spread > 0 else 0.0  # a perfect line has no width to share
    low = (r_a - low_a) ** 2 + (high_b - r_b) ** 2 - 2 * both * (r_a - low_a) * (high_b - r_b)
    high = (high_a - r_a) ** 2 + (r_b - low_b) ** 2 - 2 * both * (high_a - r_a) * (r_b - low_b)
    return r_a - r_b - math.sqrt(max(low, 0.0)), r_a - r_b + math.sqrt(max(high, 0.0))


def _share_in_order(score_N: NDArray[np.float64], down_N: NDArray[np.float64]) -> float | None:
    """The share of pairs with different results that the score puts in their order; an equal score counts half."""
    scores, results = np.subtract.outer(score_N, score_N), np.subtract.outer(down_N, down_N)
    differ = results > 0
    if not differ.any():
        return None
    return float(np.mean(np.where(scores[differ] > 0, 1.0, np.where(scores[differ] == 0, 0.5, 0.0))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """Downstream points that are lost, against the best there is, by taking the reward model that a benchmark ranks first.

    `picked` are those it ranks first, several where it ties. `expected` is the mean loss where the choice is among `among` of the
    reward models drawn at random, which rests on all of them rather than on one. `chance` and `expected_chance` are those of a coin.

    >>> regret([3, 1, 2], [10, 20, 30]).points
    20.0
    """

    picked: tuple[int, ...]
    points: float
    chance: float
    expected: float
    expected_chance: float
    among: int


def regret(scores: ArrayLike, downstream: ArrayLike) -> Regret:
    """The regret of picking by `scores`, over at least one reward model; raises `ValueError` as `difference` does."""
    score_N, down_N = paired_series(scores, downstream)
    n, among = len(score_N), min(CANDIDATES, len(score_N))
    top = np.flatnonzero(score_N == score_N.max())
    best = float(down_N.max())
    best_of_drawn = _mean_of_first(down_N, down_N, among)
    return Regret(
        picked=tuple(int(place) for place in top),
        points=best - float(down_N[top].mean()),
        chance=best - float(down_N.mean()),
        expected=best_of_drawn - _mean_of_first(score_N, down_N, among),
        expected_chance=best_of_drawn - float(down_N.mean()) if n else 0.0,
        among=among,
    )


def _mean_of_first(score_N: NDArray[np.float64], down_N: NDArray[np.float64], among: int) -> float:
    """The mean result of the highest score among `among` reward models drawn at random, over all draws.

    The one in place j of n from below is first in C(j - 1, k - 1) of C(n, k) draws; equal scores share theirs.
    """
    n = len(score_N)
    chances = np.array([math.comb(place, among - 1) for place in range(n)], dtype=np.float64) / math.comb(n, among)
    order = np.argsort(score_N, kind="stable")
    total, start = 0.0, 0
    while start < n:
        end = start
        while end < n and score_N[order[end]] == score_N[order[start]]:
            end += 1
        total += float(chances[start:end].sum() * down_N[order[start:end]].mean())
        start = end
    return total


def sentence(found: Difference, a: str, b: str, downstream: str) -> str:
    """The answer in words, with the numbers it rests on; the columns are called as given."""
    about, rivals = f"For {downstream}", f"{a} or {b}"
    if found.a is None or found.b is None or found.difference is None:
        return f"{about}: cannot tell with n = {found.n} whether {rivals} predicts it better: {found.note}"
    figures = f"r = {found.a:.3f} against {found.b:.3f}"
    if found.ci95 is None:
        return f"{about}: cannot tell with n = {found.n} whether {rivals} predicts it better ({figures}): {found.note}"
    low, high = found.ci95
    if not found.better:
        bounds = f"difference {found.difference:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
        return f"{about}: cannot tell with n = {found.n} whether {rivals} predicts it better ({figures}, {bounds})."
    winner, loser, r_winner, r_loser = (a, b, found.a, found.b) if found.better == "a" else (b, a, found.b, found.a)
    low, high = (low, high) if found.better == "a" else (-high, -low)
    figures = f"r = {r_winner:.3f} against {r_loser:.3f}, difference {r_winner - r_loser:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
    return f"{about}: {winner} predicts it better than {loser} ({figures}, n = {found.n})."


def compare_all(benchmarks: Sequence[str]) -> list[tuple[str, str]]:
    """Every two of the benchmarks, in their order."""
    return [(a, b) for place, a in enumerate(benchmarks) for b in benchmarks[place + 1 :]]
