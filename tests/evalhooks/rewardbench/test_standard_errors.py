"""Standard errors of RewardBench 2, against formulas by hand and a naive bootstrap."""

import math
import random
from dataclasses import replace
from statistics import mean, stdev

import pytest

from evalhooks.rewardbench.v2 import DOMAINS, standard_errors
from tests.evalhooks.rewardbench.naive import BEST_OF_N, GOOD_PAIR, NAN, benchmark, best_of, naive_credit, naive_ties, ties


def test_the_standard_error_of_a_domain_is_that_of_a_mean():
    # 30 of 100 rows right: sqrt(0.3 * 0.7 / 100) = 0.04583; 4000 resamples estimate it to 1 / sqrt(8000) = 1.1%.
    rows = [best_of(float(index < 30), 0.5, id=str(index)) for index in range(100)]
    wanted = pytest.approx(0.04583, rel=0.05)
    assert standard_errors(rows, num_resamples=4000) == {"Math": wanted, "mean of 1: Math": wanted}


def test_standard_errors_of_ties_and_overall_equal_a_naive_bootstrap():
    generator = random.Random(9)
    rows = benchmark(12, 15, generator)
    subsets = [[row for row in rows if row.subset == subset] for subset in BEST_OF_N]
    pairs = [[row for row in rows if row.subset == "Ties" and row.id.endswith(f":{number}")] for number in range(15)]
    ties_draws, overall_draws = [], []
    for _ in range(1500):
        redrawn = enumerate(generator.choices(pairs, k=len(pairs)))
        numbered = [replace(row, id=f"{row.id.split(':')[0]}:{number}") for number, pair in redrawn for row in pair]
        ties_draws.append(naive_ties(numbered))
        domains = [mean(naive_credit(row) for row in generator.choices(subset, k=len(subset))) for subset in subsets]
        overall_draws.append(mean([*domains, ties_draws[-1]]))
    errors = standard_errors(rows, num_resamples=8000, seed=1)
    # 1500 draws estimate a standard deviation to 1.8%.
    assert errors["Ties"] == pytest.approx(stdev(ties_draws), rel=0.08)
    assert errors["overall"] == pytest.approx(stdev(overall_draws), rel=0.08)


def test_prompts_without_a_partner_are_redrawn_among_their_like():
    # One pair is always drawn as itself, and so has no standard error.
    lone = [ties("ref:5", [1.0], [0.0]), ties("ref:6", [0.0], [1.0])]
    assert standard_errors([*GOOD_PAIR, *lone]) == {}
    # Two equal pairs do not vary; of the two lone refs, one right: accuracy_ref is 3/4 give or take
    # sqrt(1/2 / 2) * 2/4 = 0.25, times the weight 0.3 = 0.075.
    twin = [ties("tied:2", [1.0, 1.0], [0.0]), ties("ref:2", [1.0], [0.0])]
    assert standard_errors([*GOOD_PAIR, *twin, *lone], num_resamples=4000)["Ties"] == pytest.approx(0.075, rel=0.05)


def test_every_term_of_the_ties_score_enters_its_standard_error():
    # The mean of two values a and b has the standard error |a - b| / 2. Beside the perfect pair of M = 1 stands
    # one with spread 1 and margins 1.5 (M = tanh(0.5) is all that differs), then one whose ref margin of 0.5 loses H as well.
    for ref_score, lost in ((1.5, 0.01 * (1 - math.tanh(0.5))), (0.5, 0.20 + 0.01 * (1 - math.tanh(-0.5)))):
        other = [ties("tied:2", [2.5, 1.5], [0.0]), ties("ref:2", [ref_score], [0.0])]
        # In the first case both pairs are right in all that is counted, which is Wilson's 2 of 2: 34.2% to 100%.
        unseen = (1 - 0.3424) / 2 / 1.96 if ref_score == 1.5 else 0.0
        found = standard_errors([*GOOD_PAIR, *other], num_resamples=4000)["Ties"]
        assert found == pytest.approx(math.hypot(lost / 2, unseen), rel=0.05)


def test_rows_that_are_all_right_or_all_wrong_have_an_error_too():
    # Wilson's interval of 8 of 8 is 67.6% to 100%, that of 0 of 8 its mirror image: as wide as a normal error of 8.28 points.
    right = [best_of(1.0, 0.0, id=str(index)) for index in range(8)]
    assert standard_errors(right)["Math"] == pytest.approx(0.0828, abs=1e-4)
    assert standard_errors([best_of(0.0, 1.0, id=str(index)) for index in range(8)])["Math"] == pytest.approx(0.0828, abs=1e-4)
    half = [best_of(float(index % 2), 0.5, id=str(index), subset="Focus") for index in range(8)]
    # sqrt(0.25 / 7) = 0.189, and of the mean of the two domains sqrt(0.0828^2 + 0.189^2) / 2 = 0.103.
    assert standard_errors([*right, *half], num_resamples=8000)["mean of 2: Math, Focus"] == pytest.approx(0.103, rel=0.05)
    # 1 of 1 is 20.7% to 100%, whatever else was scored; so is a pair of Ties that is right in all respects.
    assert standard_errors(right[:1])["Math"] == pytest.approx((1 - 0.2065) / 2 / 1.96, abs=1e-4)
    assert standard_errors([*half, *GOOD_PAIR])["Ties"] == pytest.approx((1 - 0.2065) / 2 / 1.96, abs=1e-4)
    equal = [best_of(1.0, 1.0, id=str(index)) for index in range(8)]
    assert standard_errors(equal)["Math"] == 0.0  # the credit of equal scores is a constant


def test_what_has_no_score_or_a_single_row_that_is_half_right_has_no_standard_error():
    rows = [row for row in benchmark(4, 4, random.Random(2)) if row.subset != "Math"]
    assert standard_errors(rows).keys() == {*DOMAINS.values(), "mean of 5: no Math"} - {"Math"}
    assert standard_errors([*benchmark(4, 4, random.Random(2)), ties("ref:9", [NAN], [0.0])]).keys() == {*BEST_OF_N, "mean of 5: no Ties"}
    assert standard_errors([best_of(1.0, 1.0)]) == {}
    assert standard_errors(rows, seed=3) == standard_errors(rows, seed=3) != standard_errors(rows, seed=4)
    with pytest.raises(ValueError, match="num_resamples is 1"):
        standard_errors(rows, num_resamples=1)
