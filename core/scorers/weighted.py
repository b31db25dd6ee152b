"""A weighted sum of scorers whose terms stay accessible."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.records import Dialogue, Scorer, num_truncated
from core.scorers.verifier import VerifierScorer

MIN_STD = 1e-6
"""Lower bound on the standard deviation, for a term whose scores are all equal."""

Parts = dict[str, list[list[float]]]
"""Each term's raw scores by its name: one list per prompt, one score per completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A scorer in a sum. A standardised one counts as (score - mean) / std, since reward models differ in offset and scale.

    >>> from core.scorers.verifier import VerifierScorer
    >>> Term(name="exact", scorer=VerifierScorer(lambda text, reference: 1.0, {}), coefficient=2.0).standardize
    False
    """

    name: str
    scorer: Scorer
    coefficient: float = 1.0
    standardize: bool = False


class WeightedScorer:
    """Scores with the sum of coefficient * score over its terms.

    `moments` holds the mean and standard deviation of each standardised term by name. They are set once, by `fit` or when a
    run is resumed, and then stay fixed: a completion's reward must not depend on its batch.

    Raises `ValueError` without terms, if two terms have the same name, and for a coefficient that is not finite.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not terms:
            raise ValueError("A weighted sum needs at least one term; name a reward.")
        if wrong := [term.name for term in terms if not math.isfinite(term.coefficient)]:
            raise ValueError(f"The coefficients of {', '.join(wrong)} are not finite; give numbers.")
        if len(set(names)) < len(names):
            raise ValueError(f"The terms {', '.join(names)} of a weighted sum must have different names; rename one.")
        self.terms = tuple(terms)
        self._moments: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, scorer: Scorer, name: str = "reward") -> "WeightedScorer":
        """A single scorer as a sum of one term with equal scores; a weighted sum is returned unchanged."""
        return scorer if isinstance(scorer, cls) else cls([Term(name=name, scorer=scorer)])

    def without(self, names: Collection[str]) -> "WeightedScorer | None":
        """The sum of the other terms, which shares this one's moments, even if they are set later; None if no term is left."""
        rest = [term for term in self.terms if term.name not in names]
        if not rest:
            return None
        other = WeightedScorer(rest)
        other._moments = self._moments
        return other

    @property
    def moments(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the standardised terms by name; empty before they are set."""
        return dict(self._moments)

    @moments.setter
    def moments(self, moments: Mapping[str, Sequence[float]]) -> None:
        self._moments.clear()  # in place, since sums from `without` share them
        self._moments.update({name: (mean, std) for name, (mean, std) in moments.items()})

    @property
    def num_truncated(self) -> int | None:
        """Texts that the terms cut so far, counted once for each term that did; None if no term could."""
        counts = [count for term in self.terms if (count := num_truncated(term.scorer)) is not None]
        return sum(counts) if counts else None

    @property
    def num_skipped(self) -> int | None:
        """Answers so far that verifiers among the terms could not judge; None without a verifier."""
        counts = [term.scorer.num_skipped for term in self.terms if isinstance(term.scorer, VerifierScorer)]
        return sum(counts) if counts else None

    @property
    def unfitted(self) -> list[str]:
        """The names of standardised terms whose moments are not set yet."""
        return [term.name for term in self.terms if term.standardize and term.name not in self._moments]

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of sums per prompt, one sum per completion, in the given order; terms score one after another."""
        return self.combined(self.parts(prompts, completions))

    def parts(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> Parts:
        """The raw scores of each term."""
        return {term.name: term.scorer.score(prompts, completions) for term in self.terms}

    def combined(self, parts: Mapping[str, Sequence[Sequence[float]]]) -> list[list[float]]:
        """The weighted sums of raw scores as returned by `parts`; a non-finite score makes its sum non-finite."""
        assert not self.unfitted, f"{self.unfitted} are standardised, but fit was not called"
        scaled = [[[self._counted(term, score) for score in row] for row in parts[term.name]] for term in self.terms]
        return [[sum(scores) for scores in zip(*rows, strict=True)] for rows in zip(*scaled, strict=True)]

    def fit(self, parts: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Sets the moments of the standardised terms: mean and population standard deviation of all their scores in `parts`.

        Standard deviations are at least `MIN_STD`. Raises `ValueError` for a term with a score that is not finite.
        """
        assert not self._moments, "the moments of a run are set once"
        found: dict[str, tuple[float, float]] = {}
        for term in (term for term in self.terms if term.standardize):
            scores = [score for row in parts[term.name] for score in row]
            if not all(math.isfinite(score) for score in scores):
                raise ValueError(
                    f"the reward {term.name} gave a non-finite score, so it cannot be standardised; score the prompts with it alone."
                )
            mean = fmean(scores)
            found[term.name] = (mean, max(math.sqrt(fmean((score - mean) ** 2 for score in scores)), MIN_STD))
        self.moments = found

    def _counted(self, term: Term, score: float) -> float:
        mean, std = self._moments[term.name] if term.standardize else (0.0, 1.0)
        return term.coefficient * (score - mean) / std
