"""From raw scores to shaped ones.

Shapes: B episodes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppo.config import Center, MissingEOS, OverlongConfig, ShapingConfig

MIN_STD = 1e-6
"""Lower bound of the standard deviation, so that equal scores are not divided by zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Number, mean and sum of squared deviations of the scores seen so far, in fp64."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """Population standard deviation, at least `MIN_STD`."""
        return max(math.sqrt(self.squares / self.count), MIN_STD) if self.count else MIN_STD

    def seen(self, scores: Sequence[float]) -> "Moments":
        """The moments after `scores` too, added one at a time (Welford 1962): exact up to rounding however long the run is."""
        count, mean, squares = self.count, self.mean, self.squares
        for score in scores:
            count += 1
            gap = score - mean
            mean += gap / count
            squares += gap * (score - mean)
        return Moments(count=count, mean=mean, squares=squares)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreStatistics:
    """Moments of the raw scores: of the reference's completions before training, and of these and all episodes since."""

    reference: Moments
    running: Moments

    @classmethod
    def of_reference(cls, scores_B: Tensor) -> "ScoreStatistics":
        """The statistics at the beginning of a run."""
        moments = Moments().seen(scores_B.tolist())
        return cls(reference=moments, running=moments)

    def seen(self, scores_B: Tensor) -> "ScoreStatistics":
        """The statistics after the scores of one more batch."""
        return replace(self, running=self.running.seen(scores_B.tolist()))


def value_scale(statistics: ScoreStatistics, config: ShapingConfig, *, mean: float, weight: float) -> tuple[float, float]:
    """The a and b for which a * reward + b is in units of the shaped score, for a critic that starts as a reward model.

    The reward model gave the reference's completions rewards of mean `mean`, and `weight` times its reward is part of the raw
    score. The other terms are taken at their average, so a * mean + b is the mean raw score, shaped. What follows scaling
    (clip, missing EOS, overlong penalty) is left for the critic to learn.
    """
    total = statistics.reference
    center = 0.0 if config.center == Center.none else total.mean
    std = total.std if config.std is None else config.std
    return weight / std, (total.mean - center - weight * mean) / std


def shaped_scores(
    scores_B: Tensor, *, finished_B: Tensor, lengths_B: Tensor, max_length: int, config: ShapingConfig, statistics: ScoreStatistics
) -> Tensor:
    """Raw scores shaped, in this order: centred, scaled, clipped, changed if EOS is missing, less the overlong penalty.

    `finished_B` says which completions end with EOS, `lengths_B` counts tokens including EOS, `max_length` is the token limit.
    What follows the clip is in units of the shaped score and is not clipped.
    """
    moments = {"reference": statistics.reference, "running": statistics.running}
    mean = moments[config.center].mean if config.center in moments else 0.0
    std = moments[config.scale].std if config.scale in moments else config.std
    assert std is not None, "ShapingConfig requires std if scale=fixed"
    shaped_B = (scores_B - mean) / std
    if config.clip is not None:
        shaped_B = shaped_B.clamp(-config.clip, config.clip)
    value = config.missing_eos.value or 0.0
    if config.missing_eos.how == MissingEOS.replace:
        shaped_B = torch.where(finished_B, shaped_B, value)
    elif config.missing_eos.how == MissingEOS.subtract:
        shaped_B = torch.where(finished_B, shaped_B, shaped_B - value)
    return shaped_B - overlong_penalty(lengths_B.to(shaped_B.dtype), max_length, config.overlong)


def overlong_penalty(lengths_B: Tensor, max_length: int, config: OverlongConfig) -> Tensor:
    """0 up to max_length - buffer tokens, then linear up to `config.penalty` at max_length (DAPO, Yu et al. 2025, eq. 13)."""
    if not config.buffer:
        return torch.zeros_like(lengths_B)
    over_B = (lengths_B - (max_length - config.buffer)).clamp(0, config.buffer)
    return config.penalty * over_B / config.buffer
