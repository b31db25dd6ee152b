"""Files that are not there, are no files, or hold something else; and unusual ones that must be read."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.inputs.rows import FORMATS, Format
from tests.faults.inputs.trial import Expected, Trial
from tests.faults.stage import Stage

Write = Callable[[Path, Sequence[Any]], object]


def _lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _array(rows: Sequence[Any]) -> bytes:
    return json.dumps(list(rows), indent=1).encode()


def _write(content: Callable[[Sequence[Any]], bytes]) -> Write:
    return lambda path, rows: path.write_bytes(content(rows))


def _parquet(path: Path, rows: Sequence[Any]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def _cut_table(path: Path, rows: Sequence[Any]) -> None:
    _parquet(path, rows)
    path.write_bytes(path.read_bytes()[:-20])


def _linked(path: Path, rows: Sequence[Any]) -> None:
    path.with_name("there").write_bytes(_lines(rows))
    path.symlink_to("there")


def _nothing(path: Path, rows: Sequence[Any]) -> None:
    """No file."""


WRONG: Mapping[str, tuple[str, Write]] = {
    "missing": ("given.jsonl", _nothing),
    "empty": ("given.jsonl", _write(lambda rows: b"")),
    "blank lines": ("given.jsonl", _write(lambda rows: b"\n \n\n")),
    "a folder": ("given.jsonl", lambda path, rows: path.mkdir()),
    "random bytes": ("given.jsonl", _write(lambda rows: bytes(range(256)) * 20)),
    "UTF-16": ("given.jsonl", _write(lambda rows: _lines(rows).decode().encode("utf-16"))),
    "cut in its last row": ("given.jsonl", _write(lambda rows: _lines(rows)[:-12])),
    "two objects on a line": ("given.jsonl", _write(lambda rows: _lines(rows).replace(b"\n", b" "))),
    "numbers": ("given.jsonl", _write(lambda rows: b"1\n2\n3\n")),
    "texts": ("given.jsonl", _write(lambda rows: b'"a"\n"b"\n')),
    "nested too deeply": ("given.jsonl", _write(lambda rows: b"[" * 100_000 + b"\n")),
    "a number of 5,000 digits": ("given.jsonl", _write(lambda rows: b'{"prompt": ' + b"9" * 5000 + b"}\n")),
    "HTML": ("given.jsonl", _write(lambda rows: b"<!doctype html><title>404</title>\n")),
    "a table that is text": ("given.parquet", _write(lambda rows: b"id,prompt\n1,a\n")),
    "a table cut short": ("given.parquet", _cut_table),
    "a table without rows": ("given.parquet", lambda path, rows: pq.write_table(pa.table({"other": pa.array([], pa.int64())}), path)),
    "another table": ("given.parquet", lambda path, rows: pq.write_table(pa.table({"other": [1, 2]}), path)),
    "gzip by its name alone": ("given.jsonl.gz", _write(_lines)),
    "gzip cut short": ("given.jsonl.gz", _write(lambda rows: gzip.compress(_lines(rows))[:-10])),
    "an array cut short": ("given.json", _write(lambda rows: _array(rows)[:-5])),
    "an array of numbers": ("given.json", _write(lambda rows: b"[1, 2]")),
}
"""What cannot be read, with the name of its file."""

UNUSUAL: Mapping[str, tuple[str, Write]] = {
    "with a byte order mark": ("given.jsonl", _write(lambda rows: b"\xef\xbb\xbf" + _lines(rows))),
    "with Windows line ends": ("given.jsonl", _write(lambda rows: _lines(rows).replace(b"\n", b"\r\n"))),
    "without a last line end": ("given.jsonl", _write(lambda rows: _lines(rows)[:-1])),
    "with blank lines": ("given.jsonl", _write(lambda rows: _lines(rows).replace(b"\n", b"\n\n"))),
    "with U+2028": ("given.jsonl", _write(lambda rows: _lines(rows).replace(b"fruit", "fr\u2028uit".encode()))),
    "as a table": ("given.parquet", _parquet),
    "as an array": ("given.json", _write(_array)),
    "compressed": ("given.jsonl.gz", _write(lambda rows: gzip.compress(_lines(rows)))),
    "as a compressed array": ("given.json.gz", _write(lambda rows: gzip.compress(_array(rows)))),
    "with another suffix": ("given.txt", _write(_lines)),
    "through a link": ("given.jsonl", _linked),
    "with a name of blanks and commas": ("given a, b.jsonl", _write(_lines)),
}
"""What must be read."""


def file_trials(stage: Stage) -> list[Trial]:
    """Each format in each wrong and each unusual file."""
    trials: list[Trial] = []
    for known in FORMATS:
        if known.name in ("preference messages", "hooks rewardbench2"):  # read as the plain ones
            continue
        trials += [_trial(stage, known, what, name, write, Expected.refused) for what, (name, write) in WRONG.items()]
        trials += [_trial(stage, known, what, name, write, Expected.accepted) for what, (name, write) in UNUSUAL.items()]
    return trials


def _trial(stage: Stage, known: Format, what: str, name: str, write: Write, expected: Expected) -> Trial:
    def arguments(folder: Path) -> Sequence[str]:
        write(folder / name, known.rows())
        return [_quoted(argument, name) for argument in known.command(stage, "@file@")]

    return Trial(name=f"files {known.name}/{what}", arguments=arguments, expected=expected, words=(Path(name).stem.split(".")[0],))


def _quoted(argument: str, name: str) -> str:
    return argument.replace("@file@", f"'{name}'" if " " in name else name)
