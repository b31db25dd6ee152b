"""Pools of others, as people have them: JSONL and parquet, lists and single completions, with and without correctness."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bon.given import read_given
from bon.rows import PoolRow
from core.records import Message, user


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_row_holds_a_prompt_and_a_list_of_completions(tmp_path: Path) -> None:
    rows = [
        {"id": "7", "prompt": "2 + 3?", "completions": ["5", "6"], "correct": [True, False], "models": ["small", "large"]},
        {"id": 8, "prompt": [{"role": "user", "content": "1?"}], "system": "Hm.", "completions": ["a"], "correct": [0.5]},
    ]
    assert read_given(written(tmp_path / "sums.jsonl", *rows)) == {
        "sums": [
            PoolRow(id="7", prompt=user("2 + 3?"), completions=("5", "6"), correct=(1.0, 0.0), models=("small", "large")),
            PoolRow(id="8", prompt=(Message(role="system", content="Hm."), *user("1?")), completions=("a",), correct=(0.5,)),
        ]
    }


def test_rows_of_one_completion_belong_together_by_id_or_by_prompt(tmp_path: Path) -> None:
    expected = [
        PoolRow(id="1", prompt=user("a?"), completions=("x", "z"), correct=(1.0, 0.0), models=("m", "m")),
        PoolRow(id="2", prompt=user("b?"), completions=("y",), correct=(0.0,), models=("m",)),
    ]
    rows = [
        {"id": "1", "question": "a?", "response": "x", "is_correct": True, "model": "m"},
        {"id": "2", "question": "b?", "response": "y", "is_correct": False, "model": "m"},
        {"id": "1", "question": "a?", "response": "z", "is_correct": False, "model": "m"},
    ]
    assert read_given(written(tmp_path / "p.jsonl", *rows))["p"] == expected
    own_ids = [{**row, "id": f"completion-{number}"} for number, row in enumerate(rows)]
    assert read_given(written(tmp_path / "p.jsonl", *own_ids))["p"] == [replace(row, id=id) for row, id in zip(expected, "12", strict=True)]
    without_ids = [{key: value for key, value in row.items() if key != "id"} for row in rows]
    assert read_given(written(tmp_path / "p.jsonl", *without_ids))["p"] == expected  # named after their first rows


def test_parquet_and_the_shapes_that_chat_libraries_write_are_read(tmp_path: Path) -> None:
    rows = [
        {"task": "math", "messages": [{"role": "user", "content": "a?"}], "responses": [[{"role": "assistant", "content": "x"}]]},
        {"task": "code", "messages": [{"role": "user", "content": "b?"}], "responses": [[{"role": "assistant", "content": "y"}]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    found = read_given(str(tmp_path / "p.parquet"))
    assert found["math"] == [PoolRow(id="1", prompt=user("a?"), completions=("x",))]
    assert list(found) == ["math", "code"]
    folder = tmp_path / "folder"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    assert read_given(str(folder)).keys() == found.keys()


def test_rows_about_one_prompt_add_up(tmp_path: Path) -> None:
    rows = [{"id": "1", "prompt": "a?", "completions": [text], "model": text} for text in "xy"]
    assert read_given(written(tmp_path / "p.jsonl", *rows))["p"] == [
        PoolRow(id="1", prompt=user("a?"), completions=("x", "y"), models=("x", "y"))
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text_a": "a?", "completions": ["x"]}], r"row 1 has no prompt among its columns text_a, completions; call it one of"),
        ([{"prompt": "a?"}], r"row 1 has no completions among its columns prompt; call them one of completions, "),
        ([{"prompt": "a?", "completions": []}], r"row 1: completions is \[\]; it must be a list of completions that is not empty"),
        ([{"prompt": "a?", "completions": ["x", None]}], r"row 1: completions holds None, which is no text"),
        ([{"prompt": "a?", "completions": ["x"], "correct": [1, 0]}], r"row 1: correct is \[1, 0\]; it must hold a value for each of the"),
        ([{"prompt": "a?", "completions": ["x"], "correct": [2]}], r"row 1: correct holds 2; correctness is true or false, or a"),
        ([{"prompt": "a?", "completions": ["x"], "correct": ["yes"]}], r"row 1: correct holds 'yes'; correctness is true or false"),
        ([{"prompt": "a?", "completions": ["x"], "correct": [None]}], r"row 1: correct holds None"),
        ([{"id": 1, "prompt": "a?", "completions": ["x"]}, {"id": 1, "prompt": "b?", "completions": ["x"]}], "row 2 and row 1 have the id"),
        ([{"prompt": "a?", "completion": "x", "correct": 1}, {"prompt": "a?", "completion": "y"}], "row 2 and row 1 are about one"),
        ([{"prompt": "a?", "completions": ["x", "y"], "models": ["m"]}], r"row 1: models is \['m'\]; it must be a name, or one for"),
        ([{"prompt": "a?", "completions": ["x"], "task": "a/b"}], r"row 1 has the task 'a/b'"),
        (["a?"], r"row 1 is 'a\?', no row with a prompt and completions"),
        ([], r"holds no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_file_and_row(tmp_path: Path, rows: list[Any], words: str) -> None:
    file = written(tmp_path / "p.jsonl", *rows)
    with pytest.raises(ValueError, match=words) as refused:
        read_given(file)
    assert file in str(refused.value)
