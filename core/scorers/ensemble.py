"""Ensembles of scorers, which are harder to exploit than their members."""

import math
from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean

from core.records import Dialogue, Scorer, num_truncated


class Combine(StrEnum):
    """How the members' scores of a completion are combined."""

    mean = "mean"
    min = "min"
    uncertainty = "uncertainty"


class EnsembleScorer:
    """Scores with the mean of its members, their minimum, or their mean minus a penalty for disagreement.

    The last two are from Coste et al. 2024, "Reward Model Ensembles Help Mitigate Overoptimization": `min` is worst-case
    optimisation (WCO), `uncertainty` is uncertainty-weighted optimisation (UWO), mean - lambda * intra-ensemble variance, with
    lambda = `weight` and the population variance (divided by the number of members).

    Reward models differ in scale and offset, and the one with the widest scale would dominate. `scales` gives each member's
    mean and standard deviation, measured beforehand on one set of completions; a member's score then counts as
    (score - mean) / std. They are fixed because a score must not depend on what else is scored in the same call.

    Members score one after another, never at the same time. Raises `ValueError` for fewer than two members and for scales
    that do not match them.
    """

    def __init__(
        self, members: Sequence[Scorer], combine: Combine, weight: float = 1.0, *, scales: Sequence[tuple[float, float]] = ()
    ) -> None:
        if len(members) < 2:
            raise ValueError(f"An ensemble needs at least two members, got {len(members)}; use a single scorer directly.")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"The weight of an ensemble's variance is {weight}; it must be a finite number, 0 or above.")
        if scales and len(scales) != len(members):
            raise ValueError(f"An ensemble of {len(members)} members got {len(scales)} scales; give a mean and std for each, or none.")
        for place, (mean, std) in enumerate(scales):
            if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
                raise ValueError(f"scales[{place}] is ({mean}, {std}); it must be a finite mean and a standard deviation above 0.")
        self.members, self.combine, self.weight = tuple(members), Combine(combine), weight
        self.scales = tuple(scales) or ((0.0, 1.0),) * len(members)

    @property
    def num_truncated(self) -> int | None:
        """Texts that members cut so far, counted once for each member that did; None if none could."""
        counts = [count for member in self.members if (count := num_truncated(member)) is not None]
        return sum(counts) if counts else None

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of combined scores per prompt, one score per completion, in the given order."""
        by_member = [member.score(prompts, completions) for member in self.members]
        return [[self._combined(scores) for scores in zip(*by_prompt, strict=True)] for by_prompt in zip(*by_member, strict=True)]

    def _combined(self, scores: Sequence[float]) -> float:
        scaled = [(score - mean) / std for score, (mean, std) in zip(scores, self.scales, strict=True)]
        if any(math.isnan(score) for score in scaled):
            return math.nan  # `min` would keep or lose it depending on the order of the members
        if self.combine == Combine.min:
            return min(scaled)
        mean = fmean(scaled)
        if self.combine == Combine.mean:
            return mean
        return mean - self.weight * fmean((score - mean) ** 2 for score in scaled)
