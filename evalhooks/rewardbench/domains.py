"""The six domains of RewardBench 2, and the mean of those that were scored where some were not.

Such a mean is labelled with its domains ("mean of 5: no Precise IF"), as a metric too: it is comparable with means of the same domains
alone, and never stands in for the overall score.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

DOMAINS: Mapping[str, str] = {
    "factuality": "Factuality",
    "precise_if": "Precise IF",
    "math": "Math",
    "safety": "Safety",
    "focus": "Focus",
    "ties": "Ties",
}
"""Metric key -> subset name of the six domains, in the order of the leaderboard."""

OVERALL = "overall"
PREFIX = "rewardbench2/"


def mean_key(domains: Collection[str]) -> str:
    """The metric key of the mean over some of the domains, by their keys.

    >>> mean_key(["factuality", "math", "safety", "focus", "ties"]), mean_key(["ties", "math"])
    ('mean_of_5_no_precise_if', 'mean_of_2_math_ties')
    """
    there = [key for key in DOMAINS if key in domains]
    missing = [key for key in DOMAINS if key not in domains]
    named = ["no", *missing] if len(missing) <= 2 else there
    return "_".join([f"mean_of_{len(there)}", *named])


def mean_label(domains: Collection[str]) -> str:
    """What the same mean is called in tables.

    >>> mean_label(["factuality", "math", "safety", "focus", "ties"]), mean_label(["ties", "math"])
    ('mean of 5: no Precise IF', 'mean of 2: Math, Ties')
    """
    there = [name for key, name in DOMAINS.items() if key in domains]
    missing = [name for key, name in DOMAINS.items() if key not in domains]
    return f"mean of {len(there)}: " + (f"no {', '.join(missing)}" if len(missing) <= 2 else ", ".join(there))


_SETS = [found for size in range(1, len(DOMAINS)) for found in combinations(DOMAINS, size)]
LABELS: Mapping[str, str] = {mean_key(found): mean_label(found) for found in _SETS}
"""Metric key -> label of every mean over some of the domains."""


def label_of(key: str) -> str:
    """What the score under a metric key is called: `overall`, the label of a mean, or the name of a domain."""
    return LABELS.get(key) or DOMAINS.get(key, key)


def mean_of(per_subset: Mapping[str, float]) -> tuple[str, float] | None:
    """The key and value of the mean over the domains in `per_subset` (by name); None if all six are there, or none is."""
    there = [key for key, name in DOMAINS.items() if name in per_subset]
    if len(there) in (0, len(DOMAINS)):
        return None
    return mean_key(there), fmean(per_subset[DOMAINS[key]] for key in there)


def score_key(results: Sequence[Mapping[str, Any]]) -> str:
    """The key of the score by which `results` (scores by key, without `rewardbench2/`) are compared.

    That is `overall` if any has it, otherwise the mean that most of them have; results that lack it have no score among them.
    """
    if any(result.get(OVERALL) is not None for result in results):
        return OVERALL
    counts = {key: sum(result.get(key) is not None for result in results) for key in LABELS}
    best = max(counts, key=lambda key: counts[key])
    return best if counts[best] else OVERALL


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite scores of RewardBench 2 among metrics, by key without `rewardbench2/`; numbers may be text, as in records.

    Without an overall score the mean of the domains is among them, in records of before too, which lack it.
    """
    found = {name.removeprefix(PREFIX): float(value) for name, value in metrics.items() if name.startswith(PREFIX)}
    found = {key: value for key, value in found.items() if math.isfinite(value)}
    mean = mean_of({name: found[key] for key, name in DOMAINS.items() if key in found}) if OVERALL not in found else None
    return found | (dict([mean]) if mean else {})
