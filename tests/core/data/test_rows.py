"""Rows of JSONL and parquet files."""

from pathlib import Path

import pytest

from core.data.rows import numbered_lines, read_rows


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
