"""Several scorers as one weighted sum, whose terms stay visible."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.records import Dialogue, Scorer

MIN_STD = 1e-6
"""A term whose scores are all equal is not divided by zero."""

Parts = dict[str, list[list[float]]]
"""The raw scores of each term by its name: one list per prompt, one score per completion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A scorer in a sum. A standardised one counts as (score - mean) / std: reward models differ in origin and scale.

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

    `moments` holds the mean and standard deviation of each standardised term by name. They are set once, by `fit` or by
    whoever restores a run, and then stay: what a completion earns must not depend on the batch that it came in.

    Raises `ValueError` without terms, and where two have one name.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        names = [term.name for term in terms]
        if not terms:
            raise ValueError("A weighted sum needs at least one term; name a reward.")
        if len(set(names)) < len(names):
            raise ValueError(f"The terms {', '.join(names)} of a weighted sum do not all differ in name; rename one.")
        self.terms = tuple(terms)
        self._moments: dict[str, tuple[float, float]] = {}

    @classmethod
    def of(cls, scorer: Scorer, name: str = "reward") -> "WeightedScorer":
        """A lone scorer as a sum of one term, which scores as it does; a sum as it is."""
        return scorer if isinstance(scorer, cls) else cls([Term(name=name, scorer=scorer)])

    def without(self, names: Collection[str]) -> "WeightedScorer | None":
        """The sum of the other terms, with the same moments, those that are set later too; None where no term is left."""
        rest = [term for term in self.terms if term.name not in names]
        if not rest:
            return None
        other = WeightedScorer(rest)
        other._moments = self._moments
        return other

    @property
    def moments(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the standardised terms by name; empty before they are known."""
        return dict(self._moments)

    @moments.setter
    def moments(self, moments: Mapping[str, Sequence[float]]) -> None:
        self._moments.clear()  # in place, for those who share them
        self._moments.update({name: (mean, std) for name, (mean, std) in moments.items()})

    @property
    def unfitted(self) -> list[str]:
        """The standardised terms whose moments are not known yet."""
        return [term.name for term in self.terms if term.standardize and term.name not in self._moments]

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """One list of sums per prompt, one sum per completion, in the order given; the terms score one after the other."""
        return self.combined(self.parts(prompts, completions))

    def parts(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> Parts:
        """The raw scores of each term."""
        return {term.name: term.scorer.score(prompts, completions) for term in self.terms}

    def combined(self, parts: Mapping[str, Sequence[Sequence[float]]]) -> list[list[float]]:
        """The weighted sums of raw scores as `parts` gives them; a score that is not finite makes its sum so too."""
        assert not self.unfitted, f"{self.unfitted} are standardised, and nobody called fit"
        scaled = [[[self._counted(term, score) for score in row] for row in parts[term.name]] for term in self.terms]
        return [[sum(scores) for scores in zip(*rows, strict=True)] for rows in zip(*scaled, strict=True)]

    def fit(self, parts: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Sets the moments of the standardised terms: mean and population standard deviation of all their scores in `parts`.

        A standard deviation below `MIN_STD` becomes that. Raises `ValueError` for a term with a score that is not finite.
        """
        assert not self._moments, "the moments of a run are set once"
        found: dict[str, tuple[float, float]] = {}
        for term in (term for term in self.terms if term.standardize):
            scores = [score for row in parts[term.name] for score in row]
            if not all(math.isfinite(score) for score in scores):
                raise ValueError(
                    f"the reward {term.name} gave a score that is not finite, so it has no mean and scale; score the prompts with it alone."
                )
            mean = fmean(scores)
            found[term.name] = (mean, max(math.sqrt(fmean((score - mean) ** 2 for score in scores)), MIN_STD))
        self.moments = found

    def _counted(self, term: Term, score: float) -> float:
        mean, std = self._moments[term.name] if term.standardize else (0.0, 1.0)
        return term.coefficient * (score - mean) / std
