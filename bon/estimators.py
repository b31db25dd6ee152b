"""Best-of-n accuracy, estimated from a pool of N >= n completions."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import groupby

import numpy as np


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value.

    Summed left to right: `statistics.fmean` rounds differently, and recorded metrics must stay equal to the last digit.
    """
    return sum(values) / len(values)


def best_of_n(scores: Sequence[float], correct: Sequence[float], n: int) -> float:
    """Expected correctness of the best-scored completion among n drawn without replacement from the pool.

    With the pool sorted by score, the completion of rank i (from 0) is the best of a random n-subset with probability
    C(N-1-i, n-1) / C(N, n); tied completions share their probabilities equally. For n = N it is the correctness of the top
    completion. It uses the whole pool rather than its first n completions, so its variance is lower. Raises `ValueError` if
    n is not in 1..N or a score is NaN.
    """
    total = len(scores)
    if len(correct) != total or not 1 <= n <= total:
        raise ValueError(f"best-of-{n} needs 1 <= n <= the pool's size, which is {total} scores and {len(correct)} labels.")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a pool's score is NaN; the reward model diverged.")
    order = sorted(range(total), key=lambda i: -scores[i])
    expected, rank = 0.0, 0
    for _, group in groupby(order, key=lambda i: scores[i]):
        members = list(group)
        weight = sum(math.comb(total - 1 - (rank + j), n - 1) for j in range(len(members))) / math.comb(total, n)
        expected += weight * sum(correct[i] for i in members) / len(members)
        rank += len(members)
    return expected


def best_of_n_curve(scores: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """The expected value of the best-scored completion among n, for n = 1..N, shape (N,): `best_of_n` for every n at once.

    The values may be correctness or anything else, such as the scores themselves. Raises `ValueError` as `best_of_n`.
    """
    total = len(scores)
    if len(values) != total or not total:
        raise ValueError(f"a best-of-n curve needs a value for each score; there are {total} scores and {len(values)} values.")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a pool's score is NaN; the reward model diverged.")
    order = sorted(range(total), key=lambda i: -scores[i])
    shared: list[float] = []
    for _, group in groupby(order, key=lambda i: scores[i]):
        members = list(group)
        shared += [sum(values[i] for i in members) / len(members)] * len(members)
    return _shares_of_ranks(total) @ np.array(shared)


@cache
def _shares_of_ranks(total: int) -> np.ndarray:
    """How often the completion of each rank is the best of a random n-subset of N, shape (N, N): n - 1 by rank."""
    return np.array([[math.comb(total - 1 - i, n - 1) / math.comb(total, n) for i in range(total)] for n in range(1, total + 1)])


def oracle_of_n(correct: Sequence[float], n: int) -> float:
    """Best-of-n with a perfect reward: the probability that n samples include a correct one (pass@n, Chen et al. 2021)."""
    return best_of_n(correct, correct, n)


def kl_of_best_of_n(n: int) -> float:
    """KL(best-of-n || policy) in nats: log n - (n - 1) / n (Stiennon et al. 2020); with tied scores an upper bound."""
    return math.log(n) - (n - 1) / n
