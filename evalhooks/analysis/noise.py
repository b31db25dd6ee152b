"""What the seed alone does to a score: the spread of reward models that are equal but for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalhooks.analysis.table import ScoredModel

_SETTINGS = ("base", "data", "lr", "epochs")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedNoise:
    """The standard deviation of a score over seeds, pooled over groups of equal recipes, with `df` degrees of freedom.

    Of two reward models of one recipe, 95 in 100 differ by less than `band`: a difference below it is noise.

    >>> SeedNoise(sd=0.7, band=4.2, df=2, num_groups=2).df
    2
    """

    sd: float
    band: float
    df: int
    num_groups: int


def recipes(models: Sequence[ScoredModel]) -> list[list[ScoredModel]]:
    """The groups of at least two reward models that are equal in all known settings but the seed.

    Those are models of one name over seeds, else models that agree in base, data, lr, epochs, flips and group. Without a seed all four
    settings must be known: what a table leaves out may differ.
    """
    groups: dict[tuple[str, ...], list[ScoredModel]] = {}
    for model in models:
        known = [key for key in _SETTINGS if model.facts.get(key)]
        if "recipe" in model.facts:
            key = ("recipe", model.facts["recipe"], model.facts.get("mode", ""))
        elif len(known) == len(_SETTINGS) or (known and model.facts.get("seed")):
            key = tuple(_same(model.facts.get(name, "")) for name in (*_SETTINGS, "flip", "group"))
        else:
            continue
        groups.setdefault(key, []).append(model)
    return [group for group in groups.values() if len(group) > 1]


def seed_noise(models: Sequence[ScoredModel], column: str) -> SeedNoise | None:
    """The seed noise of a column; None without two reward models of one recipe that have it.

    The band is t sqrt(2) sd, with Student's t at 97.5% for the degrees of freedom: with few repeats it is wide, as it must be.
    """
    from scipy import stats

    groups = [[model.scores[column] for model in group if column in model.scores] for group in recipes(models)]
    groups = [values for values in groups if len(values) > 1]
    df = sum(len(values) - 1 for values in groups)
    if not df:
        return None
    sd = math.sqrt(sum(float(np.var(values)) * len(values) for values in groups) / df)
    return SeedNoise(sd=sd, band=float(stats.t.ppf(0.975, df)) * math.sqrt(2) * sd, df=df, num_groups=len(groups))


def _same(value: str) -> str:
    """A setting as it compares: numbers by value, so 3e-6 is 0.000003."""
    try:
        return repr(float(value))
    except ValueError:
        return value.lower()
