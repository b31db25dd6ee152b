"""Two models on shared rows: what is paired, every line by hand, the noise, and the rows that flip."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from core.disk import write_json
from core.records import ScoredRow
from evalhooks.analysis.differences import bootstrap_means
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.compare import Flip, Line, compare, compare1

BEST_OF_N = [name for name in v2.DOMAINS.values() if name != "Ties"]
NAN = math.nan


def row(id: str, *scores: float, subset: str = "Math", num_correct: int = 1) -> ScoredRow:
    return ScoredRow(id=id, subset=subset, num_correct=num_correct, scores=scores)


def rows_of(credits: Sequence[float], subset: str = "Math") -> list[ScoredRow]:
    """Rows with these credits, each 1, 0.5 or 0."""
    rivals = {1.0: 1.0, 0.5: 2.0, 0.0: 3.0}
    return [row(str(index), 2.0, rivals[credit], 0.0, 0.0, subset=subset) for index, credit in enumerate(credits)]


def drawn(seed: int, num_rows: int, *, skill: float, num_pairs: int = 0, subsets: Sequence[str] = BEST_OF_N) -> list[ScoredRow]:
    """A model that is right more often with more skill; rows of two models agree in ids and shapes, not in scores."""
    generator = random.Random(seed)
    rows = [
        row(str(number), generator.random() + skill, *(generator.random() for _ in range(3)), subset=subset)
        for subset in subsets
        for number in range(num_rows)
    ]
    for number in range(num_pairs):
        right, wrong = ([generator.random() for _ in range(3)] for _ in range(2))
        rows.append(row(f"tied:{number}", *(value + skill for value in right), *wrong, subset="Ties", num_correct=3))
        rows.append(row(f"ref:{number}", generator.random() + skill, *wrong, subset="Ties"))
    return rows


def line_of(lines: Sequence[Line], name: str) -> Line:
    return next(line for line in lines if line.name == name)


def test_a_domain_by_hand() -> None:
    # Credits of a: 1, 1, 0, 1/2, of b: 0, 1, 1/2, 0. Differences 1, 0, -1/2, 1/2: sum 1, mean 1/4.
    result = compare(rows_of([1, 1, 0, 0.5]), rows_of([0, 1, 0.5, 0]))
    (line,) = result.lines
    assert (line.name, line.num_rows, line.num_won, line.num_lost) == ("Math", 4, 2, 1)
    assert (line.score_a, line.score_b, line.difference) == pytest.approx((0.625, 0.375, 0.25))
    assert (result.num_shared, result.num_only_a, result.num_only_b) == (4, 0, 0)
    assert result.overall is None
    assert result.reason == "Overall is the mean of all six domains, but Factuality, Precise IF, Safety, Focus, Ties cannot be compared."


def test_without_all_six_domains_the_mean_of_those_there_are_is_compared_under_its_label() -> None:
    # a is right everywhere, b on 10 of 20 rows of Math and 24 of 30 of Safety: differences 0.5 and 0.2, mean 0.35.
    # Its variance is (0.5 x 0.5 / 20 + 0.2 x 0.8 / 30) / 4 = 0.00446, so the interval reaches 1.96 x 0.0668 = 0.131 to either side.
    a = rows_of([1.0] * 20) + rows_of([1.0] * 30, subset="Safety")
    b = rows_of([0.0, 1.0] * 10) + rows_of([0.0] * 6 + [1.0] * 24, subset="Safety")
    result = compare(a, b)
    assert result.overall is None
    assert result.mean is not None
    assert (result.mean.name, result.mean.num_rows, result.mean.num_won, result.mean.num_lost) == ("mean of 2: Math, Safety", 50, 16, 0)
    assert (result.mean.score_a, result.mean.score_b) == pytest.approx((1.0, 0.65))
    assert result.mean.ci95 == pytest.approx((0.35 - 0.131, 0.35 + 0.131), abs=0.02)
    assert compare(a[:20], b[:20]).mean is None  # of one domain the mean is its line
    whole = drawn(0, 20, skill=0.3, num_pairs=6)
    assert compare(whole, whole).mean is None


def test_a_domain_has_the_estimate_of_the_paired_bootstrap() -> None:
    a, b = drawn(0, 80, skill=0.3, subsets=["Math"]), drawn(1, 80, skill=0.1, subsets=["Math"])
    differences = np.array([v2.row_credit(x) - v2.row_credit(y) for x, y in zip(a, b, strict=True)])
    draws = bootstrap_means(differences, num_resamples=2000, rng=np.random.default_rng(5))
    (line,) = compare(a, b, num_resamples=2000, seed=5).lines
    assert line.difference == pytest.approx(differences.mean(), abs=1e-12)
    assert line.ci95 == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-12)
    assert line.p_value == 2 * (min((draws <= 1e-12).sum(), (draws >= -1e-12).sum()) + 1) / 2001
    assert (line.ci95, line.p_value) != (compare(a, b, num_resamples=2000, seed=6).lines[0].ci95, line.p_value)


@pytest.mark.parametrize(
    ("differing", "verdict"),
    # Of 100 rows a wins k and loses none: the share of resamples without any of them is (1 - k/100)^100, about exp(-k).
    # That is 4.8% for k = 3, above the 2.5% below the interval's lower end, and 1.7% for k = 4.
    [(0, "within noise"), (3, "within noise"), (4, "more than noise"), (100, "more than noise")],
)
def test_the_verdict_is_more_than_noise_only_where_the_interval_excludes_0(differing: int, verdict: str) -> None:
    better, worse = rows_of([1.0] * 100), rows_of([0.0] * differing + [1.0] * (100 - differing))
    for result, sign in ((compare(better, worse), 1), (compare(worse, better), -1)):
        (line,) = result.lines
        assert line.verdict == verdict
        assert line.ci95 is not None
        assert (min(sign * end for end in line.ci95) > 0) == (verdict == "more than noise")


def test_a_model_does_not_differ_from_itself_and_the_interval_says_what_rows_not_seen_may_add() -> None:
    rows = drawn(0, 20, skill=0.2, num_pairs=6)
    result = compare(rows, rows)
    assert result.overall is not None
    assert result.flips == ()
    # Of 20 rows none differs: z^2 / (20 + z^2) = 3.8415 / 23.8415 = 0.16113; of the 6 pairs of Ties 3.8415 / 9.8415 = 0.39034.
    # Overall is a sixth of each: sqrt(5 x 0.16113^2 + 0.39034^2) / 6 = sqrt(0.12981 + 0.15237) / 6 = 0.08853.
    limits = [*(0.16113 for _ in BEST_OF_N), 0.39034, 0.08853]
    for line, limit in zip((*result.lines, result.overall), limits, strict=True):
        assert line.ci95 == pytest.approx((-limit, limit), abs=1e-5)
        assert (line.difference, line.p_value, line.verdict) == (0.0, 1.0, "within noise")
        assert (line.num_won, line.num_lost) == (0, 0)
    assert [line.ci95 for line in compare(rows[:5], rows[:5]).lines] == [None]  # as wherever there are fewer than six rows


def test_a_section_in_which_no_pair_differs_weighs_its_subsets() -> None:
    # Of 20 pairs of each of two subsets of 164 problems none differs: each may be 0.16113 off, and each is half of the section.
    same = pairs_of({"hep-cpp": 0.5, "hep-go": 1.0}, 20)
    half = 0.16113 / math.sqrt(2)
    assert compare1(same, same).lines[0].ci95 == pytest.approx((-half, half), abs=1e-5)


def test_resamples_that_are_0_but_for_rounding_lie_on_both_sides() -> None:
    # Differences: 1/3 - 0 on 8 rows, 1/4 - 1/3 on 12. A resample with 4 of the former is 0 up to the last digits, and such
    # resamples (3.5%) are most of those at or below 0 (5.1%), so the p-value would be a third without them.
    none, third, quarter = (0.0, 1.0, 1.0, 1.0), (2.0, 2.0, 2.0, 0.0), (2.0, 2.0, 2.0, 2.0)
    a = [row(str(n), *(third if n < 8 else quarter)) for n in range(20)]
    b = [row(str(n), *(none if n < 8 else third)) for n in range(20)]
    (line,), (mirrored,) = compare(a, b).lines, compare(b, a).lines
    assert line.p_value == mirrored.p_value
    assert line.p_value == pytest.approx(2 * sum(math.comb(20, k) * 0.4**k * 0.6 ** (20 - k) for k in range(5)), rel=0.1)


def test_lines_come_in_the_order_of_the_domains_and_names_in_any_case_meet() -> None:
    a = [*rows_of([1, 0], "mine"), *rows_of([1, 0], "FOCUS"), *rows_of([1, 0], "factuality")]
    b = [*rows_of([0, 0], "Focus"), *rows_of([1, 1], "Factuality"), *rows_of([0, 1], "mine")]
    assert [line.name for line in compare(a, b).lines] == ["Factuality", "Focus", "mine"]


def test_rows_of_one_model_alone_are_counted_and_change_nothing() -> None:
    a, b = rows_of([1, 0, 0.5]), rows_of([0, 0, 1])
    extra_a, extra_b = [row("only", 1.0, 0.0), row("0", 1.0, 0.0, subset="Focus")], [row("0", 0.0, 1.0, subset="Safety")]
    result = compare([*extra_a, *a], [*b, *extra_b])
    assert (result.num_shared, result.num_only_a, result.num_only_b) == (3, 2, 1)
    assert result.lines == compare(a, b).lines


def test_rows_are_paired_by_id_not_by_place() -> None:
    a, b = drawn(0, 30, skill=0.3, num_pairs=5), drawn(1, 30, skill=0.1, num_pairs=5)
    shuffled = random.Random(3).sample(b, len(b))
    assert compare(a, shuffled) == compare(a, b)


def test_models_that_share_nothing_rows_given_twice_and_rows_of_other_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"A \(2 rows\) and B \(1 rows\) share no row with the same subset and id"):
        compare(rows_of([1, 0]), rows_of([1], "Focus"))
    with pytest.raises(ValueError, match=r"B has row '0' of Math 2 times"):
        compare(rows_of([1]), [row("0", 1.0, 0.0), row("0", 1.0, 0.0, subset="MATH")])
    with pytest.raises(ValueError, match=r"Row '0' of Math has 4 scores in A, 1 of them correct, and 3 in B, 1 correct"):
        compare(rows_of([1]), [row("0", 1.0, 0.0, 0.0)])
    with pytest.raises(ValueError, match=r"Row '0' of Math has 4 scores in A, 1 of them correct, and 4 in B, 2 correct"):
        compare(rows_of([1]), [row("0", 1.0, 0.0, 0.0, 0.0, num_correct=2)])
    with pytest.raises(ValueError, match=r"num_resamples is 0"):
        compare(rows_of([1]), rows_of([1]), num_resamples=0)


def test_a_single_row_has_no_interval_no_p_value_and_no_verdict() -> None:
    (line,) = compare(rows_of([1]), rows_of([0])).lines
    assert (line.difference, line.ci95, line.p_value, line.verdict) == (1.0, None, None, "cannot tell")


@pytest.mark.parametrize(
    ("num_rows", "num_lost", "p_value", "verdict"),
    [
        # A sign test: all of n rows won has p = 2 / 2^n, below 5% from 6 on.
        (3, 0, 0.25, "cannot tell"),
        (4, 0, 0.125, "cannot tell"),
        (5, 0, 0.0625, "cannot tell"),
        (6, 0, 0.03125, "more than noise"),
        (8, 1, 2 * (1 + 8) / 2**8, "within noise"),
        (10, 1, 2 * (1 + 10) / 2**10, "more than noise"),
        (19, 5, 2 * sum(math.comb(19, k) for k in range(6)) / 2**19, "within noise"),
    ],
)
def test_below_20_rows_the_test_is_exact(num_rows: int, num_lost: int, p_value: float, verdict: str) -> None:
    better, worse = [0.0] * num_lost + [1.0] * (num_rows - num_lost), [1.0] * num_lost + [0.0] * (num_rows - num_lost)
    for result in (compare(rows_of(better), rows_of(worse)), compare(rows_of(worse), rows_of(better))):
        (line,) = result.lines
        assert (line.p_value, line.verdict) == (pytest.approx(p_value), verdict)
        assert (line.ci95 is None) == (verdict == "cannot tell")


def test_a_large_domain_keeps_the_bootstrap_beside_a_small_one_and_overall_flips_signs() -> None:
    a, b = (drawn(seed, 30, skill=skill, num_pairs=30) for seed, skill in ((0, 0.5), (1, 0.2)))
    few_a, few_b = ([row for row in rows if row.subset != "Math" or int(row.id) < 8] for rows in (a, b))
    whole, part = compare(a, b), compare(few_a, few_b)
    assert line_of(part.lines, "Factuality") == line_of(whole.lines, "Factuality")
    assert line_of(part.lines, "Math").num_rows == 8
    assert whole.overall is not None
    assert part.overall is not None
    assert whole.overall.ci95 is not None
    assert part.overall.ci95 is not None
    widths = [overall.ci95[1] - overall.ci95[0] for overall in (whole.overall, part.overall) if overall.ci95]
    assert widths[0] < widths[1] < 2 * widths[0]


def ties(id: str, correct: Sequence[float], incorrect: Sequence[float]) -> ScoredRow:
    return row(id, *correct, *incorrect, subset="Ties", num_correct=len(correct))


def test_ties_by_hand() -> None:
    # a: both pairs perfect with spread 0. b: pair 1 has an inaccurate ref (margin -1, so H fails and M is -1 over a spread
    # of 0); P holds by the tied prompt's margin of 1. Pair 2 as in a.
    good = [ties("tied:1", [1, 1], [0]), ties("ref:1", [1], [0]), ties("tied:2", [1, 1], [0]), ties("ref:2", [1], [0])]
    bad = [good[0], ties("ref:1", [0], [1]), *good[2:]]
    (line,) = compare(good, bad).lines
    assert line.score_a == pytest.approx(1.01)
    assert line.score_b == pytest.approx(0.3 + 0.15 + 0.2 + 0.1 + 0.0)
    assert (line.num_rows, line.num_won, line.num_lost) == (4, 1, 0)
    assert compare(good, bad).flips == (Flip(subset="Ties", id="ref:1", credit_a=1.0, credit_b=0.0),)
    # Two pairs of which one differs: with either sign the difference is as large.
    assert (line.ci95, line.p_value, line.verdict) == (None, 1.0, "cannot tell")


def test_ties_resample_pairs_with_both_models_and_lone_prompts_among_their_like() -> None:
    a, b = (drawn(seed, 0, skill=0.4, num_pairs=40) for seed in (0, 1))
    lone = [ties(f"ref:{number}", [1.0], [float(number % 2)]) for number in range(100, 110)]
    flipped = [ties(f"ref:{number}", [1.0], [float(number % 3 > 0)]) for number in range(100, 110)]
    (line,) = compare([*a, *lone], [*b, *flipped]).lines
    scores = [v2.ties_score(rows).score for rows in ([*a, *lone], [*b, *flipped])]
    assert (line.score_a, line.score_b) == pytest.approx(tuple(scores))
    # The same by brute force: whole prompts redrawn and renamed, then the formula.
    generator = np.random.default_rng(7)

    def redrawn(rows: Sequence[ScoredRow], pairs: Sequence[int], singles: Sequence[int]) -> float:
        known = {r.id: r for r in rows}
        chosen = [(f"{kind}:{place}", known[f"{kind}:{n}"]) for place, n in enumerate(pairs) for kind in ("tied", "ref")]
        chosen += [(f"ref:{1000 + place}", known[f"ref:{n}"]) for place, n in enumerate(singles)]
        return v2.ties_score([ScoredRow(id=name, subset="Ties", num_correct=r.num_correct, scores=r.scores) for name, r in chosen]).score

    draws = []
    for _ in range(600):
        picked = generator.integers(40, size=40).tolist(), generator.integers(100, 110, size=10).tolist()
        draws.append(redrawn([*a, *lone], *picked) - redrawn([*b, *flipped], *picked))
    assert line.ci95 is not None
    width = line.ci95[1] - line.ci95[0]
    assert width == pytest.approx(2 * 1.96 * np.std(draws), rel=0.12)
    assert np.mean(line.ci95) == pytest.approx(np.mean(draws), abs=0.1 * width)


def test_ties_that_cannot_be_scored_are_refused_with_the_models_name_and_the_rest_is_compared() -> None:
    good = [ties("tied:1", [1, 1], [0]), ties("ref:1", [1], [0])]
    result = compare([*rows_of([1, 0]), *good], [*rows_of([0, 0]), good[0], ties("ref:1", [NAN], [0])])
    assert [line.name for line in result.lines] == ["Math"]
    assert result.refusals == ("B: Ties rows with a NaN score (look for overflow, then score them again): ref:1.",)
    assert "Ties cannot be compared" in result.reason
    assert all(flip.subset == "Math" for flip in result.flips)
    # A pair of which the models share one prompt only is none.
    result = compare([*rows_of([1, 0]), *good], [*rows_of([0, 0]), good[0]])
    assert [refusal[:2] for refusal in result.refusals] == ["A:", "B:"]
    assert "no partner" in result.refusals[0]


def test_rows_that_are_not_finite_are_named_by_model_and_a_domain_with_nothing_else_is_refused() -> None:
    good, broken = rows_of([1, 0]), [row("0", NAN, 0.0, 0.0, 0.0), row("1", 1.0, 0.0, 0.0, 0.0)]
    result = compare(good, broken)
    assert (result.lines[0].score_b, result.refusals) == (0.5, ())
    (said,) = result.remarks
    assert said.startswith("B: 1 of 2 rows have a score that is NaN or infinite, and a NaN earns no credit")
    assert said.endswith(": Math 0")
    result = compare([*good, *rows_of([1], "Focus")], [broken[0], row("1", 0.0, NAN, 0.0, 0.0), *rows_of([0], "Focus")])
    assert [line.name for line in result.lines] == ["Focus"]
    assert result.refusals[0].startswith("B: Math has no row with finite scores (2 row(s): 0, 1)")
    one = [row("7", 1.0, 0.0, subset="hep-go")]
    assert compare1(one, [row("7", NAN, 0.0, subset="hep-go")]).lines == ()
    assert compare1(one, [row("7", NAN, 0.0, subset="hep-go")], generative_b=True).lines[0].score_b == 0.5


def test_overall_is_the_mean_of_the_domains_and_resamples_them_jointly() -> None:
    a, b = drawn(0, 60, skill=0.3, num_pairs=30), drawn(1, 60, skill=0.2, num_pairs=30)
    result = compare(a, b, seed=1)
    overall = result.overall
    assert overall is not None
    assert result.reason == ""
    assert overall.score_a == pytest.approx(v2.scores(a).overall)
    assert overall.score_b == pytest.approx(v2.scores(b).overall)
    assert overall.difference == pytest.approx(overall.score_a - overall.score_b)
    assert overall.num_rows == 5 * 60 + 60
    assert overall.num_won == sum(line.num_won for line in result.lines)
    assert overall.num_lost == sum(line.num_lost for line in result.lines)
    # Domains are independent: the variance of their mean is the sum of their variances over 36.
    widths = [line.ci95[1] - line.ci95[0] for line in result.lines if line.ci95]
    assert overall.ci95 is not None
    assert overall.ci95[1] - overall.ci95[0] == pytest.approx(math.sqrt(sum(width**2 for width in widths)) / 6, rel=0.05)


def test_a_domain_without_an_interval_leaves_overall_without_one() -> None:
    a, b = drawn(0, 10, skill=0.3, num_pairs=1), drawn(1, 10, skill=0.2, num_pairs=1)
    overall = compare(a, b).overall
    assert overall is not None
    assert (overall.ci95, overall.p_value, overall.verdict) == (None, None, "cannot tell")


def test_a_subset_that_is_no_domain_has_a_line_and_no_part_in_overall() -> None:
    a, b = drawn(0, 10, skill=0.3, num_pairs=3), drawn(1, 10, skill=0.2, num_pairs=3)
    plain, more = compare(a, b), compare([*a, *rows_of([1, 1], "mine")], [*b, *rows_of([0, 0], "mine")])
    assert plain.overall is not None
    assert more.overall is not None
    assert more.overall.difference == pytest.approx(plain.overall.difference)
    assert more.overall.num_rows == plain.overall.num_rows
    assert line_of(more.lines, "mine").difference == 1.0


def test_flips_begin_with_the_largest_difference_and_keep_the_order_of_the_rows() -> None:
    a = [*rows_of([1, 0.5, 1, 0, 1], "Math"), *rows_of([0, 1], "Factuality")]
    b = [*rows_of([1, 0, 0.5, 1, 0], "Math"), *rows_of([0.5, 0], "Factuality")]
    assert [(flip.subset, flip.id, flip.credit_a, flip.credit_b) for flip in compare(a, b).flips] == [
        ("Factuality", "1", 1.0, 0.0),
        ("Math", "3", 0.0, 1.0),
        ("Math", "4", 1.0, 0.0),
        ("Factuality", "0", 0.0, 0.5),
        ("Math", "1", 0.5, 0.0),
        ("Math", "2", 1.0, 0.5),
    ]


def test_a_comparison_can_be_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", compare(drawn(0, 5, skill=0.3, num_pairs=3), drawn(1, 5, skill=0.2, num_pairs=3)))
    assert json.loads((tmp_path / "c.json").read_text())["overall"]["name"] == "Overall"


def pairs_of(accuracies: dict[str, float], num_pairs: int = 10) -> list[ScoredRow]:
    """Pairs of each subset of which this share, the first ones, is ranked rightly."""
    return [
        row(str(index), float(index < accuracy * num_pairs), 0.5, subset=subset)
        for subset, accuracy in accuracies.items()
        for index in range(num_pairs)
    ]


SUBSETS = [subset for section in v1.COUNTS.values() for subset in section]


def test_sections_of_rewardbench_1_weigh_their_subsets_and_prior_sets_count_half() -> None:
    a = pairs_of({**dict.fromkeys(SUBSETS, 0.5), "math-prm": 1.0, "shp": 0.8, "summarize": 0.6, "mine": 1.0})
    b = pairs_of({**dict.fromkeys(SUBSETS, 0.5), "hep-go": 1.0, "shp": 0.4, "summarize": 0.6, "mine": 0.0})
    result = compare1(a, b)
    assert [line.name for line in result.lines] == ["Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets", "mine"]
    reasoning, prior, overall = line_of(result.lines, "Reasoning"), line_of(result.lines, "Prior Sets"), result.overall
    assert reasoning.difference == pytest.approx(0.5 * (984 - 164) / 1968)
    assert (reasoning.num_won, reasoning.num_lost) == (5, 5)
    assert (prior.score_a, prior.score_b) == pytest.approx((0.7, 0.5))
    assert overall is not None
    assert overall.score_a == pytest.approx(v1.scores(a).overall)
    assert overall.score_b == pytest.approx(v1.scores(b).overall)
    assert result.reason == ""
    assert result.flips[0] == Flip(subset="math-prm", id="5", credit_a=1.0, credit_b=0.0)


def test_each_subset_of_a_section_is_resampled_at_its_own_size() -> None:
    # Every pair of hep-go is won, every other is a draw: whatever is drawn, the difference stays, and so has no width.
    a, b = pairs_of(dict.fromkeys(SUBSETS, 1.0), 20), pairs_of({**dict.fromkeys(SUBSETS, 1.0), "hep-go": 0.0}, 20)
    reasoning = line_of(compare1(a, b).lines, "Reasoning")
    assert reasoning.ci95 == pytest.approx((164 / 1968, 164 / 1968))
    assert reasoning.verdict == "more than noise"


def test_one_pair_of_a_small_subset_does_not_cost_a_section_its_interval() -> None:
    a, b = pairs_of({"hep-cpp": 0.5, "hep-go": 1.0}), pairs_of({"hep-cpp": 1.0, "hep-go": 0.5})
    assert compare1([*a[:1], *a[10:]], [*b[:1], *b[10:]]).lines[0].ci95 is not None
    assert compare1(a[:1], b[:1]).lines[0].ci95 is None


def test_a_missing_section_leaves_no_overall_and_draws_of_a_judge_earn_half_for_the_judge_alone() -> None:
    draw = [row(str(number), 1.0, 1.0, subset="HEP-go") for number in range(4)]
    result = compare1(draw, draw, generative_b=True)
    assert result.overall is None
    assert result.reason == "Overall needs all four sections, but Chat, Chat Hard, Safety cannot be compared."
    assert (result.lines[0].score_a, result.lines[0].score_b) == pytest.approx((0.0, 0.5))
    assert compare1(draw, draw, generative_a=True).lines[0].difference == pytest.approx(0.5)
    assert result.flips[0].subset == "hep-go"
