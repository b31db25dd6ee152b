"""Whether reward models that one criterion picks are of more use than those that another picks, over seeds.

Every seed has reward models of its own, from which each criterion picks one; what the picks are worth is compared within the seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ROUNDING = 1e-12
"""Differences of shares that are equal by counting miss each other by less than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The mean of paired differences with its 95% interval, that of Student's t with n - 1 degrees of freedom.

    None where there are fewer than 2 differences, or where all are equal up to rounding, which says nothing of their spread.

    >>> paired([0.01, 0.03]).excludes_zero
    False
    """

    mean: float | None
    ci95: tuple[float, float] | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.ci95 is not None and (self.ci95[0] > 0 or self.ci95[1] < 0)


def paired(differences: Sequence[float]) -> Paired:
    """The mean of differences, which are taken as independent and about normal, with its interval."""
    from scipy import stats  # takes half a second

    n = len(differences)
    values_N = np.asarray(differences, dtype=np.float64)
    mean = float(values_N.mean()) if n else None
    error = float(values_N.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if mean is None or error < _ROUNDING:
        return Paired(mean=mean, ci95=None, n=n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return Paired(mean=mean, ci95=(mean - half, mean + half), n=n)


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """A way to pick reward models: its name in the study and in a sentence. `recipe` says that it takes not the pick of the first
    criterion but that one's recipe, trained from the policy's own model.

    >>> Criterion(name="by-held-out", label="held-out accuracy").recipe
    False
    """

    name: str
    label: str
    recipe: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """What a criterion picked at a seed, and what that is worth: shares of right answers by use, such as `best of 16` and `PPO`.

    >>> Picked(seed=0, criterion="by-held-out", reward_model="1c27a5e0", worth={"PPO": 0.61}).worth["PPO"]
    0.61
    """

    seed: int
    criterion: str
    reward_model: str
    worth: Mapping[str, float] = field(default_factory=dict)


def settle(picks: Sequence[Picked], criteria: Sequence[Criterion]) -> dict[str, Any]:
    """The first criterion against each of the others, in every use: `comparisons`, and the `answer` in sentences.

    A recipe is compared the other way round, as what would be done instead of taking the checkpoint.
    """
    uses = list(dict.fromkeys(use for pick in picks for use in pick.worth))
    first, *others = criteria
    comparisons = [_compared(picks, *((other, first) if other.recipe else (first, other)), use) for other in others for use in uses]
    rivals = [entry for entry in comparisons if not entry["recipe"]]
    advice = [entry for entry in comparisons if entry["recipe"]]
    num_seeds = len({pick.seed for pick in picks})
    over = f"{num_seeds} seed{'' if num_seeds == 1 else 's'}"
    said = [f"Over {over}, reward models picked by {first.label}: {_verdict(rivals)}."] if rivals else []
    if advice:
        said.append(f"The paper's advice to take the recipe and not the checkpoint: {_verdict(advice)}.")
    if (count := sum(entry["ci95"] is not None for entry in comparisons)) > 1:
        alike = f"about {0.05 * count:.2g} of these {count} intervals would exclude 0 all the same"
        said.append(f"If all choices were equally good, {alike}.")
    return {"comparisons": comparisons, "answer": " ".join(said)}


def _compared(picks: Sequence[Picked], a: Criterion, b: Criterion, use: str) -> dict[str, Any]:
    """`a` minus `b` in one use, over the seeds that have both."""
    found = {one.name: {pick.seed: pick for pick in picks if pick.criterion == one.name and use in pick.worth} for one in (a, b)}
    seeds = sorted(found[a.name].keys() & found[b.name].keys())
    pairs = [(found[a.name][seed], found[b.name][seed]) for seed in seeds]
    differences = [one.worth[use] - other.worth[use] for one, other in pairs]
    equal = sum(one.reward_model == other.reward_model for one, other in pairs)
    result = paired(differences)
    entry: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "against": b.label,
        "use": use,
        "recipe": a.recipe,
        "seeds": seeds,
        "differences": differences,
        "mean": result.mean,
        "ci95": None if result.ci95 is None else list(result.ci95),
        "n": result.n,
        "same": equal,
        "better": (a.name if (result.mean or 0.0) > 0 else b.name) if result.excludes_zero else "",
    }
    what = f"the recipe instead of the checkpoint, {use}" if a.recipe else f"picked by {a.label} instead of {b.label}, {use}"
    return entry | {"answer": f"{what[0].upper()}{what[1:]}: {_difference(entry)}."}


def _difference(entry: Mapping[str, Any]) -> str:
    """A comparison in words, from its mean to what it tells."""
    n = entry["n"]
    if n and entry["same"] == n and not any(entry["differences"]):  # what they were used for may differ
        return f"the same reward model in all n = {n} seeds, so there is nothing to compare"
    if entry["mean"] is None:
        return "cannot tell, no seed has both"
    shown = f"{100 * entry['mean']:+.1f} points"
    if entry["ci95"] is not None:
        low, high = entry["ci95"]
        shown += f" (95% interval {100 * low:+.1f} to {100 * high:+.1f})"
    same = f", the same reward model in {entry['same']}" if entry["same"] else ""
    if not entry["better"]:
        return f"{shown}, cannot tell with n = {n} seed{'' if n == 1 else 's'}{same}"
    return f"{shown}, {'better' if entry['better'] == entry['a'] else 'worse'}, n = {n} seeds{same}"


def _verdict(entries: Sequence[Mapping[str, Any]]) -> str:
    """What several comparisons tell, by use."""
    parts: list[str] = []
    for use in dict.fromkeys(entry["use"] for entry in entries):
        own = [entry for entry in entries if entry["use"] == use]
        told = [_difference(entry) if entry["recipe"] else f"against {entry['against']} {_difference(entry)}" for entry in own]
        parts.append(f"in {use}, {'; '.join(told)}")
    return "; ".join(parts)
