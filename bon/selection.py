"""What reward models pick from one stored pool, for every n: accuracy beside the bounds and votes, and what kind of signal they give.

Everything is computed from scores and correctness. Standard errors are those of the choice of prompts: the standard deviation of the
prompts' own values over the root of their number, and at least what prompts of a kind that was not drawn may change (`estimate`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from bon.ensembles import Scores, deviation, standardised
from bon.estimators import best_of_n_curve, kl_of_best_of_n
from bon.rows import PoolRow
from bon.votes import majority_curve, weighted_curve
from core.shares import unanimous_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over prompts and its standard error, which one prompt alone does not have.

    >>> Estimate(value=0.5, error=None).error is None
    True
    """

    value: float
    error: float | None


Curve = tuple[Estimate, ...]
"""An estimate for each n = 1..N."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """What a reward model's scores are worth on a pool, besides its accuracy.

    `accuracy` and `vote` (each answer weighted by the scores of its completions) are for every n. `auc` is the share of pairs of a right
    and a wrong completion of one prompt that it ranks right, equal scores counting half, as a mean over the prompts that have such
    pairs. `variance` is that of its scores within a prompt (Razin et al. 2025 tie it to the speed of learning). `gamma`: see `gamma_of`.
    `num_broken` counts prompts with a NaN, where it picks nothing right.
    """

    accuracy: Curve
    vote: Curve
    auc: Estimate | None
    variance: float
    gamma: Estimate | None
    num_broken: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """One task's pool: what chance, a perfect reward and a vote of the majority give for every n, and the signal of each reward model.

    `mixed` is the share of prompts whose completions differ in correctness; on the others no reward model can show anything.
    """

    num_prompts: int
    n: int
    mixed: float
    random: Estimate
    oracle: Curve
    majority: Curve
    signals: Mapping[str, Signal] = field(default_factory=dict)

    @property
    def headroom(self) -> float:
        """By how much a perfect reward would beat a random pick from the whole pool."""
        return self.oracle[-1].value - self.random.value

    def regret(self, reward: str, n: int) -> float:
        """By how much a perfect reward would beat this one among n."""
        return self.oracle[n - 1].value - self.signals[reward].accuracy[n - 1].value


def select(rows: Sequence[PoolRow], scores: Mapping[str, Scores], answer_of: Callable[[str], str]) -> Selection:
    """Measures every reward model on the rows of one task, all of which must hold correctness; `answer_of` reads a vote out of a text.

    Every n goes up to the smallest pool of a prompt, and each prompt's estimate uses all its completions. Raises `ValueError` for rows
    without correctness.
    """
    if not rows or any(not row.correct for row in rows):
        raise ValueError("a pool is measured by the correctness of its completions, and some of its prompts have none.")
    size = min(len(row.completions) for row in rows)
    answers = [[answer_of(text) for text in row.completions] for row in rows]
    correct = [row.correct for row in rows]
    return Selection(
        num_prompts=len(rows),
        n=size,
        mixed=sum(min(row) < max(row) for row in correct) / len(correct),
        random=estimate([sum(row) / len(row) for row in correct]),
        oracle=curve_of([best_of_n_curve(row, row)[:size] for row in correct]),
        majority=curve_of([majority_curve(own, row)[:size] for own, row in zip(answers, correct, strict=True)]),
        signals={name: _signal(own, correct, answers, size) for name, own in scores.items()},
    )


def _signal(scores: Scores, correct: Scores, answers: Sequence[Sequence[str]], size: int) -> Signal:
    nothing = np.zeros(size)
    sound = [not any(map(math.isnan, row)) for row in scores]
    accuracy = [
        best_of_n_curve(row, labels)[:size] if is_sound else nothing for row, labels, is_sound in zip(scores, correct, sound, strict=True)
    ]
    votes = [
        weighted_curve(own, weights, labels)[:size] if weights else nothing
        for own, weights, labels in zip(answers, map(_weights, standardised(scores)), correct, strict=True)
    ]
    finite = [(row, labels) for row, labels in zip(scores, correct, strict=True) if all(map(math.isfinite, row))]
    return Signal(
        accuracy=curve_of(accuracy),
        vote=curve_of(votes),
        auc=auc_of([row for row, _ in finite], [labels for _, labels in finite]),
        variance=deviation(scores) ** 2,
        gamma=gamma_of([row for row, _ in finite], [labels for _, labels in finite], size),
        num_broken=sound.count(False),
    )


def score_curve(scores: Scores, size: int) -> Curve:
    """The expected score of the pick among n, for n up to `size`, over the prompts with finite scores; empty without any."""
    finite = [best_of_n_curve(row, row)[:size] for row in scores if all(map(math.isfinite, row))]
    return tuple(_mean(values_P.tolist()) for values_P in np.array(finite).T)


def _weights(row: Sequence[float]) -> list[float]:
    """The weights of votes: the exponential of standardised scores, as in the Bradley-Terry model, where e^r is a completion's strength.

    Empty where a score is not finite.
    """
    if not all(map(math.isfinite, row)):
        return []
    highest = max(row)  # a common factor changes no vote
    return [math.exp(max(score - highest, -50.0)) for score in row]


def auc_of(scores: Scores, correct: Scores) -> Estimate | None:
    """The within-prompt AUC (see `Signal`); a completion of correctness 0.5 or more is right. None without a prompt of both kinds."""
    found: list[float] = []
    for row, labels in zip(scores, correct, strict=True):
        right = [score for score, label in zip(row, labels, strict=True) if label >= 0.5]
        wrong = [score for score, label in zip(row, labels, strict=True) if label < 0.5]
        if right and wrong:
            found.append(sum((a > b) + 0.5 * (a == b) for a, b in product(right, wrong)) / (len(right) * len(wrong)))
    return estimate(found) if found else None


def gamma_of(scores: Scores, correct: Scores, size: int) -> Estimate | None:
    """The area between the proxy and the true best-of-n curve over KL(n) in nats, n = 1..size, by the trapezoidal rule.

    The proxy curve is the expected score of the pick, the true one its expected correctness, each as its rise over a random pick in its
    own standard deviation within prompts, so that rewards of any scale compare. A reward that is correctness, scaled and shifted, has
    0; over-optimisation makes the proxy rise and correctness not (the metric gamma of Kim et al. 2025, "Rethinking Reward Model
    Evaluation Through the Lens of Reward Overoptimization", there over fitted curves and in shares of the true one). The error is
    the jackknife's over prompts. None where scores or correctness do not differ within any prompt, and for size 1.
    """
    if size < 2 or not scores:
        return None
    proxy_PN = np.array([_rise(row, row, size) for row in scores])
    true_PN = np.array([_rise(row, labels, size) for row, labels in zip(scores, correct, strict=True)])
    variances_P2 = np.array([(np.var(row), np.var(labels)) for row, labels in zip(scores, correct, strict=True)])
    sums, count = (proxy_PN.sum(0), true_PN.sum(0), variances_P2.sum(0)), len(scores)
    whole = _area(*(total / count for total in sums))
    if whole is None:
        return None
    if count < 2:
        return Estimate(value=whole, error=None)
    without = [
        _area(*((total - own) / (count - 1) for total, own in zip(sums, each, strict=True)))
        for each in zip(proxy_PN, true_PN, variances_P2, strict=True)
    ]
    if None in without:  # one prompt alone makes the difference
        return Estimate(value=whole, error=None)
    areas_P = np.array(without, dtype=float)
    return Estimate(value=whole, error=float(math.sqrt((count - 1) * np.mean((areas_P - areas_P.mean()) ** 2))))


def _rise(scores: Sequence[float], values: Sequence[float], size: int) -> np.ndarray:
    found_N = best_of_n_curve(scores, values)[:size]
    return found_N - found_N[0]


def _area(proxy_N: np.ndarray, true_N: np.ndarray, variances_2: np.ndarray) -> float | None:
    proxy_std, true_std = np.sqrt(np.maximum(variances_2, 0.0))
    if not (proxy_std > 1e-12 and true_std > 1e-12):
        return None
    kl_N = np.array([kl_of_best_of_n(n) for n in range(1, len(proxy_N) + 1)])
    return float(np.trapezoid(np.abs(proxy_N / proxy_std - true_N / true_std), kl_N))


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of the prompts' shares, each 0..1, with its standard error, which is never 0.

    Prompts that are alike have hardly a spread, yet the next one may be unlike them. Where all are right or all wrong, the error is that
    of Wilson's interval (`core.shares.unanimous_error`): the interval's width is the share of prompts of another kind that may have
    remained undrawn, and each of these would change the mean by 1. Where the mean is m each would change it by m or 1 - m at most, so
    no error is below the larger of these times that one. It grows evenly as picks become right, and where each prompt is 0 or 1 but
    they differ, the spread is always larger.
    """
    found = _mean(values)
    if found.error is None:
        return found
    least = unanimous_error(len(values)) * max(found.value, 1 - found.value)
    return replace(found, error=max(found.error, least))


def _mean(values: Sequence[float]) -> Estimate:
    found_P = np.asarray(values, dtype=float)
    error = float(found_P.std(ddof=1) / math.sqrt(len(found_P))) if len(found_P) > 1 else None
    return Estimate(value=float(found_P.mean()), error=error)


def curve_of(curves: Sequence[np.ndarray]) -> Curve:
    """The estimate for every n from the prompts' own curves."""
    return tuple(estimate(values_P.tolist()) for values_P in np.array(curves).T)


def average(found: Sequence[Estimate]) -> Estimate:
    """The mean over tasks, which are independent: its variance is the sum of theirs over the square of their number."""
    errors = [one.error for one in found if one.error is not None]
    error = math.sqrt(sum(own**2 for own in errors)) / len(found) if len(errors) == len(found) else None
    return Estimate(value=sum(one.value for one in found) / len(found), error=error)
