"""Benchmark files: both schemas, both formats, what is wrong with a broken one, and a fair share of each domain."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.records import BenchmarkRow, ScoredRow, user
from evalhooks.benchmark import load_rewardbench1, load_rewardbench2, sample_rows, score_rows, write_rows
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
    extra = {"num_correct": 1, "models": ["m"], "additional_metadata": None}
    path = write(tmp_path / f"rb2.{write.__name__}", [ROW2 | extra, TIED | extra])
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


def test_a_text_may_hold_separators_that_other_readers_take_for_line_ends(tmp_path: Path) -> None:
    row = ROW2 | {"prompt": "a\u2028b\u2029c\x85d"}
    assert load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [row, ROW2]))[0].prompt == "a\u2028b\u2029c\x85d"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, r"rb2.jsonl, row 2: 'prompt' is missing or of the wrong type \(NoneType\)"),
        ({"id": 1.5}, r"rb2.jsonl, row 2: 'id' is missing or of the wrong type \(float\)"),
        ({"chosen": "4"}, r"rb2.jsonl, row 2: 'chosen' is missing or of the wrong type \(str\)"),
        ({"rejected": {"0": "5"}}, r"rb2.jsonl, row 2: 'rejected' is missing or of the wrong type \(dict\)"),
        ({"subset": 3}, r"rb2.jsonl, row 2: 'subset' is missing or of the wrong type \(int\)"),
        ({"chosen": []}, r"rb2.jsonl, row 2: chosen and rejected must be lists of text, chosen not empty"),
        ({"rejected": ["5", None]}, r"rb2.jsonl, row 2: chosen and rejected must be lists of text"),
    ],
)
def test_a_broken_row_of_rewardbench_2_is_named_by_file_row_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [ROW2, ROW2 | change]))


@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected", "subset"])
def test_a_missing_field_of_rewardbench_1_is_named(tmp_path: Path, key: str) -> None:
    broken = {name: value for name, value in ROW1.items() if name != key}
    with pytest.raises(ValueError, match=rf"rb1.jsonl, row 2: '{key}' is missing"):
        load_rewardbench1(jsonl(tmp_path / "rb1.jsonl", [ROW1, broken]))


def test_broken_json_a_row_that_is_no_object_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text(json.dumps(ROW2) + '\n{"id": "8", "pro')
    with pytest.raises(ValueError, match=r"torn.jsonl, row 2 is no JSON"):
        load_rewardbench2(str(tmp_path / "torn.jsonl"))
    with pytest.raises(ValueError, match=r"rows.jsonl, row 1 is no JSON object"):
        load_rewardbench2(jsonl(tmp_path / "rows.jsonl", [["id"]]))
    with pytest.raises(ValueError, match=r"missing.jsonl does not exist; give a JSONL or parquet file, or allenai/reward-bench-2"):
        load_rewardbench2(str(tmp_path / "missing.jsonl"))


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


def test_the_limit_holds_for_files_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rb2.jsonl", [ROW2 | {"id": str(number)} for number in range(10)])
    assert len(load_rewardbench2(path, limit=0.3)) == 3
    path = jsonl(tmp_path / "rb1.jsonl", [ROW1 | {"id": number} for number in range(10)])
    assert len(load_rewardbench1(path, limit=0.3)) == 3


def test_rows_are_scored_completion_by_completion_and_written_with_their_credit(tmp_path: Path) -> None:
    rows = load_rewardbench2(jsonl(tmp_path / "rb2.jsonl", [ROW2, ROW2 | {"chosen": ["44"]}, TIED]))
    scorer = LengthScorer()
    scored = score_rows(rows, scorer)
    # LengthScorer gives each completion its number of characters.
    assert scored == [
        ScoredRow(id="7", subset="Math", num_correct=1, scores=(1.0, 1.0, 2.0, 1.0)),
        ScoredRow(id="7", subset="Math", num_correct=1, scores=(2.0, 1.0, 2.0, 1.0)),
        ScoredRow(id="tied:0", subset="Ties", num_correct=2, scores=(3.0, 4.0, 3.0)),
    ]
    assert [prompt for prompts, _ in scorer.calls for prompt in prompts] == [user("2 + 2?"), user("2 + 2?"), user("A fruit?")]
    write_rows(tmp_path / "evals" / "step.parquet", scored)
    assert pq.read_table(tmp_path / "evals" / "step.parquet").to_pylist() == [
        # "22" is longest in the first row; it ties with the correct "44" in the second: half a credit; Ties has none of its own.
        {"id": "7", "subset": "Math", "num_correct": 1, "scores": [1.0, 1.0, 2.0, 1.0], "credit": 0.0},
        {"id": "7", "subset": "Math", "num_correct": 1, "scores": [2.0, 1.0, 2.0, 1.0], "credit": 0.5},
        {"id": "tied:0", "subset": "Ties", "num_correct": 2, "scores": [3.0, 4.0, 3.0], "credit": None},
    ]
    assert [path.name for path in (tmp_path / "evals").iterdir()] == ["step.parquet"]
