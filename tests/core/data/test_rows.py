"""Rows of JSONL and parquet files and of the splits of datasets."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import core.data.json_array
from core.data.json_array import elements, is_array
from core.data.rows import dataset_name, dataset_rows, numbered_lines, read_rows
from core.disk import BrokenFileError


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


ROWS = [{"a": 1, "b": "x\u2028y"}, {"a": 2}]
LINES = "\ufeff" + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("text", [LINES, json.dumps(ROWS), "\n " + json.dumps(ROWS, indent=2) + "\n"], ids=["lines", "array", "indented"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.json.zst"])
def test_rows_are_lines_or_an_array_packed_or_not(tmp_path: Path, name: str, text: str) -> None:
    packed, file = text.encode(), tmp_path / name
    if file.suffix == ".gz":
        packed = gzip.compress(packed[:40]) + gzip.compress(packed[40:])  # as `cat a.gz b.gz` makes it
    elif file.suffix == ".zst":
        packed = pa.Codec("zstd").compress(packed, asbytes=True)
    file.write_bytes(packed)
    assert list(read_rows(file)) == [(1, ROWS[0]), (2, ROWS[1])]
    assert dataset_name(str(file)) == "a"
    assert [row for _, row in dataset_rows(str(file), split="train", what="the data", remedy="name another")] == ROWS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_packed_file_that_is_cut_or_none_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    whole = LINES[1:].encode() * 1000
    file.write_bytes((gzip.compress(whole) if name.endswith("gz") else pa.Codec("zstd").compress(whole, asbytes=True))[:-20])
    with pytest.raises(ValueError, match=rf"^{file} cannot be unpacked \(.*; pack it again"):
        list(read_rows(file))
    file.write_text("plain text")
    with pytest.raises(ValueError, match=rf"^{file} cannot be unpacked"):
        list(read_rows(file))


def test_an_array_that_is_broken_is_named_and_rows_that_are_lists_stay_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1},\n{"a": ')
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.json is no JSON \(.*; mend it, or write a row per line"):
        list(read_rows(tmp_path / "a.json"))
    (tmp_path / "b.jsonl").write_text("[1]\n[2]\n")
    assert list(read_rows(tmp_path / "b.jsonl")) == [(1, [1]), (2, [2])]
    (tmp_path / "c.json").write_text("[]")
    assert list(read_rows(tmp_path / "c.json")) == []


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 1000])
def test_an_array_is_read_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.data.json_array, "BLOCK", block)
    values = [{"a": [1, 2.5e-3, {"b": "],"}]}, 12345, -0.25, 'x\\"é', [], None, True, {}]
    for text in (
        json.dumps(values),
        f"\n {json.dumps(values, indent=1)} \n",
        json.dumps(values, ensure_ascii=False, separators=(",", ":")),
    ):
        assert is_array(io.StringIO(text))
        assert list(elements(io.StringIO(text), "a.json", remedy="mend it")) == values
        for cut in range(1, len(text.strip())):
            with pytest.raises(BrokenFileError, match=r"^a\.json is no JSON \(row \d: .*\); mend it\."):
                list(elements(io.StringIO(text.strip()[:cut]), "a.json", remedy="mend it"))
    assert list(elements(io.StringIO(" [ ] "), "a.json", remedy="mend it")) == []
    for broken in ("[1 2]", "[1,]", "[,1]", "[1] 2", "[1]]"):
        with pytest.raises(BrokenFileError):
            list(elements(io.StringIO(broken), "a.json", remedy="mend it"))


def test_a_text_is_an_array_if_one_spans_it() -> None:
    for text, expected in (("[1]\n[2]\n", False), ("[1]\n", True), ("[[1]\n,[2]]", True), ('{"a": [1]}\n', False), (" \n", False)):
        assert is_array(io.StringIO(text)) == expected


def read(path: Path, *, lone_split: bool = False) -> list[int]:
    rows = dataset_rows(str(path), split="test", what="the data", remedy="name another", lone_split=lone_split)
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
