"""Two models on the same benchmark rows: do their scores differ by more than the choice of prompts explains?

Everything is paired: only rows that both models scored count, and a resample draws a row (for Ties: a pair of prompts)
with both models' results. That is far sharper than comparing two standard errors, since a hard row is hard for both. The
intervals do not cover training noise: two seeds of one recipe differ too. Where there are fewer than 20 rows to resample, which a
bootstrap takes for more than they are, the signs of the differences are flipped instead (`evalhooks.analysis.sign_flip_estimate`);
where no row differs, the interval says how often rows could differ without any of these doing so (`no_difference_estimate`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from core.records import ScoredRow
from evalhooks.analysis.differences import (
    EXACT_BELOW,
    DifferenceEstimate,
    difference_estimate,
    no_difference_estimate,
    resampled_sums,
    sign_flip_estimate,
)
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.domains import mean_label
from evalhooks.rewardbench.finite import remark, rows_not_finite, without_finite_row
from evalhooks.rewardbench.v2 import DOMAINS, TIES


class Verdict(StrEnum):
    """Whether the choice of prompts alone explains a difference: more than noise only if its interval excludes 0."""

    more_than_noise = "more than noise"
    within_noise = "within noise"
    cannot_tell = "cannot tell"
    """Too few rows for any outcome to be more than noise; for the overall score also a domain of a single row."""


PRIOR_SETS = "Prior Sets"
"""Name of the line of RewardBench 1's prior sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One score of both models over `num_rows` shared rows, on the scale 0..1.

    `difference` is a - b; `ci95` is its 95% paired interval and `p_value` two-sided for no difference. There is no interval with fewer
    than six rows (for Ties: pairs), and no p-value with fewer than two. `verdict` is "more than noise" only if the interval excludes 0,
    and "cannot tell" without one. Model a earned more credit than b on `num_won` rows, and less on `num_lost`.
    """

    name: str
    num_rows: int
    score_a: float
    score_b: float
    difference: float
    ci95: tuple[float, float] | None
    p_value: float | None
    verdict: Verdict
    num_won: int
    num_lost: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A row on which the models' credits differ; the credit of a Ties prompt is 1 if it is accurate, else 0.

    >>> Flip(subset="Math", id="7", credit_a=1.0, credit_b=0.0).credit_a
    1.0
    """

    subset: str
    id: str
    credit_a: float
    credit_b: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Model a against model b: a line per domain, and overall if no domain is missing (else `reason` says which are).

    Without an overall score, `mean` is the line of RewardBench 2's domains that there are, under their label (see `domains.mean_of`).
    `refusals` say why Ties has no line, or a subset in which one of the models has no row with finite scores; `remarks` count and
    name the rows with a NaN or infinite score. `flips` are sorted by difference in credit, largest first. Rows that only one model
    has are counted in `num_only_a` and `num_only_b` and ignored otherwise.

    >>> rows = [ScoredRow(id=str(number), subset="Math", num_correct=1, scores=(1.0, 0.0)) for number in range(6)]
    >>> compare(rows, rows).lines[0].verdict.value
    'within noise'
    """

    lines: tuple[Line, ...]
    overall: Line | None
    mean: Line | None
    reason: str
    refusals: tuple[str, ...]
    flips: tuple[Flip, ...]
    num_shared: int
    num_only_a: int
    num_only_b: int
    remarks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """The two models' scores of one row."""

    a: ScoredRow
    b: ScoredRow


@dataclass(frozen=True, kw_only=True, slots=True)
class _Joined:
    """The shared rows by official subset name, in the order of a's, and how many rows are not shared."""

    by_subset: Mapping[str, Sequence[_Pair]]
    num_only_a: int
    num_only_b: int
    canonical: Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A score as a sum over units: their weights and contributions to the scores of a and b by stratum, main stratum first."""

    name: str
    flips: Sequence[Flip]
    num_rows: int
    strata_a: Sequence[NDArray[np.float64]]
    strata_b: Sequence[NDArray[np.float64]]
    unit_weights: Sequence[NDArray[np.float64]]


def compare(a: Sequence[ScoredRow], b: Sequence[ScoredRow], *, num_resamples: int = 10_000, seed: int = 0) -> Comparison:
    """RewardBench 2: model a against model b, matching rows by subset and id.

    Lines follow the order of the domains, then any other subset; overall is the mean of the six domains and resamples them jointly,
    each at its own size, as the mean of fewer does. Raises `ValueError` if no rows are shared, if a model has a row twice, if the two
    rows of one id differ in their completions, and if `num_resamples` is below 1.
    """
    joined = _join(a, b, v2.canonical)
    refused = _without_finite_row(joined)
    if problems := _ties_refusals(joined.by_subset.get(TIES, ())):
        refused[TIES] = problems
    found = {subset: pairs for subset, pairs in joined.by_subset.items() if subset not in refused}
    names = [*(name for name in DOMAINS.values() if name in found), *(name for name in found if name not in DOMAINS.values())]
    credit = v2.row_credit
    parts = [_ties_part(found[name]) if name == TIES else _mean_part(name, {name: 1.0}, found, credit, credit) for name in names]
    there = [key for key, name in DOMAINS.items() if name in found]
    missing = [name for name in DOMAINS.values() if name not in found]
    return _comparison(
        joined,
        parts,
        dict.fromkeys(DOMAINS.values(), 1.0),
        mean=mean_label(there) if missing and len(there) > 1 else "",
        reason=f"Overall is the mean of all six domains, but {', '.join(missing)} cannot be compared." if missing else "",
        refusals=[problem for problems in refused.values() for problem in problems],
        remarks=_remarks(joined),
        num_resamples=num_resamples,
        seed=seed,
    )


def compare1(
    a: Sequence[ScoredRow],
    b: Sequence[ScoredRow],
    *,
    generative_a: bool = False,
    generative_b: bool = False,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """RewardBench 1: model a against model b, pair by pair; a line per section, for the prior sets, and for any other subset.

    A section is weighted over its shared subsets as in `v1.section_score`, and each subset is resampled at its
    own size. `generative_*` as in `v1.pair_credit`. Raises like `compare`.
    """
    joined = _join(a, b, v1.canonical)
    groups: dict[str, Mapping[str, float]] = {**v1.COUNTS, PRIOR_SETS: dict.fromkeys(v1.PRIOR_SETS, 1.0)}
    known = {subset for group in groups.values() for subset in group}
    judged = {"A": generative_a, "B": generative_b}  # a judge's NaN is a verdict
    refused = _without_finite_row(joined, judged)
    groups |= {subset: {subset: 1.0} for subset in joined.by_subset if subset not in known}

    def credit_a(row: ScoredRow) -> float:
        return v1.pair_credit(row, generative=generative_a)

    def credit_b(row: ScoredRow) -> float:
        return v1.pair_credit(row, generative=generative_b)

    parts = [
        _mean_part(name, group, joined.by_subset, credit_a, credit_b)
        for name, group in groups.items()
        if any(subset in joined.by_subset for subset in group) and not any(subset in refused for subset in group)
    ]
    names = [part.name for part in parts]
    missing = [section for section in v1.COUNTS if section not in names]
    weights = dict.fromkeys(v1.COUNTS, v1.SECTION_WEIGHT)
    return _comparison(
        joined,
        parts,
        {**weights, PRIOR_SETS: v1.PRIOR_WEIGHT} if PRIOR_SETS in names else weights,
        reason=f"Overall needs all four sections, but {', '.join(missing)} cannot be compared." if missing else "",
        refusals=[problem for problems in refused.values() for problem in problems],
        remarks=_remarks(joined, judged),
        num_resamples=num_resamples,
        seed=seed,
    )


def _join(a: Sequence[ScoredRow], b: Sequence[ScoredRow], canonical: Callable[[str], str]) -> _Joined:
    keyed_a, keyed_b = _keyed("A", a, canonical), _keyed("B", b, canonical)
    by_subset: dict[str, list[_Pair]] = {}
    for (subset, id_), row in keyed_a.items():
        other = keyed_b.get((subset, id_))
        if other is None:
            continue
        if (row.num_correct, len(row.scores)) != (other.num_correct, len(other.scores)):
            raise ValueError(
                f"Row {id_!r} of {subset} has {len(row.scores)} scores in A, {row.num_correct} of them correct, and {len(other.scores)} "
                f"in B, {other.num_correct} correct, so they are not the same row; score both models on one file."
            )
        by_subset.setdefault(subset, []).append(_Pair(a=row, b=other))
    num_shared = sum(len(pairs) for pairs in by_subset.values())
    if not num_shared:
        raise ValueError(f"A ({len(a)} rows) and B ({len(b)} rows) share no row with the same subset and id; score both on one benchmark.")
    return _Joined(by_subset=by_subset, num_only_a=len(a) - num_shared, num_only_b=len(b) - num_shared, canonical=canonical)


def _keyed(name: str, rows: Sequence[ScoredRow], canonical: Callable[[str], str]) -> dict[tuple[str, str], ScoredRow]:
    keys = [(canonical(row.subset), row.id) for row in rows]
    for (subset, id_), uses in Counter(keys).items():
        if uses > 1:
            raise ValueError(f"{name} has row {id_!r} of {subset} {uses} times, so it cannot be paired; give every row a unique id.")
    return dict(zip(keys, rows, strict=True))


def _sides(joined: _Joined, judged: Mapping[str, bool]) -> dict[str, list[ScoredRow]]:
    """The shared rows of each model whose NaN is no verdict."""
    pairs = [pair for pairs in joined.by_subset.values() for pair in pairs]
    sides = {"A": [pair.a for pair in pairs], "B": [pair.b for pair in pairs]}
    return {name: rows for name, rows in sides.items() if not judged.get(name, False)}


def _without_finite_row(joined: _Joined, judged: Mapping[str, bool] = {}) -> dict[str, tuple[str, ...]]:
    refused: dict[str, tuple[str, ...]] = {}
    for name, rows in _sides(joined, judged).items():
        for subset, why in without_finite_row(rows, joined.canonical).items():
            refused[subset] = (*refused.get(subset, ()), f"{name}: {why}")
    return refused


def _remarks(joined: _Joined, judged: Mapping[str, bool] = {}) -> tuple[str, ...]:
    found = {name: remark(rows_not_finite(rows, joined.canonical), len(rows)) for name, rows in _sides(joined, judged).items()}
    return tuple(f"{name}: {line}" for name, line in found.items() if line)


def _ties_refusals(pairs: Sequence[_Pair]) -> tuple[str, ...]:
    sides = {"A": [pair.a for pair in pairs], "B": [pair.b for pair in pairs]} if pairs else {}
    return tuple(f"{name}: {problem}" for name, rows in sides.items() for problem in v2.ties_problems(rows))


def _mean_part(
    name: str,
    weights: Mapping[str, float],
    by_subset: Mapping[str, Sequence[_Pair]],
    credit_a: Callable[[ScoredRow], float],
    credit_b: Callable[[ScoredRow], float],
) -> _Part:
    """The mean of the subsets' mean credits, weighted by `weights` over the subsets that are present."""
    found = {subset: by_subset[subset] for subset in weights if subset in by_subset}
    total = sum(weights[subset] for subset in found)
    credits = {subset: np.array([[credit_a(pair.a), credit_b(pair.b)] for pair in pairs]) for subset, pairs in found.items()}
    # The largest subset is the main stratum, so a tiny subset does not decide whether there is an interval.
    shares = {subset: weights[subset] / total for subset in sorted(found, key=lambda subset: len(found[subset]), reverse=True)}
    strata = [share * credits[subset] / len(credits[subset]) for subset, share in shares.items()]
    flips = [flip for subset, pairs in found.items() for flip in _flips(subset, pairs, credits[subset])]
    num_rows = sum(len(pairs) for pairs in found.values())
    return _Part(
        name=name,
        flips=flips,
        num_rows=num_rows,
        strata_a=[s[:, 0] for s in strata],
        strata_b=[s[:, 1] for s in strata],
        unit_weights=[np.full(len(found[subset]), share / len(found[subset])) for subset, share in shares.items()],
    )


def _ties_part(pairs: Sequence[_Pair]) -> _Part:
    accurate = np.array([[v2.is_accurate(pair.a), v2.is_accurate(pair.b)] for pair in pairs], dtype=np.float64)
    strata_a = v2.ties_contributions([pair.a for pair in pairs])
    num_units = sum(map(len, strata_a))
    return _Part(
        name=TIES,
        flips=_flips(TIES, pairs, accurate),
        num_rows=len(pairs),
        strata_a=strata_a,
        strata_b=v2.ties_contributions([pair.b for pair in pairs]),
        unit_weights=[np.full(len(stratum), 1 / num_units) for stratum in strata_a],
    )


def _flips(subset: str, pairs: Sequence[_Pair], credits_N2: NDArray[np.float64]) -> list[Flip]:
    rows = zip(pairs, credits_N2.tolist(), strict=True)
    return [Flip(subset=subset, id=pair.a.id, credit_a=a, credit_b=b) for pair, (a, b) in rows if a != b]


def _comparison(
    joined: _Joined,
    parts: Sequence[_Part],
    weights: Mapping[str, float],
    *,
    reason: str,
    refusals: Sequence[str],
    remarks: Sequence[str],
    num_resamples: int,
    seed: int,
    mean: str = "",
) -> Comparison:
    """The lines of `parts`, and of their mean by `weights`: overall, or where there is a `reason` against it under the label `mean`."""
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; it must be at least 1, 10000 is usual.")
    rng = np.random.default_rng(seed)
    # One stream for all parts, or two of equal size would draw the same resamples.
    draws = [_draws(part, num_resamples, rng) for part in parts]
    flips_rng = np.random.default_rng(seed)
    lines = tuple(
        _line(part.name, [part], [1.0], [draw], num_resamples=num_resamples, rng=flips_rng) for part, draw in zip(parts, draws, strict=True)
    )
    chosen = [(part, weights[part.name], draw) for part, draw in zip(parts, draws, strict=True) if part.name in weights]
    flips = sorted((flip for part in parts for flip in part.flips), key=lambda flip: -abs(flip.credit_a - flip.credit_b))
    return Comparison(
        lines=lines,
        overall=None if reason else _line("Overall", *zip(*chosen, strict=True), num_resamples=num_resamples, rng=flips_rng),
        mean=_line(mean, *zip(*chosen, strict=True), num_resamples=num_resamples, rng=flips_rng) if mean else None,
        reason=reason,
        refusals=tuple(refusals),
        flips=tuple(flips),
        num_shared=sum(len(pairs) for pairs in joined.by_subset.values()),
        num_only_a=joined.num_only_a,
        num_only_b=joined.num_only_b,
        remarks=tuple(remarks),
    )


def _draws(part: _Part, num_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Resampled differences a - b of the score; none where a single unit has nothing to be resampled with."""
    differences = [a - b for a, b in zip(part.strata_a, part.strata_b, strict=True)]
    return resampled_sums(differences, num_resamples, rng) if len(differences[0]) > 1 else np.zeros(0)


def _line(
    name: str,
    parts: Sequence[_Part],
    weights: Sequence[float],
    draws: Sequence[NDArray[np.float64]],
    *,
    num_resamples: int,
    rng: np.random.Generator,
) -> Line:
    """The line of the weighted mean of `parts`."""
    share = np.array(weights) / sum(weights)
    score_a = float(sum(w * sum(map(np.sum, part.strata_a)) for w, part in zip(share, parts, strict=True)))
    score_b = float(sum(w * sum(map(np.sum, part.strata_b)) for w, part in zip(share, parts, strict=True)))
    estimate, p_value = _estimate(parts, share, draws, num_resamples, rng)
    flips = [flip for part in parts for flip in part.flips]
    return Line(
        name=name,
        num_rows=sum(part.num_rows for part in parts),
        score_a=score_a,
        score_b=score_b,
        difference=score_a - score_b,
        ci95=estimate.ci95 if estimate else None,
        p_value=p_value,
        verdict=Verdict.cannot_tell if estimate is None else Verdict.more_than_noise if estimate.excludes_zero else Verdict.within_noise,
        num_won=sum(flip.credit_a > flip.credit_b for flip in flips),
        num_lost=sum(flip.credit_a < flip.credit_b for flip in flips),
    )


def _estimate(
    parts: Sequence[_Part], share: NDArray[np.float64], draws: Sequence[NDArray[np.float64]], num_resamples: int, rng: np.random.Generator
) -> tuple[DifferenceEstimate | None, float | None]:
    """The interval and the p-value of the weighted difference, as far as there are any: by bootstrap if every stratum is large enough."""
    if any(sum(map(len, part.strata_a)) == 1 for part in parts):
        return None, None
    strata = [
        weight * (a - b) for weight, part in zip(share, parts, strict=True) for a, b in zip(part.strata_a, part.strata_b, strict=True)
    ]
    unit_weights = [weight * units for weight, part in zip(share, parts, strict=True) for units in part.unit_weights]
    if min(map(len, strata)) < EXACT_BELOW:
        estimate, p_value = sign_flip_estimate(np.concatenate(strata), np.concatenate(unit_weights), num_resamples=num_resamples, rng=rng)
    else:
        estimate = difference_estimate(share @ np.array(draws))
        p_value = estimate.p_value
    alike = no_difference_estimate(strata, [float(units.sum()) for units in unit_weights]) if estimate else None
    return alike or estimate, p_value
