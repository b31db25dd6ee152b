"""The share of verdicts that answers as long as the baseline's would win: AlpacaEval's control for length, of one policy by itself.

Judges prefer longer answers. Dubois et al. 2024 (arXiv:2404.04475, section 3) regress the verdicts on the difference in length d, in
deviations: logit P(win) = theta + phi tanh(d / sigma) + the difficulty of the instruction. Their rate is the mean of P at d = 0. The
difficulties come from the answers of all models of their leaderboard; one policy's answers cannot tell them from chance, so they are left
out, which makes the rate 1 / (1 + e^-theta).

Shapes: N answers.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def length_controlled(wins: Sequence[float], lengths: Sequence[int], baseline: Sequence[int]) -> float | None:
    """The win rate at equal lengths, from verdicts of 0 to 1 and the lengths, in characters, of the answers and of what they met.

    It maximises the likelihood of theta and phi under a normal prior of phi with mean 0 and deviation 1, without which phi would be
    infinite where the longer answer always wins. If all win, or all lose, so they would at equal lengths: the plain rate is returned. None
    for answers that all differ from the baseline by the same length, which cannot tell what length does.
    """
    wins_N = np.asarray(wins, dtype=float)
    differences_N = np.asarray(lengths, dtype=float) - np.asarray(baseline, dtype=float)
    if not len(wins_N) or not (sigma := float(differences_N.std())):
        return None
    plain = float(wins_N.mean())
    if plain in (0.0, 1.0):
        return plain
    return _fitted(wins_N, np.tanh(differences_N / sigma), start=float(np.log(plain / (1 - plain))))


def _fitted(wins_N: NDArray[np.float64], longer_N: NDArray[np.float64], *, start: float) -> float:
    from scipy.optimize import minimize  # scipy takes half a second to import
    from scipy.special import expit

    def loss(fitted: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta, phi = fitted
        logits_N = theta + phi * longer_N
        errors_N = expit(logits_N) - wins_N
        likelihood = np.sum(np.logaddexp(0, logits_N) - wins_N * logits_N)
        return float(likelihood + phi**2 / 2), np.array([errors_N.sum(), errors_N @ longer_N + phi])

    found = minimize(loss, np.array([start, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-8 * len(wins_N)})
    return float(expit(found.x[0]))
