"""Voting over a pool of completions: the answer that most of n completions give, or the one whose completions score highest together.

Completions vote by their answers, texts such as the final number of a solution. Of answers with equally many votes each is chosen
equally often, and of the completions with the chosen answer too.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np

MAX_SUBSETS = 1024
"""Subsets of one size that a weighted vote among up to 16 completions is held over; of more, as many are drawn, and fewer of larger
pools: their sizes are more."""
_EQUAL = 1e-12
"""Two sums of weights count as equal within this share of the largest: the order of adding them must not decide."""


def majority_curve(answers: Sequence[str], correct: Sequence[float]) -> np.ndarray:
    """Expected correctness of the most frequent answer among n completions, for n = 1..N, shape (N,): exact over all n-subsets.

    Raises `ValueError` where answers and correctness differ in number, or there are none.
    """
    total = _require_same(answers, correct)
    members: dict[str, list[float]] = defaultdict(list)
    for answer, value in zip(answers, correct, strict=True):
        members[answer].append(value)
    groups = [(len(values), sum(values) / len(values)) for values in members.values()]
    won = np.zeros(total + 1)  # summed over subsets, by their size
    for votes in range(1, max(size for size, _ in groups) + 1):
        won += _won_with(votes, groups, total)
    return np.array([won[n] / math.comb(total, n) for n in range(1, total + 1)])


def _won_with(votes: int, groups: Sequence[tuple[int, float]], total: int) -> np.ndarray:
    """The correctness of the winner summed over all subsets in which it has exactly so many votes, by size of the subset.

    Goes through the groups one by one. `ways[t, s]` counts the subsets of size s of the groups so far in which t groups have `votes`
    votes and all others fewer; `values[t, s]` sums over them the correctness of those t groups.
    """
    most = min(len(groups), total // votes)
    ways, values = np.zeros((most + 1, total + 1)), np.zeros((most + 1, total + 1))
    ways[0, 0] = 1.0
    for size, value in groups:
        new_ways, new_values = np.zeros_like(ways), np.zeros_like(values)
        for taken in range(min(size, votes) + 1):
            chosen, kept = math.comb(size, taken), slice(0, total + 1 - taken)
            if taken < votes:
                new_ways[:, taken:] += chosen * ways[:, kept]
                new_values[:, taken:] += chosen * values[:, kept]
            else:
                new_ways[1:, taken:] += chosen * ways[:-1, kept]
                new_values[1:, taken:] += chosen * (values[:-1, kept] + value * ways[:-1, kept])
        ways, values = new_ways, new_values
    ties = np.arange(1, most + 1)[:, None]
    return (values[1:] / ties).sum(0)


def weighted_curve(answers: Sequence[str], weights: Sequence[float], correct: Sequence[float], *, seed: int = 0) -> np.ndarray:
    """Expected correctness of the answer with the largest sum of weights among n completions, for n = 1..N, shape (N,).

    Over all n-subsets where these are at most `MAX_SUBSETS`, else over some drawn by `seed`, which is unbiased too. Weights are
    positive (Li et al. 2023, "Making Language Models Better Reasoners with Step-Aware Verifier", section 3.2). Raises `ValueError` as
    `majority_curve`, and for a weight that is negative or not finite.
    """
    total = _require_same(answers, correct)
    if len(weights) != total or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"a weighted vote needs a finite weight of 0 or above for each of {total} completions.")
    numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    belongs_NG = np.zeros((total, len(numbers)))
    belongs_NG[range(total), [numbers[answer] for answer in answers]] = 1.0
    summed = np.hstack([belongs_NG, belongs_NG * np.array(weights)[:, None], belongs_NG * np.array(correct)[:, None]])
    most = max(1, min(MAX_SUBSETS, 16 * MAX_SUBSETS // total))
    found: list[float] = []
    for n in range(1, total + 1):
        counts_SG, sums_SG, correct_SG = np.split(_subsets(total, n, most, seed) @ summed, 3, axis=1)
        correct_SG = correct_SG / np.maximum(counts_SG, 1)
        best_S1 = np.where(counts_SG > 0, sums_SG, -1.0).max(1, keepdims=True)
        wins_SG = (counts_SG > 0) & (sums_SG >= best_S1 * (1 - _EQUAL))
        found.append(float(((correct_SG * wins_SG).sum(1) / wins_SG.sum(1)).mean()))
    return np.array(found)


@cache
def _subsets(total: int, n: int, most: int, seed: int) -> np.ndarray:
    """Subsets of n among `total` completions as rows of 0 and 1: all of them, or the `most` that are allowed."""
    if math.comb(total, n) <= most:
        places = list(combinations(range(total), n))
    else:
        draw = random.Random(f"{seed} {n}")
        places = [draw.sample(range(total), n) for _ in range(most)]
    chosen_SN = np.zeros((len(places), total))
    np.put_along_axis(chosen_SN, np.array(places), 1.0, axis=1)
    return chosen_SN


def _require_same(answers: Sequence[str], correct: Sequence[float]) -> int:
    if len(answers) != len(correct) or not answers:
        raise ValueError(f"a vote needs the correctness of each answer; there are {len(answers)} answers and {len(correct)} values.")
    return len(answers)
