"""Score files: what a row may hold, what is said of a broken one, and the results that follow without a model."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.records import ScoredRow
from evalhooks.rewardbench.saved_scores import read_credits, read_prior_sets, read_scores1, read_scores2, result1, result2
from evalhooks.rewardbench.v1 import COUNTS
from evalhooks.rewardbench.v2 import DOMAINS

ROW2: dict[str, Any] = {"id": "7", "subset": "Math", "num_correct": 1, "total_completions": 4, "scores": [2.0, 0.5, -1, 0.1]}
ROW1: dict[str, Any] = {"id": "31", "subset": "math-prm", "chosen": 1.5, "rejected": -2}
SUBSETS = [subset for section in COUNTS.values() for subset in section]


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


def test_rows_are_read_in_order_with_or_without_their_number_of_completions(tmp_path: Path) -> None:
    file = lines(tmp_path / "s.jsonl", [ROW2, without(ROW2, "total_completions") | {"id": 8, "model": "m"}, ROW2])
    row = ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 0.5, -1.0, 0.1))
    assert read_scores2(file) == [row, ScoredRow(id="8", subset="Math", num_correct=1, scores=row.scores), row]
    assert all(type(score) is float for score in read_scores2(file)[0].scores)
    assert read_scores2(str(file)) == read_scores2(file)


def test_scores_that_are_not_finite_come_as_text_as_bare_tokens_or_as_null(tmp_path: Path) -> None:
    text = '{"id": "7", "subset": "Math", "num_correct": 1, "scores": ["NaN", NaN, null, "Infinity", Infinity, "-Infinity", -Infinity]}\n'
    (tmp_path / "s.jsonl").write_text(text)
    scores = read_scores2(tmp_path / "s.jsonl")[0].scores
    assert [math.isnan(score) for score in scores] == [True] * 3 + [False] * 4
    assert scores[3:] == (math.inf, math.inf, -math.inf, -math.inf)
    (tmp_path / "p.jsonl").write_text('{"subset": "hep-go", "chosen": "Infinity", "rejected": null}\n')
    (pair,) = read_scores1(tmp_path / "p.jsonl")
    assert pair.scores[0] == math.inf
    assert math.isnan(pair.scores[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [[1.0], [2.0]]}, r"s.jsonl, row 2: score 0 is the list \[1.0\]; a reward model has one output"),
        ({"scores": [1.0, True]}, r"s.jsonl, row 2: score 1 is True; give a number"),
        ({"scores": [1.0, "2.0"]}, r"s.jsonl, row 2: score 1 is '2.0'; give a number, or \"NaN\""),
        ({"scores": [1.0, 10**400]}, r"s.jsonl, row 2: score 1 is an integer beyond the range"),
        ({"scores": []}, r"s.jsonl, row 2: 'scores' is missing or not a list with one score per completion: \[\]"),
        ({"scores": 2.0}, r"s.jsonl, row 2: 'scores' is missing or not a list with one score per completion: 2.0"),
        ({"scores": None}, r"s.jsonl, row 2: 'scores' is missing"),
        ({"num_correct": 5}, r"s.jsonl, row 2: 'num_correct' is 5, but there are only 4 scores"),
        ({"num_correct": -1}, r"s.jsonl, row 2: 'num_correct' is missing or not a non-negative integer: -1"),
        ({"num_correct": 1.0}, r"s.jsonl, row 2: 'num_correct' is missing or not a non-negative integer: 1.0"),
        ({"num_correct": True}, r"s.jsonl, row 2: 'num_correct' is missing or not a non-negative integer: True"),
        ({"num_correct": None}, r"s.jsonl, row 2: 'num_correct' is missing"),
        ({"total_completions": 3}, r"s.jsonl, row 2: 'total_completions' is 3, but there are 4 scores; score every completion once"),
        ({"total_completions": "4"}, r"s.jsonl, row 2: 'total_completions' is missing or not a non-negative integer: '4'"),
        ({"id": None}, r"s.jsonl, row 2: 'id' is missing or neither a string nor an integer: None"),
        ({"id": True}, r"s.jsonl, row 2: 'id' is missing or neither a string nor an integer: True"),
        ({"subset": ""}, r"s.jsonl, row 2: 'subset' is missing or not a string: ''; name the row's domain"),
        ({"subset": 3}, r"s.jsonl, row 2: 'subset' is missing or not a string: 3"),
    ],
)
def test_a_broken_row_is_named_by_file_row_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores2(lines(tmp_path / "s.jsonl", [ROW2, ROW2 | change]))


@pytest.mark.parametrize(("read", "row"), [(read_scores2, ROW2), (read_scores1, ROW1)])
@pytest.mark.parametrize("key", ["id", "subset"])
def test_half_a_character_is_refused_by_its_row(tmp_path: Path, read: Any, row: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=r"s.jsonl, row 2 holds '\\ud800', half of a character"):
        read(lines(tmp_path / "s.jsonl", [row, row | {key: "a\ud800"}]))


@pytest.mark.parametrize("key", ["id", "subset", "num_correct", "scores"])
def test_a_missing_field_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=rf"s.jsonl, row 1: '{key}' is missing"):
        read_scores2(lines(tmp_path / "s.jsonl", [without(ROW2, key)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_correct": 0}, "it has no correct completion (num_correct is 0)"),
        ({"num_correct": 4}, "it has no incorrect completion (4 in all, 4 correct), so every reward would be right"),
        ({"scores": [1.0], "num_correct": 1}, "it has no incorrect completion (1 in all, 1 correct)"),
    ],
)
def test_a_row_that_tells_no_reward_from_another_is_refused_but_in_ties_which_names_its_rows_itself(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed = without(ROW2, "total_completions") | change
    with pytest.raises(ValueError, match=rf"s.jsonl, row 2: {re.escape(message)}"):
        read_scores2(lines(tmp_path / "s.jsonl", [ROW2, changed]))
    (row,) = read_scores2(lines(tmp_path / "t.jsonl", [changed | {"subset": "TIES", "id": "tied:3"}]))
    (refusal,) = [refusal for refusal in result2([row])["refusals"] if "correct completion" in refusal]
    assert refusal.endswith("completion: tied:3.")


@pytest.mark.parametrize("read", [read_scores2, read_scores1])
def test_files_without_rows_of_no_json_of_no_objects_or_that_are_not_there_are_refused(tmp_path: Path, read: Any) -> None:
    with pytest.raises(ValueError, match=r"empty.jsonl contains no rows; give one scored row per line"):
        read(lines(tmp_path / "empty.jsonl", []))
    with pytest.raises(ValueError, match=r"rows.jsonl, row 1 is not a JSON object"):
        read(lines(tmp_path / "rows.jsonl", [[1.0, 2.0]]))
    (tmp_path / "torn.jsonl").write_text(json.dumps(ROW2 | ROW1) + '\n{"id": "8", "sco')
    with pytest.raises(ValueError, match=r"torn.jsonl, row 2 is no JSON"):
        read(tmp_path / "torn.jsonl")
    for place in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(ValueError, match=rf"{place.name} is not a file; check its name"):
            read(place)


def test_pairs_are_read_with_the_chosen_score_first_and_numbered_where_they_have_no_id(tmp_path: Path) -> None:
    file = lines(tmp_path / "p.jsonl", [ROW1, without(ROW1, "id"), ROW1 | {"id": None}])
    assert read_scores1(file) == [ScoredRow(id=id_, subset="math-prm", num_correct=1, scores=(1.5, -2.0)) for id_ in ("31", "2", "3")]


def test_pairs_may_come_in_the_form_of_a_run(tmp_path: Path) -> None:
    pair = {"id": "31", "subset": "math-prm", "num_correct": 1, "scores": [1.5, -2.0]}
    file = lines(tmp_path / "p.jsonl", [ROW1, pair])
    first, second = read_scores1(file)
    assert first == second


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without(ROW1, "chosen"), r"p.jsonl, row 2: 'chosen' is missing; give the score of the chosen completion"),
        (without(ROW1, "rejected"), r"p.jsonl, row 2: 'rejected' is missing"),
        (without(ROW1, "subset"), r"p.jsonl, row 2: 'subset' is missing"),
        (ROW1 | {"chosen": [1.5]}, r"p.jsonl, row 2: 'chosen' is the list \[1.5\]; a reward model has one output"),
        (ROW1 | {"rejected": False}, r"p.jsonl, row 2: 'rejected' is False; give a number"),
        (ROW1 | {"rejected": "high"}, r"p.jsonl, row 2: 'rejected' is 'high'; give a number"),
        (ROW1 | {"id": 1.5}, r"p.jsonl, row 2: 'id' is missing or neither a string nor an integer: 1.5"),
    ],
)
def test_a_broken_pair_is_named_by_file_row_and_field(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scores1(lines(tmp_path / "p.jsonl", [ROW1, row]))


def test_credits_that_a_table_does_not_state_are_none(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([without(ROW2, "total_completions")] * 2), tmp_path / "rows.parquet")
    assert read_credits(tmp_path / "rows.parquet") == [None, None]
    assert len(read_scores2(tmp_path / "rows.parquet")) == 2


def test_prior_sets_are_read_by_name_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text('{"shp": 0.61, "anthropic_helpful": 1}')
    assert read_prior_sets(tmp_path / "prior.json") == {"shp": 0.61, "anthropic_helpful": 1.0}
    (tmp_path / "none.json").write_text("{}")
    assert read_prior_sets(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hhh": 0.5}', r"prior.json: the prior set 'hhh' is unknown; the names are anthropic_helpful, anthropic_hhh, shp, summarize"),
        ('{"shp": 61.0}', r"prior.json: shp is 61.0; give a fraction from 0 to 1 \(points divided by 100\)"),
        ('{"shp": -0.1}', r"prior.json: shp is -0.1; give a fraction"),
        ('{"shp": NaN}', r"prior.json: shp is nan; give a fraction"),
        ('{"shp": true}', r"prior.json: shp is True; give a fraction"),
        ('{"shp": "0.5"}', r"prior.json: shp is '0.5'; give a fraction"),
        ("[0.5]", r"prior.json holds no JSON object"),
        ("{", r"prior.json is no JSON \("),
    ],
)
def test_broken_prior_sets_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prior.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prior_sets(tmp_path / "prior.json")


def row(subset: str, *scores: float, id: str = "0", num_correct: int = 1) -> ScoredRow:
    return ScoredRow(id=id, subset=subset, num_correct=num_correct, scores=scores)


def test_the_result_of_all_six_domains_is_complete_and_fit_for_json(tmp_path: Path) -> None:
    rows = [row("TIES", 5.0, 4.0, 1.0, id="tied:1", num_correct=2), row("Ties", 3.0, 1.5, id="ref:1")]
    for subset in DOMAINS.values():
        if subset != "Ties":
            rows += [row(subset, 1.0, 1.0, 0.0, 0.0), row(subset, 2.0, 1.0, 0.0, 0.0), row(subset, math.nan, 1.0)]
    result = result2(rows)
    # Credits 1/2, 1 and 0. Ties: both accurate, spread 1, margins 3 and 1.5: P = H = 1 and M = tanh(1.5 - 1).
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(0.5)
    assert list(result["per_subset"]) == list(DOMAINS.values())
    assert result["per_subset"]["Focus"] == pytest.approx(0.5)
    assert result["per_subset"]["Ties"] == pytest.approx(ties)
    assert result["overall"] == pytest.approx((5 * 0.5 + ties) / 6)
    assert (result["reason"], result["refusals"]) == ("", [])
    assert result["ties"] is not None
    assert result["ties"]["margin"] == pytest.approx(math.tanh(0.5))
    assert result["ties"]["num_pairs"] == 1
    assert set(result["standard_errors"]) == {*DOMAINS.values(), "overall"}
    # The standard deviation of 1/2, 1 and 0 is 1/2 (of a sample), that of their mean sqrt(1/12).
    assert result["standard_errors"]["Math"] == pytest.approx(math.sqrt(1 / 12), rel=0.1)
    assert result["row_results"] == [None, None] + [0.5, 1.0, 0.0] * 5
    write_json(tmp_path / "result.json", result)
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_what_is_missing_or_refused_is_said_in_the_result() -> None:
    result = result2([row("Math", 1.0, 0.0), row("Ties", 1.0, math.nan, id="ref:1")])
    assert result["per_subset"] == {"Math": 1.0}
    assert result["overall"] is None
    assert "Factuality has no rows" in result["reason"]
    assert any("a NaN score" in refusal and "ref:1" in refusal for refusal in result["refusals"])
    assert result["ties"] is None
    assert result["row_results"] == [1.0, None]


def pairs(accuracy: int) -> list[ScoredRow]:
    """Two pairs of each subset, of which `accuracy` are ranked rightly."""
    return [row(subset, float(index < accuracy), 0.5, id=str(index)) for subset in SUBSETS for index in range(2)]


def test_the_result_of_rewardbench_1_has_all_sections_and_takes_prior_sets_as_numbers() -> None:
    result = result1(pairs(1), {"shp": 0.9, "summarize": 0.6})
    assert result["sections"] == {"Chat": 0.5, "Chat Hard": 0.5, "Safety": 0.5, "Reasoning": 0.5}
    assert result["prior_sets"] == pytest.approx(0.75)  # a plain mean of those given
    assert result["overall"] == pytest.approx((2 * 4 * 0.5 + 0.75) / 9)
    assert (result["reason"], result["missing_subsets"]) == ("", [])
    assert set(result["per_subset"]) == set(SUBSETS)
    assert result["row_results"] == [1.0, 0.0] * len(SUBSETS)


def test_without_prior_sets_overall_is_the_plain_mean_and_missing_sections_are_null(tmp_path: Path) -> None:
    result = result1(pairs(2), {})
    assert (result["prior_sets"], result["overall"]) == (None, 1.0)
    some = result1([row("hep-go", 1.0, 0.0)], {"shp": 0.5})
    assert some["sections"] == {"Chat": None, "Chat Hard": None, "Safety": None, "Reasoning": 1.0}
    assert (some["prior_sets"], some["overall"]) == (0.5, None)
    assert "Chat, Chat Hard, Safety" in some["reason"]
    assert len(some["missing_subsets"]) == len(SUBSETS) - 1
    write_json(tmp_path / "result.json", some)


def test_prior_sets_may_come_as_rows_and_as_numbers_but_not_one_of_them_as_both() -> None:
    rows = [*pairs(2), row("shp", 0.0, 1.0), row("SHP", 1.0, 0.0)]
    assert result1(rows, {"summarize": 0.7})["prior_sets"] == pytest.approx((0.5 + 0.7) / 2)
    with pytest.raises(ValueError, match=r"prior set shp is given both as a number and as rows"):
        result1(rows, {"shp": 0.5})
    with pytest.raises(ValueError, match=r"prior set 'hhh' is unknown"):
        result1(rows, {"hhh": 0.5})
    with pytest.raises(ValueError, match=r"prior set summarize is 70; give a fraction from 0 to 1"):
        result1(rows, {"summarize": 70})


def test_draws_of_a_judge_earn_half() -> None:
    draw = [row("hep-go", 1.0, 1.0), row("hep-go", math.nan, 1.0), row("hep-go", 2.0, 1.0)]
    assert result1(draw, {})["not_finite"] == {"hep-go": ["0"]}
    assert result1(draw, {}, generative=True)["not_finite"] == {}
    assert result1(draw, {})["row_results"] == [0.0, 0.0, 1.0]
    assert result1(draw, {}, generative=True)["row_results"] == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_model_that_gives_nothing_finite_has_no_result(value: float) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 rows has finite scores, so there is nothing to report; look for broken weights"):
        result2([row("Math", value, 1.0), row("Focus", 1.0, value)])
    with pytest.raises(ValueError, match=r"none of the 1 rows has finite scores"):
        result1([row("hep-go", value, 1.0)], {})
