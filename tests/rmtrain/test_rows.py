"""Preference rows are read in the forms and from the places they come in, and what is wrong with a broken one is said."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from rmtrain.config import SourceConfig
from rmtrain.rows import read_pairs
from tests.core.data.pairs import ASKED, PLUM, PLUM_PAIR, dialogue, turn
from tests.rmtrain.pairs import Read, read, read_row, write_jsonl, write_parquet

# The columns of the datasets on the hub, as they are called there; what a trainer of reward models reads of them is text and roles.
ULTRAFEEDBACK = {"prompt": "Name a fruit.", "prompt_id": "0a", "score_chosen": 8.5, "score_rejected": 3.0}


def test_a_line_of_json_is_a_pair_whose_source_is_the_file(tmp_path: Path) -> None:
    assert read_row(tmp_path, PLUM) == PLUM_PAIR


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    assert read(write_jsonl(tmp_path / "pairs.jsonl", [PLUM, "", PLUM])).pairs == [PLUM_PAIR, PLUM_PAIR]


def test_parquet_gives_the_pairs_that_jsonl_gives(tmp_path: Path) -> None:
    messages = [turn("user", "Name a fruit.")]
    rows: list[dict[str, Any]] = [
        {"prompt": messages, "chosen": "A plum.", "rejected": "A lamp.", "margin": 1.5},
        {"prompt": messages, "chosen": "A pear.", "rejected": "A sock.", "margin": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = read(tmp_path / "pairs.parquet").pairs
    assert pairs == read(write_jsonl(tmp_path / "pairs.jsonl", rows)).pairs
    assert [pair.margin for pair in pairs] == [1.5, None]


def test_rows_of_two_equal_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    same = {**PLUM, "rejected": "A plum."}
    same_transcript = dict.fromkeys(("chosen", "rejected"), "\n\nHuman: Name a fruit.\n\nAssistant: A plum.")
    path = write_jsonl(tmp_path / "pairs.jsonl", [same, PLUM, same_transcript])
    said: list[str] = []
    assert read(path, say=said.append) == Read(pairs=[PLUM_PAIR], num_rows=3, num_broken=0, num_equal=2)
    assert said == [f"dropped 2 of 3 pairs of {path} whose chosen and rejected are the same text"]


def test_nothing_is_said_of_a_file_without_equal_answers(tmp_path: Path) -> None:
    said: list[str] = []
    read(write_jsonl(tmp_path / "pairs.jsonl", [PLUM]), say=said.append)
    assert said == []


def test_a_file_of_equal_answers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no preference pairs; it needs at least one row whose chosen and rejected differ"):
        read(write_jsonl(tmp_path / "pairs.jsonl", [{**PLUM, "rejected": "A plum."}]))


def test_a_broken_row_is_named_by_its_number_and_its_reason(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM, "", {**PLUM, "margin": "2"}, PLUM])
    with pytest.raises(
        ValueError, match=r"has 1 broken row\(s\) of 3:\n  row 3: margin is '2', not a number up to"
    ):  # the blank line 2 is counted
        read(path)


def test_the_first_five_broken_rows_are_listed_with_what_a_row_should_be(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PLUM, *["{torn"] * 7])
    with pytest.raises(ValueError, match=r"has 7 broken row\(s\) of 8") as raised:
        read(path)
    message = str(raised.value)
    assert [number for number in range(1, 9) if f"row {number}: " in message] == [2, 3, 4, 5, 6]
    assert "and 2 more" in message
    assert "A row is {'prompt', 'chosen', 'rejected'}" in message
    assert message.endswith("Fix or remove these rows, or leave them out with data.skip_broken=true.")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no preference pairs"):
        read(write_jsonl(tmp_path / "empty.jsonl", []))


def test_ultrafeedback_binarized_is_read_from_the_split_that_is_named_and_its_scores_are_no_margin(tmp_path: Path) -> None:
    sides = {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    for split in ("train_prefs", "test_prefs"):
        row = ULTRAFEEDBACK | sides | {"messages": sides["chosen"]}
        write_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet", [row] * (1 if split == "train_prefs" else 2))
    assert read(tmp_path / "hub", split="train_prefs") == Read(pairs=[PLUM_PAIR], num_rows=1, num_broken=0, num_equal=0)
    assert read(tmp_path / "hub", split="test_prefs").num_rows == 2


@pytest.mark.parametrize("columns", [{"prompt": None}, {"prompt": None, "margin": None, "source": None}, {"prompt": []}])
def test_a_null_counts_as_missing(tmp_path: Path, columns: dict[str, Any]) -> None:
    row = columns | {"chosen": dialogue("A plum.", ASKED), "rejected": dialogue("A lamp.", ASKED)}
    assert read(write_parquet(tmp_path / "pairs.parquet", [row])).pairs == [PLUM_PAIR]
    Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved").pairs == [PLUM_PAIR]


def test_broken_rows_are_left_out_on_request_and_the_first_are_listed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", ["{torn", PLUM, *["{torn"] * 6])
    said: list[str] = []
    assert read(path, skip_broken=True, say=said.append) == Read(pairs=[PLUM_PAIR], num_rows=8, num_broken=7, num_equal=0)
    (line,) = said
    assert line.startswith(f"{path}: left out 7 broken row(s) of 8:\n  row 1: not a JSON object: '{{torn'\n  row 3: ")
    assert line.endswith("row 6: not a JSON object: '{torn'\n  and 2 more: 7, 8")


def test_data_of_nothing_but_broken_rows_is_refused_though_they_may_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 2 broken row\(s\) of 2:(.|\n)*Fix these rows\.$"):
        read(write_jsonl(tmp_path / "pairs.jsonl", ["{torn"] * 2), skip_broken=True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1' + "0" * 400 + "}", "margin is 1000"),
        ('{"prompt": "a", "chosen": "\\ud800", "rejected": "c"}', "surrogates not allowed"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c", "id": 1' + "0" * 5000 + "}", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
    ],
    ids=["a margin beyond floats", "half a surrogate pair", "a number of thousands of digits", "brackets as deep"],
)
def test_what_python_itself_stumbles_over_is_a_broken_row(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"row 2: .*{reason}"):
        read_pairs(SourceConfig(path=str(file)), "pairs")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\ufeff" + json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n", encoding="utf-8")
    assert len(read_pairs(SourceConfig(path=str(file)), "pairs").pairs) == 1
