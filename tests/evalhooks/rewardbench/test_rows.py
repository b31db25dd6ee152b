"""Benchmarks: both schemas, wherever they are stored, what is wrong with a broken one, a fair share of each domain, and the scoring."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from core.records import BenchmarkRow, CompletionScore, Dialogue, ScoredRow, user
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.rows import (
    HUB1,
    HUB2,
    ScoredBenchmark,
    load_rewardbench1,
    load_rewardbench2,
    sample_rows,
    score_rows,
    write_rows,
)
from evalhooks.rewardbench.saved_scores import read_credits, read_scores2
from tests.fakes import LengthScorer

ROW2: dict[str, Any] = {"id": "7", "prompt": "2 + 2?", "chosen": ["4"], "rejected": ["5", "22", "0"], "subset": "Math"}
TIED: dict[str, Any] = {"id": "tied:0", "prompt": "A fruit?", "chosen": ["fig", "pear"], "rejected": ["saw"], "subset": "Ties"}
ROW1: dict[str, Any] = {"id": 31, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math-prm"}


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def parquet(path: Path, rows: Sequence[Any]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_rows_of_rewardbench_2_are_read_with_the_correct_completions_first(tmp_path: Path, write: Any) -> None:
    extra = {"models": ["m"], "additional_metadata": None}
    counts = [
        {"num_correct": 1, "num_incorrect": 3, "total_completions": 4},
        {"num_correct": 2, "num_incorrect": 1, "total_completions": None},
    ]
    path = write(tmp_path / f"rb2.{write.__name__}", [ROW2 | extra | counts[0], TIED | extra | counts[1]])
    assert load_rewardbench2(path) == [
        BenchmarkRow(id="7", prompt="2 + 2?", completions=("4", "5", "22", "0"), num_correct=1, subset="Math"),
        BenchmarkRow(id="tied:0", prompt="A fruit?", completions=("fig", "pear", "saw"), num_correct=2, subset="Ties"),
    ]


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_rows_of_rewardbench_1_are_pairs(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / f"rb1.{write.__name__}", [ROW1])
    assert load_rewardbench1(path) == [BenchmarkRow(id="31", prompt="2 + 2?", completions=("4", "5"), num_correct=1, subset="math-prm")]


def test_a_pair_without_an_id_is_called_by_its_number(tmp_path: Path) -> None:
    rows = [{key: value for key, value in ROW1.items() if key != "id"}] * 2
    assert [row.id for row in load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", rows))] == ["1", "2"]


def test_a_pair_whose_id_is_null_is_called_by_its_number_too(tmp_path: Path) -> None:
    assert [row.id for row in load_rewardbench1(parquet(tmp_path / "rb1.parquet", [ROW1, ROW1 | {"id": None}]))] == ["31", "2"]


def test_a_text_may_hold_separators_that_other_readers_take_for_line_ends(tmp_path: Path) -> None:
    row = ROW2 | {"prompt": "a\u2028b\u2029c\x85d"}
    assert load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [row, ROW2]))[0].prompt == "a\u2028b\u2029c\x85d"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, r"rb2.jsonl, row 2: 'prompt' is missing or of the wrong type \(NoneType\)"),
        ({"id": 1.5}, r"rb2.jsonl, row 2: 'id' is missing or of the wrong type \(float\)"),
        ({"id": True}, r"rb2.jsonl, row 2: 'id' is missing or of the wrong type \(bool\)"),
        ({"chosen": "4"}, r"rb2.jsonl, row 2: 'chosen' is missing or of the wrong type \(str\)"),
        ({"rejected": {"0": "5"}}, r"rb2.jsonl, row 2: 'rejected' is missing or of the wrong type \(dict\)"),
        ({"subset": 3}, r"rb2.jsonl, row 2: 'subset' is missing or of the wrong type \(int\)"),
        ({"chosen": []}, r"rb2.jsonl, row 2: chosen and rejected must be lists of strings, and chosen must not be empty"),
        ({"rejected": ["5", None]}, r"rb2.jsonl, row 2: chosen and rejected must be lists of strings"),
        ({"num_correct": 2}, r"rb2.jsonl, row 2: 'num_correct' is 2, but there are 1 chosen and 3 rejected completions"),
        ({"num_incorrect": 4}, r"rb2.jsonl, row 2: 'num_incorrect' is 4, but there are 1 chosen and 3 rejected"),
        ({"total_completions": 3}, r"rb2.jsonl, row 2: 'total_completions' is 3, but there are 1 chosen and 3 rejected"),
    ],
)
def test_a_broken_row_of_rewardbench_2_is_named_by_file_row_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [ROW2, ROW2 | change]))


@pytest.mark.parametrize(("key", "text"), [("id", "a\ud800"), ("prompt", "a\udfff?"), ("rejected", ["5\udc00"])])
def test_half_a_character_is_refused_by_its_row(tmp_path: Path, key: str, text: object) -> None:
    (tmp_path / "rb2.jsonl").write_text(json.dumps(ROW2) + "\n" + json.dumps(ROW2 | {key: text}) + "\n")
    with pytest.raises(ValueError, match=r"rb2.jsonl, row 2 holds '\\ud[8fc][0f][0f]', half of a character"):
        load_rewardbench2(str(tmp_path / "rb2.jsonl"))


@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected", "subset"])
def test_a_missing_field_of_rewardbench_1_is_named(tmp_path: Path, key: str) -> None:
    broken = {name: value for name, value in ROW1.items() if name != key}
    with pytest.raises(ValueError, match=rf"rb1.jsonl, row 2: '{key}' is missing"):
        load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", [ROW1, broken]))


@pytest.mark.parametrize("name", [[[]], 1.5, {"a": 1}])
def test_an_id_of_rewardbench_1_that_is_no_name_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match=r"rb1.jsonl, row 2: 'id' is missing or of the wrong type"):
        load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", [ROW1, {**ROW1, "id": name}]))


def test_broken_json_a_row_that_is_no_object_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text(json.dumps(ROW2) + '\n{"id": "8", "pro')
    with pytest.raises(ValueError, match=r"torn.jsonl, row 2 is no JSON"):
        load_rewardbench2(str(tmp_path / "torn.jsonl"))
    with pytest.raises(ValueError, match=r"rows.jsonl, row 1 is not a JSON object"):
        load_rewardbench2(jsonl(tmp_path / "rows.jsonl", [["id"]]))
    with pytest.raises(
        ValueError, match=r"missing.jsonl does not exist; give a JSONL or parquet file, a folder .* or a hub dataset such as org/name"
    ):
        load_rewardbench2(str(tmp_path / "missing.jsonl"))


def test_a_folder_of_parquet_files_is_read_by_name_and_of_several_splits_only_the_benchmarks(tmp_path: Path) -> None:
    parts = {"b.parquet": "2", "a.parquet": "1"}
    (tmp_path / "parts").mkdir()
    for name, id_ in parts.items():
        parquet(tmp_path / "parts" / name, [ROW2 | {"id": id_}])
    assert [row.id for row in load_rewardbench2(str(tmp_path / "parts"))] == ["1", "2"]

    # As a dataset's repository is laid out: splits side by side in data/.
    data = tmp_path / "repository" / "data"
    data.mkdir(parents=True)
    for name in ("filtered-00001-of-00002", "raw-00000-of-00001", "filtered-00000-of-00002", "filtered_more-00000-of-00001"):
        parquet(data / f"{name}.parquet", [ROW1 | {"id": name}])
    pairs = load_rewardbench1(str(tmp_path / "repository"))
    assert [pair.id for pair in pairs] == ["filtered-00000-of-00002", "filtered-00001-of-00002"]


def test_a_row_of_a_folder_is_numbered_through_all_its_files(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", [ROW2, ROW2])
    parquet(tmp_path / "b.parquet", [ROW2 | {"chosen": []}])
    with pytest.raises(ValueError, match=r"row 3: chosen and rejected must be lists of strings"):
        load_rewardbench2(str(tmp_path))


def test_saved_datasets_are_read_and_of_several_splits_the_benchmarks_or_the_only_one(tmp_path: Path) -> None:
    def saved(name: str, **splits: list[Any]) -> str:
        DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(tmp_path / name)
        return str(tmp_path / name)

    Dataset.from_list([ROW2, TIED]).save_to_disk(tmp_path / "plain")
    assert [row.completions for row in load_rewardbench2(str(tmp_path / "plain"))] == [("4", "5", "22", "0"), ("fig", "pear", "saw")]
    assert [row.id for row in load_rewardbench2(saved("two", train=[ROW2], test=[TIED]))] == ["tied:0"]
    assert [row.id for row in load_rewardbench2(saved("one", train=[ROW2]))] == ["7"]
    assert [row.id for row in load_rewardbench1(saved("pairs", raw=[ROW1], filtered=[ROW1 | {"id": 32}]))] == ["32"]
    with pytest.raises(ValueError, match=r"neither has no split 'test' but raw, train; save the one you mean alone"):
        load_rewardbench2(saved("neither", raw=[ROW2], train=[ROW2]))


def test_a_torn_saved_dataset_and_a_folder_without_a_benchmark_are_refused_by_name(tmp_path: Path) -> None:
    Dataset.from_list([ROW2]).save_to_disk(tmp_path / "torn")
    next((tmp_path / "torn").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"torn is a saved dataset that cannot be read .*; save it again"):
        load_rewardbench2(str(tmp_path / "torn"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"bare is a folder without parquet files and without a saved dataset"):
        load_rewardbench2(str(tmp_path / "bare"))
    with pytest.raises(ValueError, match=r"none.parquet contains no rows"):
        load_rewardbench2(parquet(tmp_path / "none.parquet", []))


def test_a_hub_dataset_is_asked_for_by_name_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def hub(name: str, *, split: str, revision: str | None) -> list[Any]:
        asked.append((name, split, revision))
        if name == "org/none":
            raise DatasetNotFoundError("there is no org/none")
        return [ROW1 if split == "filtered" else ROW2]

    monkeypatch.setattr("datasets.load_dataset", hub)
    monkeypatch.setattr("core.data.rows.require_hub", lambda what: None)
    assert [row.id for row in load_rewardbench2(HUB2)] == ["7"]
    assert [row.id for row in load_rewardbench1(f"{HUB1}@v1.0")] == ["31"]
    assert asked == [("allenai/reward-bench-2", "test", None), ("allenai/reward-bench", "filtered", "v1.0")]
    with pytest.raises(ValueError, match=r"the benchmark org/none@abc could not be loaded from the hub .there is no org/none."):
        load_rewardbench2("org/none@abc")
    with pytest.raises(ValueError, match=r"data/rb2.jsonl does not exist"):
        load_rewardbench2("data/rb2.jsonl")
    assert len(asked) == 3, "what is named like a file is not looked for on the hub"


def benchmark(*, num_rows: int, num_pairs: int) -> list[BenchmarkRow]:
    """Two domains of different size and Ties, shuffled; the same id stands in both domains."""
    sizes = {"Math": num_rows, "Focus": 2 * num_rows}
    ids = [(domain, str(number)) for domain, size in sizes.items() for number in range(size)]
    ids += [("Ties", f"{kind}:{number}") for kind in ("ref", "tied") for number in range(num_pairs)]
    random.Random(0).shuffle(ids)
    return [BenchmarkRow(id=id_, prompt=id_, completions=("a", "b"), num_correct=1, subset=subset) for subset, id_ in ids]


@pytest.mark.parametrize("seed", range(5))
def test_a_limit_takes_that_share_of_each_domain_and_keeps_pairs_of_ties_together(seed: int) -> None:
    rows = benchmark(num_rows=20, num_pairs=12)
    kept = sample_rows(rows, 0.25, seed)
    assert Counter(row.subset for row in kept) == {"Math": 5, "Focus": 10, "Ties": 6}  # 3 of 12 pairs, 2 prompts each
    numbers = Counter(row.id.split(":")[1] for row in kept if row.subset == "Ties")
    assert set(numbers.values()) == {2}
    assert [row for row in rows if row in kept] == kept, "the order of the file stays"


def test_the_sample_is_a_function_of_the_seed_and_no_domain_is_lost() -> None:
    rows = benchmark(num_rows=20, num_pairs=12)
    assert sample_rows(rows, 0.25, 3) == sample_rows(rows, 0.25, 3)
    assert len({tuple(row.id for row in sample_rows(rows, 0.25, seed)) for seed in range(4)}) == 4
    assert Counter(row.subset for row in sample_rows(rows, 0.001, 0)) == {"Math": 1, "Focus": 1, "Ties": 2}
    assert sample_rows(rows, 1.0, 0) == rows


@pytest.mark.parametrize("limit", [0.0, -0.5, 1.5, float("nan")])
def test_a_limit_that_is_no_share_is_refused(tmp_path: Path, limit: float) -> None:
    with pytest.raises(ValueError, match=rf"limit\) is {limit}; give a number above 0 and at most 1"):
        load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [ROW2]), limit=limit)
    with pytest.raises(ValueError, match=rf"limit\) is {limit}"):
        load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", [ROW1]), limit=limit)


def test_the_limit_holds_for_files_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rb2.jsonl", [ROW2 | {"id": str(number)} for number in range(10)])
    assert len(load_rewardbench2(path, limit=0.3)) == 3
    path = jsonl(tmp_path / "rb1.jsonl", [ROW1 | {"id": number} for number in range(10)])
    assert len(load_rewardbench1(path, limit=0.3)) == 3


class CountingScorer(LengthScorer):
    """A LengthScorer that reads one token per character of the completion, at most three."""

    def score_detailed(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[CompletionScore]]:
        scores = self.score(prompts, completions)
        return [[CompletionScore(reward=-x, num_tokens=min(int(x), 3), truncated=x > 3) for x in row] for row in scores]


def rows_to_score(tmp_path: Path) -> list[BenchmarkRow]:
    return load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [ROW2, TIED, ROW2 | {"chosen": ["44"]}]))


def test_rows_are_scored_completion_by_completion_and_written_with_their_credit(tmp_path: Path) -> None:
    scorer = LengthScorer()
    scored = score_rows(rows_to_score(tmp_path), scorer)
    # LengthScorer gives each completion its number of characters.
    assert scored == ScoredBenchmark(
        rows=(
            ScoredRow(id="7", subset="Math", num_correct=1, scores=(1.0, 1.0, 2.0, 1.0)),
            ScoredRow(id="tied:0", subset="Ties", num_correct=2, scores=(3.0, 4.0, 3.0)),
            ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 1.0, 2.0, 1.0)),
        ),
        details=(None, None, None),
    )
    assert scored.num_truncated == 0
    assert scorer.calls == [([user("2 + 2?"), user("A fruit?"), user("2 + 2?")], [row.completions for row in rows_to_score(tmp_path)])]
    write_rows(tmp_path / "evals" / "step.parquet", scored, v2.scores(scored.rows).row_results)
    unmeasured = {"num_tokens": None, "truncated": None}
    assert pq.read_table(tmp_path / "evals" / "step.parquet").to_pylist() == [
        # "22" is longest in the first row; it ties with the correct "44" in the last: half a credit; Ties has none of its own.
        {"id": "7", "subset": "Math", "num_correct": 1, "scores": [1.0, 1.0, 2.0, 1.0], "credit": 0.0} | unmeasured,
        {"id": "tied:0", "subset": "Ties", "num_correct": 2, "scores": [3.0, 4.0, 3.0], "credit": None} | unmeasured,
        {"id": "7", "subset": "Math", "num_correct": 1, "scores": [2.0, 1.0, 2.0, 1.0], "credit": 0.5} | unmeasured,
    ]
    assert [path.name for path in (tmp_path / "evals").iterdir()] == ["step.parquet"]


def test_the_columns_have_the_same_types_whatever_the_rows_hold(tmp_path: Path) -> None:
    types = {"id": "string", "subset": "string", "num_correct": "int64", "scores": "list<element: double>", "credit": "double"}
    types |= {"num_tokens": "list<element: int64>", "truncated": "list<element: bool>"}
    for name, rows in {"none": [], "ties": [row for row in rows_to_score(tmp_path) if row.subset == "Ties"]}.items():
        scored = score_rows(rows, LengthScorer())
        write_rows(tmp_path / f"{name}.parquet", scored, [None] * len(rows))
        assert {field.name: str(field.type) for field in pq.read_schema(tmp_path / f"{name}.parquet")} == types


def test_a_scorer_that_measures_is_asked_once_and_its_tokens_are_written(tmp_path: Path) -> None:
    scorer = CountingScorer()
    scored = score_rows(rows_to_score(tmp_path), scorer)
    assert len(scorer.calls) == 1
    assert scored.rows[1].scores == (-3.0, -4.0, -3.0)
    assert scored.num_truncated == 1  # "pear" alone has more than three characters
    write_rows(tmp_path / "rows.parquet", scored, v2.scores(scored.rows).row_results)
    table = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["num_tokens"] for row in table] == [[1, 1, 2, 1], [3, 3, 3], [2, 1, 2, 1]]
    assert [row["truncated"] for row in table] == [[False] * 4, [False, True, False], [False] * 4]


def test_ties_go_to_a_scorer_of_their_own_and_every_row_stays_in_its_place(tmp_path: Path) -> None:
    rows, judge, rater = rows_to_score(tmp_path), LengthScorer(), CountingScorer()
    scored = score_rows(rows, judge, ties_scorer=rater)
    assert [prompts for prompts, _ in judge.calls] == [[user("2 + 2?"), user("2 + 2?")]]
    assert [prompts for prompts, _ in rater.calls] == [[user("A fruit?")]]
    assert [row.scores for row in scored.rows] == [(1.0, 1.0, 2.0, 1.0), (-3.0, -4.0, -3.0), (2.0, 1.0, 2.0, 1.0)]
    assert [row.id for row in scored.rows] == [row.id for row in rows]
    assert [measured is None for measured in scored.details] == [True, False, True]


def test_a_scorer_without_rows_of_its_own_is_not_asked(tmp_path: Path) -> None:
    judge, rater = LengthScorer(), LengthScorer()
    ties = [row for row in rows_to_score(tmp_path) if row.subset == "Ties"]
    assert score_rows(ties, judge, ties_scorer=rater).rows == score_rows(ties, LengthScorer()).rows
    assert (len(judge.calls), len(rater.calls)) == (0, 1)


def test_the_credits_of_pairs_are_those_of_rewardbench_1_and_all_of_it_is_read_back(tmp_path: Path) -> None:
    tie = ROW1 | {"id": 32, "chosen": "4", "rejected": "5"}
    scored = score_rows(load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", [ROW1 | {"chosen": "44"}, tie])), LengthScorer())
    write_rows(tmp_path / "rows.parquet", scored, v1.scores(scored.rows).row_results)
    assert read_credits(tmp_path / "rows.parquet") == [1.0, 0.0]  # RewardBench 2 would give half for the tie
    assert read_scores2(tmp_path / "rows.parquet") == list(scored.rows)
