"""Files of preference rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.records import Preference
from rmtrain.config import SourceConfig
from rmtrain.rows import read_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What `read_pairs` returns, with the pairs in memory."""

    pairs: list[Preference]
    num_rows: int
    num_broken: int
    num_equal: int


def write_jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def read(path: str | Path, *, split: str = "train", name: str = "pairs", **options: Any) -> Read:
    found = read_pairs(SourceConfig(path=str(path), split=split), name, **options)
    return Read(pairs=[*found.pairs], num_rows=found.num_rows, num_broken=found.num_broken, num_equal=found.num_equal)


def read_row(tmp_path: Path, row: Mapping[str, Any]) -> Preference:
    (pair,) = read(write_jsonl(tmp_path / "pairs.jsonl", [row])).pairs
    return pair


def named(name: str) -> dict[str, str]:
    return {"prompt": name, "chosen": "good", "rejected": "bad"}


def prompts(found: Read) -> list[str]:
    return [pair.prompt[-1].content for pair in found.pairs]
