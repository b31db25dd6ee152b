"""Ensembles of reward models that have scored one pool already, by their standardised scores."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

Scores = Sequence[Sequence[float]]
"""A list of scores per prompt."""

MEMBERS = "ensemble"
"""What the names of ensembles begin with."""


def standardised(scores: Scores) -> list[list[float]]:
    """Each score minus the mean of its prompt, divided by the standard deviation within prompts over the whole pool.

    The mean goes because pairs leave it open: the Bradley-Terry likelihood does not change when a constant is added to all rewards of a
    prompt, so what one model adds there says nothing, and would decide which member is the lowest. The deviation is one for the pool,
    not one per prompt: where a model sees no difference, dividing by it would blow up noise. Prompts with a score that is not finite
    stay as they are and do not count; so does everything where no scores differ.
    """
    scale = deviation(scores)
    found: list[list[float]] = []
    for row in scores:
        if all(map(math.isfinite, row)):
            middle = fmean(row)
            found.append([(score - middle) / scale if scale else 0.0 for score in row])
        else:
            found.append(list(row))
    return found


def deviation(scores: Scores) -> float:
    """The standard deviation within prompts: the root of the mean over prompts of their variances; 0 without any finite prompt."""
    variances = [pstdev(row) ** 2 for row in scores if all(map(math.isfinite, row))]
    return math.sqrt(fmean(variances)) if variances else 0.0


def ensembles(scores: Mapping[str, Scores]) -> dict[str, list[list[float]]]:
    """The mean of all models' standardised scores, their minimum, and their mean minus their deviation; empty for one model.

    The minimum is worst-case optimisation, and the last penalises disagreement, here by the population deviation, which has the
    scores' unit, where Coste et al. 2024 ("Reward Model Ensembles Help Mitigate Overoptimization") subtract the variance. A NaN of one
    member is one of the ensemble.
    """
    if len(scores) < 2:
        return {}
    members = [standardised(own) for own in scores.values()]
    found: dict[str, list[list[float]]] = {f"{MEMBERS}-{name}": [] for name in ("mean", "min", "mean-std")}
    for rows in zip(*members, strict=True):
        together = [_combined(values) for values in zip(*rows, strict=True)]
        for place, name in enumerate(found):
            found[name].append([values[place] for values in together])
    return found


def _combined(values: Sequence[float]) -> tuple[float, float, float]:
    if any(map(math.isnan, values)):
        return math.nan, math.nan, math.nan
    middle = fmean(values)
    spread = pstdev(values) if all(map(math.isfinite, values)) else 0.0
    return middle, min(values), middle - spread
