"""Rows of JSONL and parquet files and of the splits of datasets."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.data.rows import dataset_rows, numbered_lines, read_rows


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_line_separator_inside_text_parts_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "x\u2028y"}\n', encoding="utf-8")
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": "x\u2028y"})]


def test_what_cannot_be_read_names_its_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"a.jsonl, row 2 is no JSON"):
        list(read_rows(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b'{"a": "\xa8"}\n')
    with pytest.raises(ValueError, match=r"b.jsonl is not UTF-8"):
        list(numbered_lines(tmp_path / "b.jsonl"))
    (tmp_path / "c.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"c.parquet is no parquet file"):
        list(read_rows(tmp_path / "c.parquet"))


def read(path: Path, **options: bool) -> list[int]:
    rows = dataset_rows(str(path), split="test", what="the data", remedy="name another", **options)
    return [row["a"] for _, row in rows]


def splits(folder: Path, **rows: int) -> Path:
    folder.mkdir()
    for name, value in rows.items():
        pq.write_table(pa.Table.from_pylist([{"a": value}]), folder / f"{name}-00000-of-00001.parquet")
    return folder


def test_the_split_is_read_and_a_lone_other_one_only_where_it_may_stand_for_it(tmp_path: Path) -> None:
    assert read(splits(tmp_path / "two", train=1, test=2), lone_split=True) == [2]
    lone = splits(tmp_path / "lone", train=1)
    assert read(lone, lone_split=True) == [1]
    with pytest.raises(ValueError, match=r"^the data has no split 'test' but train; name another\.$"):
        read(lone)
    with pytest.raises(ValueError, match=r"^the data has no split 'test' but dev, train; name another\.$"):
        read(splits(tmp_path / "others", train=1, dev=2), lone_split=True)


def test_what_is_not_there_or_named_like_a_file_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path("org/pairs.jsonl")):
        with pytest.raises(ValueError, match=r"^the data does not exist; give a JSONL or parquet file"):
            read(path)
