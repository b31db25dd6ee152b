"""What a reward pays for beside correctness: within-prompt partial correlations of its scores with features of the completions.

Scores, features and correctness are taken as deviations from their mean over a prompt's completions, so that neither hard prompts nor
long-winded ones count. A correlation with length that is left once correctness is held fixed is then not "long answers are better
here" but "it pays for length".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

NUM_RESAMPLES = 1000
_TINY = 1e-9
"""Variances below this share of the largest count as none."""

Table = Sequence[Sequence[float]]
"""A value for each completion of each prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """A reward's partial correlation with one feature, with its 95% interval over prompts.

    `given_correct` holds correctness fixed, and `alone` all other features too: two features that occur together, such as length and
    lists, share the first and are told apart by the second. `is_found` says that the intervals of both exclude 0, at a level
    that is divided by the number of features looked at. `level` is the mean of the feature.

    >>> Bias(feature="length", given_correct=0.5, low=0.3, high=0.7, alone=0.4, alone_low=0.2, alone_high=0.6, level=5.0, is_found=True).low
    0.3
    """

    feature: str
    given_correct: float
    low: float
    high: float
    alone: float
    alone_low: float
    alone_high: float
    level: float
    is_found: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """All biases of a reward, the features that do not differ within any prompt, and on how many prompts this rests.

    Without `knows_correct` nothing was held fixed but, for `alone`, the other features.
    """

    biases: tuple[Bias, ...]
    constant: tuple[str, ...]
    num_prompts: int
    knows_correct: bool


def panel_of(scores: Table, features: Mapping[str, Table], correct: Table | None, *, seed: int = 0) -> Panel:
    """The panel of one reward over prompts with several completions and finite scores each.

    `features` and `correct` have the shape of `scores`; `correct` is None where it is not known. Intervals are percentiles of
    `NUM_RESAMPLES` bootstrap resamples of prompts.
    """
    places = [place for place, row in enumerate(scores) if len(row) > 1 and bool(np.isfinite(row).all())]
    products = {
        name: [_deviations(table[place]) for place in places]
        for name, table in {**features, "score": scores, **({} if correct is None else {"correct": correct})}.items()
    }
    powers = {name: sum(float(values @ values) for values in own) for name, own in products.items()}
    levels = {name: float(np.mean(np.concatenate([np.asarray(row, float) for row in table]))) for name, table in features.items() if places}
    varies = [name for name in features if places and powers[name] > _TINY * max(1.0, len(places))]
    known = correct is not None and bool(places) and powers["correct"] > _TINY
    if not places or not varies or powers["score"] <= 0:
        return Panel(biases=(), constant=tuple(features), num_prompts=len(places), knows_correct=known)
    names = ["score", *(["correct"] if known else []), *varies]
    scale = {name: np.sqrt(powers[name]) for name in names}
    columns_PK = [np.column_stack([products[name][place] / scale[name] for name in names]) for place in range(len(places))]
    matrices_PKK = np.array([own.T @ own for own in columns_PK])
    weights_RP = np.random.default_rng(seed).multinomial(len(places), [1 / len(places)] * len(places), NUM_RESAMPLES)
    resampled_RKK = np.einsum("rp,pij->rij", weights_RP, matrices_PKK)
    whole_1KK = matrices_PKK.sum(0)[None]
    biases = [_bias(name, names, known, whole_1KK, resampled_RKK, level=levels[name], num_features=len(varies)) for name in varies]
    return Panel(
        biases=tuple(biases), constant=tuple(name for name in features if name not in varies), num_prompts=len(places), knows_correct=known
    )


def _bias(
    name: str, names: Sequence[str], known: bool, whole_1KK: np.ndarray, resampled_RKK: np.ndarray, *, level: float, num_features: int
) -> Bias:
    place = names.index(name)
    held = [1] if known else []
    others = [i for i in range(1, len(names)) if i != place]
    found: list[tuple[float, float, float, bool]] = []
    for given in (held, others):
        value = float(_partial(whole_1KK, place, given)[0])
        draws_R = _partial(resampled_RKK, place, given)
        low, high = np.percentile(draws_R, [2.5, 97.5])
        # The bootstrap's tails are too thin to read a small percentile from, so its deviation gives the stricter interval.
        reach = float(draws_R.std()) * float(norm.ppf(1 - 0.025 / num_features))
        found.append((value, float(low), float(high), abs(value) > reach))
    (r, low, high, first), (alone, alone_low, alone_high, second) = found
    return Bias(
        feature=name,
        given_correct=r,
        low=low,
        high=high,
        alone=alone,
        alone_low=alone_low,
        alone_high=alone_high,
        level=level,
        is_found=first and second,
    )


def _partial(matrices_RKK: np.ndarray, place: int, given: Sequence[int]) -> np.ndarray:
    """The correlation of column 0 with column `place` given others, from matrices of products; 0 where one of the two is left without
    variance. Shape (R,)."""
    both = [0, place]
    own_R22 = matrices_RKK[:, both][:, :, both]
    if given:
        cross_R2G = matrices_RKK[:, both][:, :, given]
        inner_RGG = np.linalg.pinv(matrices_RKK[:, given][:, :, given], rcond=1e-8, hermitian=True)
        own_R22 = own_R22 - cross_R2G @ inner_RGG @ cross_R2G.transpose(0, 2, 1)
    variances_R = own_R22[:, 0, 0].clip(0) * own_R22[:, 1, 1].clip(0)
    enough_R = (own_R22[:, 0, 0] > _TINY) & (own_R22[:, 1, 1] > _TINY)
    return np.where(enough_R, own_R22[:, 0, 1] / np.sqrt(np.where(enough_R, variances_R, 1.0)), 0.0).clip(-1, 1)


def _deviations(values: Sequence[float]) -> np.ndarray:
    found_N = np.asarray(values, dtype=float)
    return found_N - found_N.mean()
