"""Sums of rewards, with numbers that can be checked by hand."""

import math
from collections.abc import Sequence

import pytest

from core.records import Dialogue, user
from core.scorers.weighted import MIN_STD, Term, WeightedScorer
from tests.fakes import LengthScorer

PROMPTS = [user("Name a fruit."), user("And a tool.")]
COMPLETIONS = [["plum", "a lamp"], ["saw"]]


class VowelScorer:
    """Scores a completion by its number of vowels."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(sum(letter in "aeiou" for letter in text)) for text in answers] for answers in completions]


def two_terms(*, standardize: bool = False) -> WeightedScorer:
    length = Term(name="length", scorer=LengthScorer(), coefficient=2.0, standardize=standardize)
    return WeightedScorer([length, Term(name="vowels", scorer=VowelScorer(), coefficient=-0.5)])


def test_the_parts_are_the_raw_scores_and_the_score_is_their_weighted_sum() -> None:
    scorer = two_terms()
    parts = scorer.parts(PROMPTS, COMPLETIONS)
    assert parts == {"length": [[4.0, 6.0], [3.0]], "vowels": [[1.0, 2.0], [1.0]]}
    # 2 * 4 - 0.5 * 1, 2 * 6 - 0.5 * 2, 2 * 3 - 0.5 * 1
    assert scorer.combined(parts) == [[7.5, 11.0], [5.5]]
    assert scorer.score(PROMPTS, COMPLETIONS) == [[7.5, 11.0], [5.5]]


def test_a_standardised_term_counts_in_standard_deviations_of_the_answers_it_was_fitted_on() -> None:
    scorer = two_terms(standardize=True)
    scorer.fit({"length": [[1.0, 5.0], [3.0]], "vowels": [[9.0, 9.0], [9.0]]})
    # Mean 3, variance (4 + 4 + 0) / 3; the other term stays as it is and has no moments.
    std = math.sqrt(8 / 3)
    assert scorer.moments == {"length": (3.0, pytest.approx(std))}
    # 2 * (4 - 3) / std - 0.5 * 1, 2 * (6 - 3) / std - 0.5 * 2, 2 * 0 - 0.5 * 1
    assert scorer.score(PROMPTS, COMPLETIONS) == [[pytest.approx(2 / std - 0.5), pytest.approx(6 / std - 1)], [-0.5]]


def test_moments_are_set_once_and_a_resumed_run_sets_the_ones_it_had() -> None:
    first, resumed = two_terms(standardize=True), two_terms(standardize=True)
    first.fit(first.parts(PROMPTS, COMPLETIONS))
    resumed.moments = {name: list(moments) for name, moments in first.moments.items()}  # as JSON brings them back
    assert resumed.moments == first.moments
    assert resumed.score(PROMPTS, COMPLETIONS) == first.score(PROMPTS, COMPLETIONS)
    with pytest.raises(AssertionError, match="set once"):
        resumed.fit(first.parts(PROMPTS, COMPLETIONS))


def test_a_standardised_term_must_be_fitted_before_it_counts() -> None:
    scorer = two_terms(standardize=True)
    assert scorer.unfitted == ["length"]
    with pytest.raises(AssertionError, match=r"\['length'\] are standardised"):
        scorer.score(PROMPTS, COMPLETIONS)
    assert two_terms().unfitted == []


def test_equal_scores_have_a_standard_deviation_that_can_be_divided_by() -> None:
    scorer = two_terms(standardize=True)
    scorer.fit({"length": [[2.0, 2.0]], "vowels": [[0.0, 0.0]]})
    assert scorer.moments == {"length": (2.0, MIN_STD)}
    assert scorer.score(PROMPTS[:1], [["ab"]]) == [[-0.5]]


def test_a_score_that_is_not_finite_gives_no_moments_and_no_finite_sum() -> None:
    with pytest.raises(ValueError, match="the reward length gave a non-finite score"):
        two_terms(standardize=True).fit({"length": [[1.0, math.nan]], "vowels": [[0.0, 0.0]]})
    [[total]] = two_terms().combined({"length": [[math.nan]], "vowels": [[1.0]]})
    assert math.isnan(total)


def test_a_lone_scorer_scores_as_it_does_and_a_sum_stays_itself() -> None:
    alone = WeightedScorer.of(LengthScorer())
    assert alone.parts(PROMPTS, COMPLETIONS) == {"reward": [[4.0, 6.0], [3.0]]}
    assert alone.score(PROMPTS, COMPLETIONS) == LengthScorer().score(PROMPTS, COMPLETIONS)
    assert WeightedScorer.of(alone) is alone


def test_the_sum_without_a_term_has_the_moments_of_the_whole_as_soon_as_they_are_set() -> None:
    whole = two_terms(standardize=True)
    length = whole.without(["vowels"])
    assert length is not None
    whole.fit({"length": [[1.0, 5.0]], "vowels": [[0.0, 0.0]]})
    # Mean 3, standard deviation 2: 2 * (4 - 3) / 2
    assert length.score(PROMPTS[:1], [["plum"]]) == [[1.0]]
    whole.moments = {"length": (4.0, 1.0)}
    assert length.score(PROMPTS[:1], [["plum"]]) == [[0.0]]
    assert whole.without(["vowels", "length"]) is None


def test_terms_need_names_of_their_own_and_there_must_be_one() -> None:
    term = Term(name="length", scorer=LengthScorer())
    with pytest.raises(ValueError, match="length, length of a weighted sum must have different names"):
        WeightedScorer([term, term])
    with pytest.raises(ValueError, match="at least one term"):
        WeightedScorer([])
