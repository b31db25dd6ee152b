"""A benchmark in RewardBench's schemas: read, checked, and scored with any Scorer."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.records import BenchmarkRow, ScoredRow, Scorer, user
from core.rows import read_rows
from core.sources import require_hub
from evalhooks.rewardbench2 import row_credit


def load_rewardbench2(path: str, *, limit: float = 1.0, seed: int = 0) -> list[BenchmarkRow]:
    """Rows of a JSONL or parquet file or hub dataset in RewardBench 2's schema, a share `limit` of each domain.

    Ties are sampled by pairs. Raises `ValueError` that names the row and the field at fault.
    """
    return sample_rows([_row2(row, f"{path}, row {number}") for number, row in _read(path, split="test")], limit, seed)


def load_rewardbench1(path: str, *, limit: float = 1.0, seed: int = 0) -> list[BenchmarkRow]:
    """Pairs in RewardBench 1's schema (`prompt`, `chosen`, `rejected`, `subset`), a share `limit` of each subset."""
    rows: list[BenchmarkRow] = []
    for number, row in _read(path, split="filtered"):
        _require(row, {"prompt": str, "chosen": str, "rejected": str, "subset": str}, f"{path}, row {number}")
        completions = (row["chosen"], row["rejected"])
        rows.append(
            BenchmarkRow(id=str(row.get("id", number)), prompt=row["prompt"], completions=completions, num_correct=1, subset=row["subset"])
        )
    return sample_rows(rows, limit, seed)


def sample_rows(rows: Sequence[BenchmarkRow], limit: float, seed: int) -> list[BenchmarkRow]:
    """At least one row (for Ties: pair) of each subset and about `limit` of them, in the order of the file."""
    if limit >= 1:
        return list(rows)
    groups: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        groups[row.subset.casefold()][_unit(row)] = None
    kept: set[tuple[str, str]] = set()
    for subset, units in groups.items():
        count = max(1, round(limit * len(units)))
        kept |= {(subset, unit) for unit in random.Random(f"{seed} {subset}").sample(list(units), count)}
    return [row for row in rows if (row.subset.casefold(), _unit(row)) in kept]


def _unit(row: BenchmarkRow) -> str:
    """What is drawn as one: a row, and in Ties a pair of prompts, whose ids share what follows the colon."""
    return row.id.rpartition(":")[2] if row.subset.casefold() == "ties" else row.id


def score_rows(rows: Sequence[BenchmarkRow], scorer: Scorer) -> list[ScoredRow]:
    """The rows with the scores of their completions."""
    scores = scorer.score([user(row.prompt) for row in rows], [row.completions for row in rows])
    return [
        ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=tuple(values))
        for row, values in zip(rows, scores, strict=True)
    ]


def write_rows(path: Path, rows: Iterable[ScoredRow]) -> None:
    """Per-row scores as parquet: id, subset, num_correct, scores, and the credit of best-of-n rows."""
    table = [
        {
            "id": row.id,
            "subset": row.subset,
            "num_correct": row.num_correct,
            "scores": list(row.scores),
            "credit": None if row.subset.casefold() == "ties" else row_credit(row),
        }
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(table), temporary)
    temporary.rename(path)


def _read(path: str, *, split: str) -> Iterable[tuple[int, Any]]:
    file = Path(path).expanduser()
    if file.is_file():
        rows = list(read_rows(file))
        if not rows:
            raise ValueError(f"the benchmark {path} holds no rows.")
        return rows
    if file.suffix or file.is_absolute() or path.count("/") != 1:
        raise ValueError(f"the benchmark {path} does not exist; give a JSONL or parquet file, or allenai/reward-bench-2.")
    require_hub(f"the benchmark {path}")
    from datasets import load_dataset

    return enumerate(load_dataset(path, split=split), 1)


def _row2(row: Any, where: str) -> BenchmarkRow:
    _require(row, {"id": (str, int), "prompt": str, "chosen": list, "rejected": list, "subset": str}, where)
    completions = (*row["chosen"], *row["rejected"])
    if not row["chosen"] or not all(isinstance(text, str) for text in completions):
        raise ValueError(f"{where}: chosen and rejected must be lists of text, chosen not empty.")
    return BenchmarkRow(
        id=str(row["id"]), prompt=row["prompt"], completions=completions, num_correct=len(row["chosen"]), subset=row["subset"]
    )


def _require(row: Any, fields: Mapping[str, Any], where: str) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is no JSON object.")
    for key, kind in fields.items():
        if not isinstance(row.get(key), kind):
            raise ValueError(f"{where}: {key!r} is missing or of the wrong type ({type(row.get(key)).__name__}).")
