"""Which single number, or which grouping, predicts a downstream result: the error on reward models that were left out.

Source of the question: RewardBench 2 (Malik et al. 2025, section 5), where accuracy, the variance of scores within a prompt (Razin et
al. 2025) and the lineage all bear on PPO. With a dozen runs only one input at a time can be told from chance.

Shapes: N reward models, P columns of the design.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalhooks.analysis.table import ScoredModel

RUNS_PER_INPUT = 10
"""A model has at most one input for so many reward models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostic:
    """How well one input predicts: the root mean square error on each reward model left out in turn, beside that of the mean alone.

    `gain` is the share of the mean's squared error that the input takes away; below 0 it predicts worse than nothing. `errors` are None
    where nothing was fitted, and `note` says why.

    >>> Diagnostic(name="rb2", n=17, num_inputs=1, error=4.0, error_of_mean=5.0, gain=0.36, note="").gain
    0.36
    """

    name: str
    n: int
    num_inputs: int
    error: float | None
    error_of_mean: float | None
    gain: float | None
    note: str


def diagnostic(models: Sequence[ScoredModel], name: str, downstream: str, *, called: str = "") -> Diagnostic:
    """The leave-one-out error of a linear model of `downstream` on one column or, where it is no score, on one fact such as `group`.

    A note calls the downstream result `called`, by default its column.
    """
    numeric = any(name in model.scores for model in models)
    used = [m for m in models if downstream in m.scores and (name in m.scores if numeric else m.facts.get(name))]
    y_N = np.array([model.scores[downstream] for model in used])
    if numeric:
        inputs_NP = np.array([[model.scores[name]] for model in used]).reshape(len(used), 1)
    else:
        levels = sorted({model.facts[name] for model in used})
        flags = [[float(model.facts[name] == level) for level in levels[1:]] for model in used]
        inputs_NP = np.array(flags).reshape(len(used), max(0, len(levels) - 1))
    n, num_inputs = inputs_NP.shape
    if not n:
        return _nothing(name, n, num_inputs, "no reward model has both.")
    if not num_inputs or (np.ptp(inputs_NP, axis=0).max() == 0):
        return _nothing(name, n, num_inputs, f"it is the same for all {n}.")
    if n < RUNS_PER_INPUT * num_inputs:
        inputs = "1 input needs" if num_inputs == 1 else f"{num_inputs} inputs need"
        return _nothing(
            name, n, num_inputs, f"{inputs} {RUNS_PER_INPUT * num_inputs} reward models, and there {'is' if n == 1 else 'are'} {n}."
        )
    error, of_mean = _left_out(np.column_stack([np.ones(n), inputs_NP]), y_N), _left_out(np.ones((n, 1)), y_N)
    if of_mean == 0:
        return _nothing(name, n, num_inputs, f"{called or downstream} is the same for all {n}.")
    return Diagnostic(name=name, n=n, num_inputs=num_inputs, error=error, error_of_mean=of_mean, gain=1 - (error / of_mean) ** 2, note="")


def _nothing(name: str, n: int, num_inputs: int, why: str) -> Diagnostic:
    return Diagnostic(name=name, n=n, num_inputs=num_inputs, error=None, error_of_mean=None, gain=None, note=f"Not fitted: {why}")


def _left_out(design_NP: NDArray[np.float64], y_N: NDArray[np.float64]) -> float:
    """Root mean square of the errors on each row as the others predict it."""
    errors = []
    for row in range(len(y_N)):
        kept = np.arange(len(y_N)) != row
        weights_P, *_ = np.linalg.lstsq(design_NP[kept], y_N[kept], rcond=None)
        errors.append(float(y_N[row] - design_NP[row] @ weights_P))
    return math.sqrt(sum(error**2 for error in errors) / len(errors))
