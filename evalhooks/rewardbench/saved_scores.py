"""Benchmark results from score files, written by rewardloop or another tool; no model is needed."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import pyarrow.parquet as pq

from core.data.rows import read_rows, require_whole_text
from core.disk import read_json
from core.records import ScoredRow
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.finite import REMEDY


class RewardBench2Result(TypedDict):
    """RewardBench 2 as stored in result.json; see `v2.BenchmarkScores`."""

    per_subset: dict[str, float]
    overall: float | None
    reason: str
    refusals: list[str]
    ties: dict[str, float] | None
    standard_errors: dict[str, float]
    row_results: list[float | None]
    not_finite: dict[str, list[str]]


class RewardBench1Result(TypedDict):
    """RewardBench 1 as stored in result.json; see `v1.BenchmarkScores`."""

    per_subset: dict[str, float]
    sections: dict[str, float | None]
    prior_sets: float | None
    overall: float | None
    reason: str
    missing_subsets: list[str]
    row_results: list[float]
    refusals: list[str]
    not_finite: dict[str, list[str]]


_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def read_scores2(path: str | Path) -> list[ScoredRow]:
    """Rows `{"id", "subset", "num_correct", "scores"}` of a JSONL or parquet file; scores of correct completions come first.

    A score is a number, one of the strings "NaN", "Infinity" and "-Infinity", or null, which means NaN. `total_completions`
    is optional but must agree with the scores. `evalhooks.rewardbench.rows.write_rows` writes such files, for RewardBench 1
    too. Raises `ValueError` that names the offending file, row and field.
    """
    return [_row2(row, f"{path}, row {number}") for number, row in _rows(Path(path))]


def read_scores1(path: str | Path) -> list[ScoredRow]:
    """Pairs `{"subset", "chosen", "rejected"}` of a JSONL or parquet file, each a score as in `read_scores2`; or rows in its form.

    The row number serves as the id of a pair without one. Raises like `read_scores2`.
    """
    rows: list[ScoredRow] = []
    for number, row in _rows(Path(path)):
        where = f"{path}, row {number}"
        _require_object(row, where)
        if row.get("scores") is not None:  # as runs write them
            rows.append(_row2(row, where))
            continue
        name = number if row.get("id") is None else _id(row, where)
        for key in ("chosen", "rejected"):
            if key not in row:
                raise ValueError(f"{where}: {key!r} is missing; give the score of the {key} completion.")
        scores = (_score(row["chosen"], f"{where}: 'chosen'"), _score(row["rejected"], f"{where}: 'rejected'"))
        rows.append(ScoredRow(id=str(name), subset=_subset(row, where), num_correct=1, scores=scores))
    return rows


def read_credits(path: str | Path) -> list[float | None]:
    """The credits of the rows that `rows.write_rows` wrote to a parquet file; None for rows without one, as in Ties."""
    table = pq.read_table(_file(Path(path)))
    return table.column("credit").to_pylist() if "credit" in table.column_names else [None] * len(table)


def read_prior_sets(path: str | Path) -> dict[str, float]:
    """Accuracies (0..1) of any of RewardBench 1's prior sets, from a JSON object keyed by name.

    Raises `ValueError` that names the file and the offending entry.
    """
    found = read_json(_file(Path(path)), remedy='write an object such as {"shp": 0.61}')
    for name, accuracy in found.items():
        if name not in v1.PRIOR_SETS:
            raise ValueError(f"{path}: the prior set {name!r} is unknown; the names are {', '.join(v1.PRIOR_SETS)}.")
        if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise ValueError(f"{path}: {name} is {accuracy!r}; give a fraction from 0 to 1 (points divided by 100).")
    return {name: float(accuracy) for name, accuracy in found.items()}


def result2(rows: Sequence[ScoredRow]) -> RewardBench2Result:
    """RewardBench 2's result for `rows`, ready for JSON; see `v2.BenchmarkScores` and `v2.standard_errors`.

    `row_results` are the credits in the order of the rows, None for Ties, whose components are in `ties`. Raises `ValueError` if no
    row has finite scores.
    """
    found = v2.scores(rows)
    _require_finite(rows, found.not_finite)
    return {
        "per_subset": dict(found.per_subset),
        "overall": found.overall,
        "reason": found.reason,
        "refusals": list(found.refusals),
        "ties": None if found.ties is None else asdict(found.ties),
        "standard_errors": dict(v2.standard_errors(rows)),
        "row_results": list(found.row_results),
        "not_finite": {subset: list(ids) for subset, ids in found.not_finite.items()},
    }


def result1(rows: Sequence[ScoredRow], prior_sets: Mapping[str, float], *, generative: bool = False) -> RewardBench1Result:
    """RewardBench 1's result for `rows`, ready for JSON; raises like `v1.scores` and `result2`.

    `sections` holds all four, None if all of a section's subsets are missing; `prior_sets` is their mean, or None.
    """
    found = v1.scores(rows, prior_sets=prior_sets, generative=generative)
    _require_finite(rows, found.not_finite)
    return {
        "per_subset": dict(found.per_subset),
        "sections": dict(found.per_section),
        "prior_sets": found.prior_sets,
        "overall": found.overall,
        "reason": found.reason,
        "missing_subsets": list(found.missing_subsets),
        "row_results": list(found.row_results),
        "refusals": list(found.refusals),
        "not_finite": {subset: list(ids) for subset, ids in found.not_finite.items()},
    }


def _require_finite(rows: Sequence[ScoredRow], not_finite: Mapping[str, Sequence[str]]) -> None:
    if rows and sum(map(len, not_finite.values())) == len(rows):
        raise ValueError(f"none of the {len(rows)} rows has finite scores, so there is nothing to report; {REMEDY}.")


def _file(path: Path) -> Path:
    file = path.expanduser()
    if not file.is_file():
        raise ValueError(f"{path} is not a file; check its name.")
    return file


def _rows(path: Path) -> list[tuple[int, Any]]:
    rows = _csv_rows(_file(path)) if path.suffix == ".csv" else list(read_rows(_file(path)))
    if not rows:
        raise ValueError(f"{path} contains no rows; give one scored row per line.")
    return rows


def _csv_rows(path: Path) -> list[tuple[int, Any]]:
    """The rows of a CSV file with the names of the columns in its first line, as JSON would have them: numbers as numbers.

    `scores` holds the scores of a row between semicolons or spaces, or as a JSON list.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        return [(number, {key: _csv_value(key, text) for key, text in row.items() if key}) for number, row in enumerate(reader, 1)]


def _csv_value(key: str, text: str | None) -> object:
    if text is None or not text.strip():
        return None
    if key == "scores":
        return [_csv_number(part) for part in text.strip().strip("[]").replace(";", " ").replace(",", " ").split()]
    return _csv_number(text.strip()) if key in ("chosen", "rejected", "num_correct", "total_completions") else text


def _csv_number(text: str) -> object:
    """The number that a cell holds; any other text as it is, for whoever reads the row to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _row2(row: Any, where: str) -> ScoredRow:
    _require_object(row, where)
    scores = row.get("scores")
    if not isinstance(scores, list) or not scores:
        raise ValueError(f"{where}: 'scores' is missing or not a list with one score per completion: {_shown(scores)}.")
    values = tuple(_score(value, f"{where}: score {index}") for index, value in enumerate(scores))
    num_correct, total = _count(row.get("num_correct"), f"{where}: 'num_correct'"), row.get("total_completions")
    if num_correct > len(values):
        raise ValueError(f"{where}: 'num_correct' is {num_correct}, but there are only {len(values)} scores; fix one of them.")
    if total is not None and _count(total, f"{where}: 'total_completions'") != len(values):
        raise ValueError(f"{where}: 'total_completions' is {total}, but there are {len(values)} scores; score every completion once.")
    subset = _subset(row, where)
    if problem := v2.row_problem(subset, num_correct=num_correct, num_completions=len(values)):
        raise ValueError(f"{where}: {problem}.")
    return ScoredRow(id=_id(row, where), subset=subset, num_correct=num_correct, scores=values)


def _score(value: object, where: str) -> float:
    """A number, the JSON-friendly name of one that is not finite, or None, which means NaN."""
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, list):
        raise ValueError(f"{where} is the list {_shown(value)}; a reward model has one output, so give one number per completion.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'{where} is {_shown(value)}; give a number, or "NaN", "Infinity" or "-Infinity".')
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{where} is an integer beyond the range of a float; write it as Infinity, or score the row again.") from error


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where} is missing or not a non-negative integer: {_shown(value)}.")
    return value


def _id(row: Mapping[str, Any], where: str) -> str:
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"{where}: 'id' is missing or neither a string nor an integer: {_shown(name)}.")
    return str(name)


def _subset(row: Mapping[str, Any], where: str) -> str:
    name = row.get("subset")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: 'subset' is missing or not a string: {_shown(name)}; name the row's domain.")
    return name


def _require_object(row: Any, where: str) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is not a JSON object.")
    require_whole_text(row, where)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
