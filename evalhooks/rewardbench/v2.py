"""RewardBench 2 from the scores of a reward model: formulas only, no model and no files.

Source: RewardBench 2 (Malik et al., 2025), section 3 "Scoring", and for ratings appendix G. The paper describes the Ties
score in words; its weights are those of the reference implementation. Where that implementation crashes or returns NaN
(NaN scores, a `tied` prompt with one correct answer, no incorrect answer, no pair), the Ties domain is refused, naming
the rows, and the other domains are kept. So is any other domain in which no row has finite scores. All scores lie on the scale
0..1 (Ties: -0.01..1.01).
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from core.records import ScoredRow
from core.shares import unanimous_error
from evalhooks.analysis.differences import EXACT_BELOW, resampled_sums
from evalhooks.rewardbench.domains import DOMAINS, label_of, mean_of
from evalhooks.rewardbench.finite import rows_not_finite, without_finite_row

TIES = DOMAINS["ties"]
TIES_WEIGHTS = (0.30, 0.30, 0.20, 0.20, 0.01)
"""Weights of accuracy_tied, accuracy_ref, preferred, preferred_hard and margin. They sum to 1.01: margin breaks ties."""

_SUBSET_NAMES = {name.casefold(): name for name in DOMAINS.values()}
_TIES_ID = re.compile(r"([^:]*):(-?\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TiesScore:
    """The Ties score and its components.

    `accuracy_tied` and `accuracy_ref` are the fractions of prompts on which every correct answer outscores every incorrect one.
    Over the `num_pairs` numbers that have both prompts, `preferred` (P) is the fraction on which the tied prompt's margin
    exceeds the spread of its correct answers, `preferred_hard` (H) the same with the smaller of both prompts' margins, and
    `margin` (M) the mean of tanh(smaller margin / spread - 1), in [-1, 1].

    >>> TiesScore(score=1.01, accuracy_tied=1.0, accuracy_ref=1.0, preferred=1.0, preferred_hard=1.0, margin=1.0, num_pairs=51).num_pairs
    51
    """

    score: float
    accuracy_tied: float
    accuracy_ref: float
    preferred: float
    preferred_hard: float
    margin: float
    num_pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkScores:
    """A model's RewardBench 2 result.

    `per_subset` holds the domains first, under their canonical names, then any other subset under its own name; subsets
    that could not be scored are absent. `overall` is the mean of the six domains; if it is None, `reason` says which are
    missing and why. `row_results` are the credits in the order of the rows, None for Ties, which is scored as a whole.
    `refusals` say which subsets were refused and why, naming the rows; `ties` is None if Ties is absent or refused. `not_finite`
    holds the ids of the rows with a NaN or infinite score, by subset.

    >>> result = scores([ScoredRow(id="7", subset="math", num_correct=1, scores=(2.0, 2.0, -1.0, 0.1))])
    >>> result.per_subset, result.overall, result.row_results
    ({'Math': 0.5}, None, (0.5,))
    """

    per_subset: Mapping[str, float]
    overall: float | None
    reason: str
    row_results: tuple[float | None, ...]
    refusals: tuple[str, ...]
    ties: TiesScore | None
    not_finite: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _TiesPrompt:
    """One Ties prompt: whether its margin is positive; worst correct - best incorrect; best correct - worst correct."""

    accurate: bool
    margin: float
    spread: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _TiesTable:
    """All Ties prompts by number; the numbers of the pairs, ascending; and per pair the values that P, H and M average."""

    tied: Mapping[int, _TiesPrompt]
    ref: Mapping[int, _TiesPrompt]
    numbers: Sequence[int]
    preferred: NDArray[np.float64]
    preferred_hard: NDArray[np.float64]
    margin: NDArray[np.float64]


def row_problem(subset: str, *, num_correct: int, num_completions: int) -> str | None:
    """Why a best-of-n row cannot tell a good reward model from a bad one; None if it can. Ties has rules of its own: `ties_problems`."""
    if canonical(subset) == TIES:
        return None
    if num_correct < 1:
        return f"it has no correct completion (num_correct is {num_correct}); mark the correct one, which comes first"
    if num_correct >= num_completions:
        return f"it has no incorrect completion ({num_completions} in all, {num_correct} correct), so every reward would be right; add one"
    return None


def row_credit(row: ScoredRow) -> float:
    """Credit of a best-of-n row: 1/k if completion 0 is among the k completions with the highest score, else 0.

    Only completion 0 counts as correct, whatever `num_correct` says, and any NaN gives 0. A judge's unparsable rating (-1)
    needs no special case: it loses to every rating, and if all n are unparsable they tie for the credit of chance, 1/n.
    Raises `ValueError` for a row without scores, and as `row_problem`. Source: section 3 and, for partial credit, appendix G.
    """
    if not row.scores:
        raise ValueError(f"Row {row.id!r} of {row.subset} has no scores; give one per completion.")
    if problem := row_problem(row.subset, num_correct=row.num_correct, num_completions=len(row.scores)):
        raise ValueError(f"Row {row.id!r} of {row.subset} cannot be scored: {problem}.")
    best = max(row.scores)
    # max() skips a NaN that does not come first, so NaN needs its own check.
    if any(math.isnan(score) for score in row.scores) or row.scores[0] != best:
        return 0.0
    return 1.0 / row.scores.count(best)


def scores(rows: Sequence[ScoredRow]) -> BenchmarkScores:
    """Scores of every subset among `rows`, in any order, and overall.

    Domain names are matched case-insensitively. Any other subset is scored as best-of-n and left out of overall.
    Raises `ValueError` only for a best-of-n row that `row_credit` refuses; problems with Ties are reported in `refusals`, as are
    subsets in which no row has finite scores.
    """
    subsets = [canonical(row.subset) for row in rows]
    row_results = tuple(None if subset == TIES else row_credit(row) for row, subset in zip(rows, subsets, strict=True))
    ties_rows = [row for row, subset in zip(rows, subsets, strict=True) if subset == TIES]
    refused: dict[str, tuple[str, ...]] = {subset: (why,) for subset, why in without_finite_row(rows, canonical).items() if subset != TIES}
    if problems := ties_problems(ties_rows) if ties_rows else ():
        refused[TIES] = problems
    ties = ties_score(ties_rows) if ties_rows and TIES not in refused else None

    means = {subset: fmean(credits) for subset, credits in _credits(rows).items()}
    if ties is not None:
        means[TIES] = ties.score
    in_order = [name for name in DOMAINS.values() if name in means] + [name for name in means if name not in DOMAINS.values()]
    per_subset = {name: means[name] for name in in_order}
    overall = overall_score(per_subset)
    return BenchmarkScores(
        per_subset=per_subset,
        overall=overall,
        reason="" if overall is not None else _why_no_overall(per_subset, refused),
        row_results=row_results,
        refusals=tuple(problem for problems in refused.values() for problem in problems),
        ties=ties,
        not_finite=rows_not_finite(rows, canonical),
    )


def overall_score(per_subset: Mapping[str, float]) -> float | None:
    """The unweighted mean of the six domains (section 3), by canonical name; None if one is missing.

    The mean of fewer domains would look like an overall score but be comparable with nothing, so there is none.
    """
    if any(name not in per_subset for name in DOMAINS.values()):
        return None
    return fmean(per_subset[name] for name in DOMAINS.values())


def metrics(result: BenchmarkScores, errors: Mapping[str, float] | None = None) -> dict[str, float]:
    """`rewardbench2/overall` and `rewardbench2/<domain key>` on the scale 0..1; missing scores are left out.

    Without an overall score the mean of the domains that there are is added under a key of its own, see `domains.mean_of`. `errors`, as
    from `standard_errors`, are added as `rewardbench2_se/...` under the same keys.
    """
    scores = {"overall": result.overall, **{key: result.per_subset.get(name) for key, name in DOMAINS.items()}}
    if mean := mean_of(result.per_subset):
        scores[mean[0]] = mean[1]
    found = {f"rewardbench2/{key}": score for key, score in scores.items() if score is not None}
    known = {key: (errors or {}).get(label_of(key)) for key in scores}
    return found | {f"rewardbench2_se/{key}": error for key, error in known.items() if error is not None}


def ties_problems(rows: Sequence[ScoredRow]) -> tuple[str, ...]:
    """Why these Ties rows cannot be scored: one message per cause, naming its rows; empty if they can be."""
    keys = [_ties_key(row) for row in rows]
    uses = Counter(keys)
    paired = {key[1] for key in uses if key and key[0] == "tied"} & {key[1] for key in uses if key and key[0] == "ref"}
    keyed = list(zip(rows, keys, strict=True))
    # A single correct answer has no spread, but only pairs need one.
    one_correct = [row for row, key in keyed if key and key[0] == "tied" and key[1] in paired and row.num_correct == 1]
    causes = {
        "an id that is neither ref:N nor tied:N": [row for row, key in keyed if key is None],
        "a number that another row of the same kind has too": [row for row, key in keyed if key and uses[key] > 1],
        "a NaN score (look for overflow, then score them again)": [row for row in rows if any(math.isnan(score) for score in row.scores)],
        "no correct completion": [row for row in rows if row.num_correct < 1 or not row.scores],
        "no incorrect completion": [row for row in rows if row.scores and row.num_correct >= len(row.scores)],
        "one correct completion where a tied prompt needs several": one_correct,
        "no partner (Ties needs a ref:N and a tied:N of the same N)": [] if paired else rows,
    }
    return tuple(f"Ties rows with {cause}: {', '.join(row.id for row in wrong)}." for cause, wrong in causes.items() if wrong)


def ties_score(rows: Sequence[ScoredRow]) -> TiesScore:
    """The Ties score of `rows`: ids `ref:N` (one correct answer) and `tied:N` (several; any prefix that is not `ref`).

    score = 0.30 accuracy_tied + 0.30 accuracy_ref + 0.20 P + 0.20 H + 0.01 M, all comparisons strict. Prompts without a
    partner count for the accuracies only. Infinite scores follow IEEE arithmetic: an undefined difference satisfies no
    comparison and adds 0 to M. Raises `ValueError` with `ties_problems(rows)` if the score is undefined.
    """
    if problems := ties_problems(rows):
        raise ValueError(" ".join(problems))
    table = _ties_table(rows)
    parts = (
        fmean(prompt.accurate for prompt in table.tied.values()),
        fmean(prompt.accurate for prompt in table.ref.values()),
        fmean(table.preferred.tolist()),
        fmean(table.preferred_hard.tolist()),
        fmean(table.margin.tolist()),
    )
    return TiesScore(
        score=math.fsum(weight * part for weight, part in zip(TIES_WEIGHTS, parts, strict=True)),
        accuracy_tied=parts[0],
        accuracy_ref=parts[1],
        preferred=parts[2],
        preferred_hard=parts[3],
        margin=parts[4],
        num_pairs=len(table.numbers),
    )


def is_accurate(row: ScoredRow) -> bool:
    """Whether every correct answer of a Ties prompt outscores every incorrect one; it must have both, and no NaN."""
    return _ties_prompt(row).accurate


def standard_errors(rows: Sequence[ScoredRow], *, num_resamples: int = 1000, seed: int = 0) -> Mapping[str, float]:
    """Bootstrap standard error of every score of `scores(rows)`, by subset name, and `overall` if there is one.

    Without one, that of the mean of the domains that there are, by its label, see `domains.mean_of`.

    The rows of a subset are drawn with replacement; for Ties the pairs are, and unpaired prompts within their own kind.
    This measures the noise from the choice of prompts; training noise, between seeds of one recipe, comes on top. With fewer than
    20 the factor sqrt(n / (n - 1)) makes up for what a bootstrap lacks. Rows that are all right, or all wrong, do not differ, and yet the
    next one may: their error is that of Wilson's interval. A single row of another credit (or Ties with one such pair) has no standard
    error, and then overall has none either.
    Raises `ValueError` for `num_resamples` below 2.
    """
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}; a standard error needs at least 2; 1000 is usual.")
    rng = np.random.default_rng(seed)
    strata = {subset: [np.array(credits) / len(credits)] for subset, credits in _credits(rows).items()}
    ties_rows = [row for row in rows if canonical(row.subset) == TIES]
    if ties_rows and not ties_problems(ties_rows):
        strata[TIES] = ties_contributions(ties_rows)
    draws = {
        subset: np.sum([_widened(resampled_sums([part], num_resamples, rng), len(part)) for part in parts], axis=0)
        for subset, parts in strata.items()
        if len(parts[0]) > 1
    }
    unseen = {subset: _unanimous_error(rows, subset, len(parts[0])) for subset, parts in strata.items()}
    draws |= {subset: np.zeros(num_resamples) for subset in strata.keys() - draws.keys() if unseen[subset]}
    errors = {subset: math.hypot(float(np.std(draws[subset], ddof=1)), unseen[subset]) for subset in strata if subset in draws}
    there = [name for name in DOMAINS.values() if name in strata]
    if there and all(name in draws for name in there):
        mean = mean_of(dict.fromkeys(there, 0.0))
        seen = float(np.std(np.mean([draws[name] for name in there], axis=0), ddof=1))
        errors[label_of(mean[0]) if mean else "overall"] = math.hypot(seen, *(unseen[name] / len(there) for name in there))
    return errors


def _unanimous_error(rows: Sequence[ScoredRow], subset: str, num_units: int) -> float:
    """What a bootstrap cannot see: the error of shares that are all 0 or 1; else 0."""
    own = [row for row in rows if canonical(row.subset) == subset]
    if subset == TIES:
        found = ties_score(own)
        shares = {found.accuracy_tied, found.accuracy_ref, found.preferred, found.preferred_hard}
        return unanimous_error(num_units) if shares <= {0.0, 1.0} else 0.0
    return unanimous_error(num_units) if {row_credit(row) for row in own} in ({0.0}, {1.0}) else 0.0


def _widened(draws_R: NDArray[np.float64], num_units: int) -> NDArray[np.float64]:
    """Resampled sums over a few units, spread as widely as those of new ones: a bootstrap's variance is (n - 1) / n of theirs."""
    if num_units >= EXACT_BELOW or num_units == 1:  # from 20 on it is 2.5% at most, and recorded errors stay equal to the last digit
        return draws_R
    return draws_R.mean() + (draws_R - draws_R.mean()) * math.sqrt(num_units / (num_units - 1))


def canonical(subset: str) -> str:
    """The domain's official name; the name of any other subset is returned as it is."""
    return _SUBSET_NAMES.get(subset.casefold(), subset)


def _credits(rows: Sequence[ScoredRow]) -> dict[str, list[float]]:
    """The credits of the best-of-n rows by subset, without the subsets in which no row has finite scores."""
    refused = without_finite_row(rows, canonical)
    credits: dict[str, list[float]] = {}
    for row in rows:
        if (subset := canonical(row.subset)) != TIES and subset not in refused:
            credits.setdefault(subset, []).append(row_credit(row))
    return credits


def _why_no_overall(per_subset: Mapping[str, float], refused: Mapping[str, Sequence[str]]) -> str:
    missing = [name for name in DOMAINS.values() if name not in per_subset]
    causes = [f"{name} was refused ({' '.join(refused[name])})" if name in refused else f"{name} has no rows" for name in missing]
    return f"Overall is the mean of all six domains, but {'; '.join(causes)}."


def _ties_key(row: ScoredRow) -> tuple[str, int] | None:
    """("ref" or "tied", N), or None for an id of another form."""
    match = _TIES_ID.fullmatch(row.id)
    return ("ref" if match[1] == "ref" else "tied", int(match[2])) if match else None


def _ties_prompt(row: ScoredRow) -> _TiesPrompt:
    # Python floats: numpy scalars of a narrower type would round the differences, and warn at inf - inf.
    values = [float(score) for score in row.scores]
    correct, incorrect = values[: row.num_correct], values[row.num_correct :]
    margin = min(correct) - max(incorrect)
    return _TiesPrompt(accurate=margin > 0, margin=margin, spread=max(correct) - min(correct))


def _ties_table(rows: Sequence[ScoredRow]) -> _TiesTable:
    prompts = {_ties_key(row): _ties_prompt(row) for row in rows}
    tied = {key[1]: prompt for key, prompt in prompts.items() if key and key[0] == "tied"}
    ref = {key[1]: prompt for key, prompt in prompts.items() if key and key[0] == "ref"}
    numbers = sorted(tied.keys() & ref.keys())
    spread_P = np.array([tied[number].spread for number in numbers])
    margin_tied_P = np.array([tied[number].margin for number in numbers])
    margin_ref_P = np.array([ref[number].margin for number in numbers])
    smaller_P = np.minimum(margin_ref_P, margin_tied_P)  # unlike min(), propagates the NaN of inf - inf
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        terms_P = np.tanh(smaller_P / spread_P - 1)  # a spread of 0 gives tanh(+-inf) = +-1, or NaN if the margin is 0 too
    return _TiesTable(
        tied=tied,
        ref=ref,
        numbers=numbers,
        preferred=(margin_tied_P > spread_P).astype(np.float64),
        preferred_hard=(smaller_P > spread_P).astype(np.float64),
        margin=np.where(np.isnan(terms_P), 0.0, terms_P),
    )


def ties_contributions(rows: Sequence[ScoredRow]) -> list[NDArray[np.float64]]:
    """Contributions to the Ties score of every pair, every unpaired tied and every unpaired ref prompt; they sum to the score.

    The score is linear in its prompts, so resampling these resamples the score. The strata keep their sizes, and so their
    denominators; pairs come first, and empty strata are left out. Each stratum is ordered by number, so two models'
    contributions on the same rows line up. The rows must be scorable (see `ties_problems`).
    """
    table = _ties_table(rows)
    weight_tied, weight_ref, weight_p, weight_h, weight_m = TIES_WEIGHTS
    tied = {number: weight_tied * prompt.accurate / len(table.tied) for number, prompt in table.tied.items()}
    ref = {number: weight_ref * prompt.accurate / len(table.ref) for number, prompt in table.ref.items()}
    margins_P = (weight_p * table.preferred + weight_h * table.preferred_hard + weight_m * table.margin) / len(table.numbers)
    pairs_P = margins_P + np.array([tied[number] + ref[number] for number in table.numbers])
    lone_tied = np.array([tied[number] for number in sorted(tied.keys() - ref.keys())])
    lone_ref = np.array([ref[number] for number in sorted(ref.keys() - tied.keys())])
    return [stratum for stratum in (pairs_P, lone_tied, lone_ref) if len(stratum)]
