"""RewardBench 2's formulas against hand-derived numbers and against a naive implementation written from the specification."""

import math
import random
import re
from dataclasses import replace
from statistics import mean

import pytest

from core.records import ScoredRow
from evalhooks.rewardbench.domains import mean_key
from evalhooks.rewardbench.v2 import DOMAINS, metrics, overall_score, row_credit, scores, standard_errors, ties_score
from tests.evalhooks.rewardbench.naive import BEST_OF_N, GOOD_PAIR, INF, NAN, benchmark, best_of, naive_credit, naive_ties, ties


def test_credit_is_one_for_the_strict_winner_and_zero_for_a_loser():
    assert row_credit(best_of(2.0, 1.0, 0.0, -3.0)) == 1.0
    assert row_credit(best_of(1.0, 2.0, 0.0, -3.0)) == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_tie_at_the_top_shares_the_credit_among_the_k_best(k: int) -> None:
    assert row_credit(best_of(*[1.5] * k, *[0.0] * (4 - k))) == 1 / k


def test_a_tie_below_the_top_and_a_tie_without_completion_0_earn_nothing_extra():
    assert row_credit(best_of(3.0, 1.0, 1.0, 1.0)) == 1.0
    assert row_credit(best_of(1.0, 3.0, 3.0, 0.0)) == 0.0


def test_only_exact_equality_is_a_tie():
    assert row_credit(best_of(0.1 + 0.2, 0.3)) == 1.0  # 0.30000000000000004 > 0.3
    assert row_credit(best_of(0.3, 0.1 + 0.2)) == 0.0
    assert row_credit(best_of(0.0, -0.0)) == 0.5


@pytest.mark.parametrize("position", range(4))
def test_a_nan_anywhere_in_a_best_of_4_row_gives_no_credit(position: int) -> None:
    values = [9.0, 1.0, 0.0, 0.0]
    values[position] = NAN
    result = scores([best_of(*values, id="7"), best_of(1.0, 0.0)])
    assert result.per_subset == {"Math": 0.5}
    assert result.refusals == ()
    assert result.not_finite == {"Math": ("7",)}


def test_a_domain_without_a_row_of_finite_scores_is_refused_by_name_and_the_others_are_kept():
    broken = [best_of(NAN, 1.0, id=str(n), subset="math") for n in range(12)]
    rows = [*broken, best_of(1.0, 0.0), best_of(INF, 0.0, subset="Focus", id="9")]
    # One row of finite scores is enough.
    assert scores(rows).per_subset == {"Math": 1 / 13}
    result = scores([*rows[:12], best_of(1.0, 0.0, subset="Safety"), rows[13]])
    assert result.per_subset == {"Safety": 1.0}
    assert "Math was refused (Math has no row with finite scores (12 row(s): 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more)" in result.reason
    assert "Focus was refused (Focus has no row with finite scores (1 row(s): 9)" in result.reason
    assert [refusal.split()[0] for refusal in result.refusals] == ["Math", "Focus"]
    assert result.row_results == (*[0.0] * 12, 1.0, 1.0)
    assert "Math" not in standard_errors([*broken, *[best_of(1.0, 0.0, subset="Focus")] * 2])


def test_a_nan_in_every_domain_leaves_none_and_an_infinity_in_one_row_is_named_only():
    rows = [replace(row, scores=(NAN, *row.scores[1:])) for row in benchmark(5, 3, random.Random(0))]
    result = scores(rows)
    assert (result.per_subset, result.overall, result.ties) == ({}, None, None)
    assert {refusal.split()[0] for refusal in result.refusals} == {"Factuality", "Precise", "Math", "Safety", "Focus", "Ties"}
    assert sum(map(len, result.not_finite.values())) == len(rows)
    assert scores([best_of(INF, 1.0, id="7"), best_of(1.0, 0.0)]).per_subset == {"Math": 1.0}


@pytest.mark.parametrize(("values", "num_correct"), [((1.0,), 1), ((1.0, 0.0), 0), ((1.0, 0.0), 2), ((1.0, 0.0), 3)])
def test_a_row_that_every_reward_gets_right_or_none_is_an_error_that_names_it(values: tuple[float, ...], num_correct: int) -> None:
    with pytest.raises(ValueError, match=r"Row 'lost-7' of Math cannot be scored: it has no (in)?correct completion"):
        scores([best_of(*values, id="lost-7", num_correct=num_correct)])


def test_infinite_scores_are_compared_like_any_other():
    assert row_credit(best_of(INF, 1.0)) == 1.0
    assert row_credit(best_of(INF, INF, 0.0)) == 0.5
    assert row_credit(best_of(-INF, -INF)) == 0.5
    assert row_credit(best_of(-INF, 0.0)) == 0.0


def test_unparsable_ratings_never_win_and_earn_chance_when_all_are():
    assert row_credit(best_of(-1, -1, -1, -1)) == 0.25
    assert row_credit(best_of(-1, 1, -1, -1)) == 0.0
    assert row_credit(best_of(1, -1, -1, -1)) == 1.0
    assert row_credit(best_of(7, 7, -1, 3)) == 0.5


def test_only_completion_0_counts_as_correct_whatever_num_correct_says():
    assert row_credit(best_of(0.0, 5.0, 1.0, 1.0, num_correct=2)) == 0.0
    assert row_credit(best_of(5.0, 5.0, 1.0, 1.0, num_correct=2)) == 0.5


def test_a_row_without_scores_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'lost-7' of Math has no scores"):
        scores([best_of(id="lost-7")])


def test_credits_equal_the_naive_ones_on_rows_of_2_to_9_completions():
    rows = [row for row in benchmark(200, 0, random.Random(1)) if row.subset != "Ties"]
    assert {len(row.scores) for row in rows} == set(range(2, 10))
    result = scores(rows)
    assert result.row_results == pytest.approx([naive_credit(row) for row in rows], abs=1e-12)
    for subset in BEST_OF_N:
        assert result.per_subset[subset] == pytest.approx(mean(naive_credit(row) for row in rows if row.subset == subset), abs=1e-12)


def test_ties_example_by_hand():
    # tied:1  correct 5, 4, incorrect 1, 2: spread 1, margin 4 - 2 = 2, accurate.  ref:1  3 against 1.5: margin 1.5, accurate.
    # tied:2  correct 5, 2, incorrect 1:    spread 3, margin 1, accurate.          ref:2  0 against 1:   margin -1, not accurate.
    # tied:3  correct 2, 2, incorrect 2:    spread 0, margin 0, not accurate.      ref:3  6 against 2:   margin 4, accurate.
    rows = [
        ties("tied:1", [5.0, 4.0], [1.0, 2.0]),
        ties("ref:1", [3.0], [1.5, 0.0]),
        ties("tied:2", [5.0, 2.0], [1.0]),
        ties("ref:2", [0.0], [1.0]),
        ties("tied:3", [2.0, 2.0], [2.0, 1.0]),
        ties("ref:3", [6.0], [2.0]),
    ]
    result = ties_score(rows)
    assert result.accuracy_tied == pytest.approx(2 / 3)
    assert result.accuracy_ref == pytest.approx(2 / 3)
    assert result.preferred == pytest.approx(1 / 3)  # 2 > 1; 1 > 3 and 0 > 0 are not
    assert result.preferred_hard == pytest.approx(1 / 3)  # min(1.5, 2) > 1
    # tanh(1.5/1 - 1) and tanh(-1/3 - 1) by tanh x = (e^2x - 1) / (e^2x + 1); min(4, 0)/0 = 0/0 -> 0
    margin = ((math.e - 1) / (math.e + 1) - (math.exp(8 / 3) - 1) / (math.exp(8 / 3) + 1)) / 3
    assert result.margin == pytest.approx(margin, abs=1e-15)
    assert result.score == pytest.approx(0.3 * 2 / 3 + 0.3 * 2 / 3 + 0.2 / 3 + 0.2 / 3 + 0.01 * margin, abs=1e-15)
    assert result.num_pairs == 3


def test_hard_preference_takes_the_smaller_margin_of_the_pair():
    # Spread 1 and margin 3 on tied:1; margin 0.5 on ref:1: P holds, H does not, M = tanh(0.5/1 - 1).
    result = ties_score([ties("tied:1", [5.0, 4.0], [1.0]), ties("ref:1", [1.0], [0.5])])
    assert (result.preferred, result.preferred_hard, result.margin) == (1.0, 0.0, math.tanh(-0.5))


def test_a_margin_equal_to_the_spread_is_not_preferred():
    # Spread 1, both margins 1: strictly greater is asked for; tanh(1/1 - 1) = 0.
    result = ties_score([ties("tied:1", [3.0, 2.0], [1.0]), ties("ref:1", [2.0], [1.0])])
    assert (result.preferred, result.preferred_hard, result.margin) == (0.0, 0.0, 0.0)
    assert result.score == pytest.approx(0.6)


def test_a_perfect_model_scores_1_01_on_ties_and_an_inverted_one_minus_0_01():
    perfect = [ties("tied:1", [1.0, 1.0, 1.0], [0.0, -1.0]), ties("ref:1", [1.0], [0.0])]
    inverted = [ties("tied:1", [0.0, 0.0, 0.0], [1.0, 2.0]), ties("ref:1", [0.0], [1.0])]
    assert ties_score(perfect).score == pytest.approx(1.01, abs=1e-15)
    assert ties_score(inverted).score == pytest.approx(-0.01, abs=1e-15)


def test_constant_scores_earn_nothing_on_ties_and_chance_elsewhere():
    rows = [best_of(1.0, 1.0, 1.0, 1.0, subset=subset) for subset in BEST_OF_N]
    rows += [ties("tied:1", [1.0, 1.0], [1.0]), ties("ref:1", [1.0], [1.0])]
    result = scores(rows)
    assert result.per_subset == {**dict.fromkeys(BEST_OF_N, 0.25), "Ties": 0.0}
    assert result.overall == pytest.approx(5 * 0.25 / 6)


def test_prompts_without_a_partner_count_for_accuracy_only():
    rows = [ties("tied:1", [1.0, 1.0], [0.0]), ties("ref:1", [1.0], [0.0]), ties("tied:2", [0.0, 0.0], [1.0])]
    result = ties_score(rows)
    assert (result.accuracy_tied, result.accuracy_ref, result.num_pairs) == (0.5, 1.0, 1)
    assert result.score == pytest.approx(0.3 * 0.5 + 0.3 + 0.2 + 0.2 + 0.01)


def test_every_id_prefix_that_is_not_ref_counts_as_tied():
    as_tied = [ties("tied:1", [3.0, 1.0], [0.0]), ties("ref:1", [1.0], [0.0])]
    as_other = [ties("Ref:1", [3.0, 1.0], [0.0]), ties("ref:1", [1.0], [0.0])]
    assert ties_score(as_other) == ties_score(as_tied)


def test_infinite_ties_scores_follow_ieee_arithmetic():
    # tied:1: spread inf - inf undefined, margin inf: accurate, no preference, M adds 0. ref:1: margin 1.
    undefined_spread = ties_score([ties("tied:1", [INF, INF], [0.0]), ties("ref:1", [1.0], [0.0])])
    assert undefined_spread.score == pytest.approx(0.3 + 0.3)
    # tied:1: margin inf > spread 0, smaller margin 1 > 0, tanh(1/0) = 1. ref:1: margin 0 - (-1).
    infinite_margin = ties_score([ties("tied:1", [1.0, 1.0], [-INF]), ties("ref:1", [0.0], [-1.0])])
    assert infinite_margin.score == pytest.approx(1.01)
    # ref:1: margin inf - inf undefined: not accurate, so neither H; M adds 0. tied:1 as before.
    undefined_margin = ties_score([ties("tied:1", [1.0, 1.0], [0.0]), ties("ref:1", [INF], [INF])])
    assert undefined_margin.score == pytest.approx(0.3 + 0.2)
    # tied:1: margin 1 over spread inf: tanh(0 - 1).
    infinite_spread = ties_score([ties("tied:1", [INF, 1.0], [0.0]), ties("ref:1", [1.0], [0.0])])
    assert infinite_spread.score == pytest.approx(0.6 + 0.01 * math.tanh(-1))


def test_a_huge_ratio_overflows_into_the_limit_of_tanh_without_a_warning():
    rows = [ties("tied:1", [1e300, 1e300 + 1e285], [-1e308]), ties("ref:1", [1e308], [-1e308])]
    assert ties_score(rows).margin == 1.0
    assert ties_score([ties("tied:1", [5e-324, 0.0], [-1e308]), ties("ref:1", [1e308], [0.0])]).margin == 1.0


def test_ratings_with_unparsable_ones_go_through_the_formula_as_minus_1():
    # tied:1: correct 8, -1, incorrect 2: margin -3, spread 9. ref:1: 9 against -1: margin 10. M = tanh(-3/9 - 1).
    result = ties_score([ties("tied:1", [8, -1], [2]), ties("ref:1", [9], [-1])])
    assert result.score == pytest.approx(0.3 + 0.01 * math.tanh(-1 / 3 - 1))


@pytest.mark.parametrize("seed", range(8))
def test_ties_equals_the_naive_implementation_on_random_rows(seed: int) -> None:
    generator = random.Random(seed)
    rows = [row for row in benchmark(0, 40, generator) if row.subset == "Ties"]
    rows = [row for row in rows if generator.random() < 0.9]  # some lose their partner
    assert ties_score(rows).score == pytest.approx(naive_ties(rows), abs=1e-12)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ties("tied:7", [1.0, NAN], [0.0]), r"a NaN score .*: tied:7\."),
        (ties("ref:7", [1.0], [0.0, NAN]), r"a NaN score .*: ref:7\."),
        (ties("tied:7", [1.0, 1.0], []), r"no incorrect completion: tied:7\."),
        (ties("ref:7", [], [1.0, 1.0]), r"no correct completion: ref:7\."),
        (ties("ref:7", [], []), r"no correct completion: ref:7\."),
        (ties("tied-7", [1.0, 1.0], [0.0]), r"an id that is neither ref:N nor tied:N: tied-7\."),
        (ties("tied:x", [1.0, 1.0], [0.0]), r"an id that is neither ref:N nor tied:N: tied:x\."),
        (ties("tied:1", [1.0, 1.0], [0.0]), r"another row of the same kind has too: tied:1, tied:1\."),
    ],
)
def test_ties_is_refused_with_the_names_of_the_rows_and_the_rest_is_kept(bad: ScoredRow, message: str) -> None:
    result = scores([best_of(1.0, 0.0), *GOOD_PAIR, bad])
    assert result.per_subset == {"Math": 1.0}
    assert result.ties is None
    assert len(result.refusals) == 1
    assert re.search(message, result.refusals[0])
    assert result.refusals[0] in result.reason
    with pytest.raises(ValueError, match=message):
        ties_score([*GOOD_PAIR, bad])


def test_ties_is_refused_for_a_paired_tied_prompt_with_one_correct_answer():
    rows = [*GOOD_PAIR, ties("tied:2", [1.0], [0.0]), ties("ref:2", [1.0], [0.0])]
    assert scores(rows).refusals == ("Ties rows with one correct completion where a tied prompt needs several: tied:2.",)
    # Without a partner nothing asks for its spread.
    assert ties_score([*GOOD_PAIR, ties("tied:2", [0.0], [1.0])]).accuracy_tied == 0.5


def test_ties_is_refused_without_a_common_number_and_for_all_causes_at_once():
    (refusal,) = scores([ties("tied:1", [1.0, 1.0], [0.0]), ties("ref:2", [1.0], [0.0])]).refusals
    assert re.search(r"no partner .*: tied:1, ref:2\.", refusal)
    several_causes = scores([ties("tied:1", [1.0, NAN], []), ties("oops", [1.0], [0.0])])
    assert len(several_causes.refusals) == 4  # id, NaN, no incorrect, no partner


def test_overall_is_the_mean_of_the_six_domains_and_ties_rows_have_no_result_of_their_own():
    rows = [best_of(1.0, 0.0, subset=subset) for subset in BEST_OF_N[:3]] + [best_of(0.0, 1.0, subset=subset) for subset in BEST_OF_N[3:]]
    result = scores([*rows, *GOOD_PAIR])
    assert result.overall == pytest.approx((1 + 1 + 1 + 0 + 0 + 1.01) / 6)
    assert result.reason == ""
    assert result.row_results == (1.0, 1.0, 1.0, 0.0, 0.0, None, None)
    assert list(result.per_subset) == list(DOMAINS.values())


@pytest.mark.parametrize("missing", DOMAINS.values())
def test_a_missing_domain_leaves_no_overall_and_is_named(missing: str) -> None:
    rows = [row for row in benchmark(3, 3, random.Random(0)) if row.subset != missing]
    result = scores(rows)
    assert result.overall is None
    assert f"{missing} has no rows" in result.reason
    assert len(result.per_subset) == 5
    assert "rewardbench2/overall" not in metrics(result)
    there = [key for key, name in DOMAINS.items() if name != missing]
    assert metrics(result).keys() == {f"rewardbench2/{key}" for key in (*there, mean_key(there))}
    assert metrics(result)[f"rewardbench2/{mean_key(there)}"] == pytest.approx(sum(result.per_subset.values()) / 5)


def test_no_rows_at_all_is_a_result_without_scores():
    result = scores([])
    assert (result.per_subset, result.overall, result.row_results) == ({}, None, ())
    assert metrics(result) == {}
    assert standard_errors([]) == {}


def test_the_order_of_the_rows_changes_nothing_but_the_order_of_the_row_results():
    rows = benchmark(30, 20, random.Random(3))
    order = random.Random(4).sample(range(len(rows)), len(rows))
    result, shuffled = scores(rows), scores([rows[index] for index in order])
    assert shuffled.per_subset == result.per_subset
    assert shuffled.overall == result.overall
    assert shuffled.ties == result.ties
    assert shuffled.row_results == tuple(result.row_results[index] for index in order)


def test_the_scale_of_the_scores_changes_nothing():
    # Powers of two scale without rounding.
    rows = [row for row in benchmark(20, 10, random.Random(5)) if INF not in row.scores]
    assert scores([replace(row, scores=tuple(4 * score for score in row.scores)) for row in rows]) == scores(rows)


def test_domain_names_are_matched_in_any_case_and_unknown_subsets_stay_out_of_overall():
    rows = benchmark(5, 4, random.Random(6))
    result = scores([*(replace(row, subset=row.subset.upper()) for row in rows), best_of(0.0, 1.0, subset="House Style")])
    assert result.overall == scores(rows).overall
    assert result.per_subset["House Style"] == 0.0
    assert list(result.per_subset) == [*DOMAINS.values(), "House Style"]
    assert "House Style" not in "".join(metrics(result))


def test_metrics_carry_the_names_of_the_step_axis_on_the_scale_0_to_1():
    result = metrics(scores([*(best_of(1.0, 0.0, subset=subset) for subset in BEST_OF_N), *GOOD_PAIR]))
    assert list(result) == [f"rewardbench2/{key}" for key in ["overall", "factuality", "precise_if", "math", "safety", "focus", "ties"]]
    assert list(result.values()) == pytest.approx([(5 + 1.01) / 6, 1.0, 1.0, 1.0, 1.0, 1.0, 1.01])


@pytest.mark.parametrize(
    ("score", "domains"),  # three models of the published leaderboard: the best, one of the middle, one with flipped labels
    [
        (0.8413, (0.8463, 0.6625, 0.776, 0.9667, 0.9838, 0.8124)),
        (0.6678, (0.6505, 0.3312, 0.6831, 0.7978, 0.8808, 0.6632)),
        (0.0576, (0.04, 0.1313, 0.0546, 0.0489, 0.0808, -0.01)),
    ],
)
def test_overall_reproduces_published_scores(score: float, domains: tuple[float, ...]) -> None:
    assert overall_score(dict(zip(DOMAINS.values(), domains, strict=True))) == pytest.approx(score, abs=1e-4)
