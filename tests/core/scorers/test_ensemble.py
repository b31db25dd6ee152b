"""An ensemble scores with the mean, the minimum, or the mean less the variance of its members, one member at a time."""

import math
from collections.abc import Sequence

import pytest

from core.records import Dialogue, Scorer, user
from core.scorers.ensemble import Combine, EnsembleScorer
from tests.fakes import LengthScorer

PROMPTS = [user("Name a fruit."), user("And a tool.")]
COMPLETIONS = [["plum", "lamp"], ["saw"]]


class TableScorer:
    """Gives a text the score in its table, and notes that it was asked and that nobody else was being asked."""

    def __init__(self, log: list[str], name: str, table: dict[str, float]) -> None:
        self.log, self.name, self.table = log, name, table

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        self.log.append(f"{self.name} begins")
        scores = [[self.table[text] for text in answers] for answers in completions]
        self.log.append(f"{self.name} ends")
        return scores


def members(log: list[str] | None = None) -> list[Scorer]:
    log = [] if log is None else log
    return [
        TableScorer(log, "a", {"plum": 1.0, "lamp": -3.0, "saw": 0.0}),
        TableScorer(log, "b", {"plum": 2.0, "lamp": -3.0, "saw": 4.0}),
        TableScorer(log, "c", {"plum": 6.0, "lamp": -3.0, "saw": 5.0}),
    ]


@pytest.mark.parametrize(
    ("combine", "weight", "expected"),
    [
        # plum: 1, 2, 6; mean 3, deviations -2, -1, 3, so the population variance is (4 + 1 + 9) / 3 = 14/3
        # lamp: all -3. saw: 0, 4, 5; mean 3, deviations -3, 1, 2, so it is (9 + 1 + 4) / 3 = 14/3
        (Combine.mean, 1.0, [[3.0, -3.0], [3.0]]),
        (Combine.min, 1.0, [[1.0, -3.0], [0.0]]),
        (Combine.uncertainty, 1.0, [[3 - 14 / 3, -3.0], [3 - 14 / 3]]),
        (Combine.uncertainty, 0.5, [[3 - 7 / 3, -3.0], [3 - 7 / 3]]),
        (Combine.uncertainty, 0.0, [[3.0, -3.0], [3.0]]),
    ],
)
def test_the_members_scores_are_combined_per_completion(combine: Combine, weight: float, expected: list[list[float]]) -> None:
    scores = EnsembleScorer(members(), combine, weight).score(PROMPTS, COMPLETIONS)
    assert [len(row) for row in scores] == [2, 1]
    assert [score for row in scores for score in row] == pytest.approx([score for row in expected for score in row], abs=1e-12)


def test_fixed_scales_bring_the_members_to_one_measure_before_they_are_combined() -> None:
    scales = [(1.0, 2.0), (0.0, 1.0), (6.0, 0.5)]
    # plum: (1-1)/2 = 0, 2, (6-6)/0.5 = 0; lamp: (-3-1)/2 = -2, -3, (-3-6)/0.5 = -18; saw: -1/2, 4, -2
    assert EnsembleScorer(members(), Combine.min, scales=scales).score(PROMPTS, COMPLETIONS) == [[0.0, -18.0], [-2.0]]
    mean = EnsembleScorer(members(), Combine.mean, scales=scales).score(PROMPTS, COMPLETIONS)
    assert mean[0] == pytest.approx([2 / 3, -23 / 3])
    # plum: 0, 2, 0 has the mean 2/3 and the population variance (4/9 + 16/9 + 4/9) / 3 = 8/9
    uncertain = EnsembleScorer(members(), Combine.uncertainty, scales=scales).score(PROMPTS, COMPLETIONS)
    assert uncertain[0][0] == pytest.approx(2 / 3 - 8 / 9)


@pytest.mark.parametrize("combine", list(Combine))
def test_a_score_does_not_depend_on_what_else_is_scored(combine: Combine) -> None:
    scorer = EnsembleScorer(members(), combine, scales=[(1.0, 2.0), (0.0, 1.0), (6.0, 0.5)])
    together = scorer.score(PROMPTS, COMPLETIONS)
    assert scorer.score(PROMPTS[1:], COMPLETIONS[1:]) == together[1:]
    assert scorer.score(PROMPTS[:1], [["lamp"]]) == [together[0][1:]]


def test_one_member_scores_at_a_time_and_everything_in_one_call() -> None:
    log: list[str] = []
    EnsembleScorer(members(log), Combine.mean).score(PROMPTS, COMPLETIONS)
    assert log == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


def test_a_prompt_without_completions_keeps_its_place() -> None:
    scorer = EnsembleScorer([LengthScorer(), LengthScorer()], Combine.uncertainty)
    assert scorer.score(PROMPTS, [[], ["saw"]]) == [[], [3.0]]
    assert scorer.score([], []) == []


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_member_that_gives_no_number_leaves_none(combine: Combine, place: int) -> None:
    tables = [{"plum": 1.0}, {"plum": 2.0}, {"plum": 6.0}]
    tables[place]["plum"] = math.nan
    ensemble = EnsembleScorer([TableScorer([], "x", table) for table in tables], combine)
    assert math.isnan(ensemble.score(PROMPTS[:1], [["plum"]])[0][0])


def test_members_that_answer_in_another_shape_are_found_out() -> None:
    class Forgetful(LengthScorer):
        def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
            return [row[:1] for row in super().score(prompts, completions)]

    with pytest.raises(ValueError, match="shorter"):
        EnsembleScorer([LengthScorer(), Forgetful()], Combine.mean).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_members_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"An ensemble needs at least two members, got {number}"):
        EnsembleScorer(members()[:number], Combine.mean)


def test_scales_must_be_one_per_member_with_a_positive_deviation() -> None:
    with pytest.raises(ValueError, match="An ensemble of 3 members got 2 scales; give a mean and std for each, or none"):
        EnsembleScorer(members(), Combine.mean, scales=[(0.0, 1.0)] * 2)
    for bad in ((0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match=r"scales\[2\] is .*; it must be a finite mean and a standard deviation above 0"):
            EnsembleScorer(members(), Combine.mean, scales=[(0.0, 1.0), (0.0, 1.0), bad])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_that_would_reward_disagreement_or_is_no_number_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=f"The weight of an ensemble's variance is {weight}; it must be a finite number, 0 or above"):
        EnsembleScorer(members(), Combine.uncertainty, weight)
