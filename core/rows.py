"""Rows of JSONL and parquet files, numbered from 1 for the messages that name them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank.

    Only line feeds part lines: `str.splitlines` would also cut at U+2028, which JSON may hold. Raises `ValueError` that
    names the file where it is not UTF-8.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); convert it.") from error


def parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet file; raises `ValueError` that names the file where it cannot be read."""
    try:
        yield from enumerate(pq.read_table(file).to_pylist(), 1)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is no parquet file ({error}).") from error


def read_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a parquet or JSONL file; raises `ValueError` that names the row which is no JSON."""
    if file.suffix == ".parquet":
        yield from parquet_rows(file)
        return
    for number, line in numbered_lines(file):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, row {number} is no JSON ({error}); mend or remove the row.") from error
