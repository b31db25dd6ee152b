"""Where domains are missing, the mean of the others has a name of its own everywhere and is never taken for the overall score."""

import math

import pytest

from core.records import ScoredRow
from evalhooks.rewardbench.domains import DOMAINS, LABELS, label_of, mean_key, mean_label, mean_of, score_key
from evalhooks.rewardbench.v2 import metrics, scores, standard_errors

RIGHT, WRONG = (2.0, 1.0, 0.0, -1.0), (0.0, 2.0, 1.0, -1.0)


def rows(subset: str, *results: tuple[float, ...]) -> list[ScoredRow]:
    return [ScoredRow(id=f"{subset}{i}", subset=subset, num_correct=1, scores=found) for i, found in enumerate(results)]


def test_every_set_of_domains_has_a_name_of_its_own() -> None:
    assert len(LABELS) == 2**6 - 2  # all sets but none and all
    assert len(set(LABELS.values())) == len(LABELS)
    assert (mean_key(["math"]), mean_label(["math"])) == ("mean_of_1_math", "mean of 1: Math")
    assert mean_label(["factuality", "math", "safety", "focus"]) == "mean of 4: no Precise IF, Ties"
    assert label_of("mean_of_4_no_precise_if_ties") == "mean of 4: no Precise IF, Ties"


def test_the_mean_covers_the_domains_that_are_there() -> None:
    found = scores([*rows("Math", RIGHT, WRONG), *rows("Safety", RIGHT, RIGHT)])
    assert found.overall is None
    assert mean_of(found.per_subset) == ("mean_of_2_math_safety", 0.75)  # (0.5 + 1.0) / 2
    logged = metrics(found, standard_errors([*rows("Math", RIGHT, WRONG), *rows("Safety", RIGHT, RIGHT)], num_resamples=4000))
    assert logged["rewardbench2/mean_of_2_math_safety"] == 0.75
    assert "rewardbench2/overall" not in logged
    # Math has 2 rows of variance 1/4, of which the mean has 1/8 * 2 (unbiased); Safety has none; the mean of both halves it.
    assert logged["rewardbench2_se/mean_of_2_math_safety"] == pytest.approx(math.sqrt(0.25) / 2, rel=0.05)


def test_rows_of_the_user_s_own_subsets_have_no_mean() -> None:
    assert mean_of(scores(rows("Poetry", RIGHT)).per_subset) is None
    assert mean_of(dict.fromkeys(DOMAINS.values(), 0.5)) is None  # which is what overall is for


def test_a_full_overall_is_never_compared_with_a_mean() -> None:
    part = {"mean_of_1_math": 0.9, "math": 0.9}
    assert score_key([part, {"overall": 0.4}]) == "overall"
    assert score_key([part, {**part, "overall": None}]) == "mean_of_1_math"
    assert score_key([part, {"mean_of_1_safety": 0.1}, {"mean_of_1_safety": 0.2}]) == "mean_of_1_safety"
    assert score_key([{}]) == "overall"
