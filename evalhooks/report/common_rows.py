"""Reward models that `hooks.budget` had measured on different rows, compared on the rows that all of them were measured on.

A report takes scores of different rows for scores by different protocols, which it never puts into one number. Where the runs keep what
they scored row by row, this takes the rows in common instead.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bon.picks import accuracies, read_picks
from core.hooks.hook import measured_steps, rows_file
from core.records import ScoredRow
from evalhooks.measured_rows import SIZES, rows_texts
from evalhooks.report.prose import names
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.saved_scores import read_scores2

Record = Mapping[str, Any]
Key = tuple[str, str]
"""Of a row: its domain, subset or task, and its id."""
Rows = Mapping[Key, Any]


def on_common_rows(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records, with scores on common rows where reward models were measured on different ones, and a sentence about each such part.

    Only the last scores are changed, not those of earlier checkpoints. What cannot be brought to common rows is said and left.
    """
    found, said = [dict(record) for record in records], list[str]()
    for group in _measured_alike([record for record in found if record["job"] == "rm"]):
        for part, (read, metrics_of) in _PARTS.items():
            said += _brought(part, [record for record in group if _has(record, part)], read, metrics_of)
    return list(found), [*said, *_policies(found)]


def _measured_alike(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The records by the files that their hooks score, and the part of these that is read."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        identity = record["identity"]
        scored = {key: value for key, value in (identity.get("inputs") or {}).items() if str(key).startswith("hooks.")}
        key = json.dumps([scored, (identity.get("hooks") or {}).get("limit")], sort_keys=True, default=str)
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def _has(record: Record, part: str) -> bool:
    return any(name.startswith(f"{part}/") for name in record["final"])


def _brought(
    part: str, records: Sequence[dict[str, Any]], read: Callable[[Path], Rows], metrics_of: Callable[[Rows], Mapping[str, float]]
) -> list[str]:
    """Brings one part of the scores of these records to common rows, in place; says so, or why not."""
    if len(records) < 2 or not any(_texts(record, part) for record in records):
        return []
    tables = [_saved(record, part, read) for record in records]
    measured = names([f"{_count(record, part)} for {Path(record['dir']).name}" for record in records])
    if gone := [Path(record["dir"]).name for record, table in zip(records, tables, strict=True) if not table]:
        if len({_texts(record, part) for record in records}) == 1:
            return []
        why = f"what {names(gone)} scored row by row is not there"
        return [f"{part}: reward models were measured on different rows ({measured}), so that they do not compare; {why}."]
    common = set.intersection(*(set(table) for table in tables))
    if all(set(table) == common for table in tables):
        return []
    if not common:
        return [f"{part}: reward models were measured on different rows ({measured}), and share none, so that they do not compare."]
    for record, table in zip(records, tables, strict=True):
        own = metrics_of({key: row for key, row in table.items() if key in common})
        prefixes = (f"{part}/", f"{part}_se/")
        record["final"] = {name: value for name, value in record["final"].items() if not name.startswith(prefixes)} | dict(own)
        record[SIZES] = (record.get(SIZES) or {}) | _sizes(part, common, records)
    return [
        f"{part}: hooks.budget left reward models different rows ({measured}); their scores here are on the {len(common)} rows that all "
        "were measured on, and the curves of each on all of its own."
    ]


def _texts(record: Record, part: str) -> str:
    """Which rows of a part were measured, where these were not all."""
    own = {name: size for name, size in (record.get(SIZES) or {}).items() if name.partition("/")[0] == part}
    return ", ".join(rows_texts({SIZES: own}))


def _count(record: Record, part: str) -> str:
    """How many rows of a part were measured, where it has several all together; sentences cut names that follow, and not this."""
    own = [size for name, size in (record.get(SIZES) or {}).items() if name.partition("/")[0] == part]
    return f"{sum(size[0] for size in own)} of {sum(size[1] for size in own)} rows" if _texts(record, part) else "all rows"


def _sizes(part: str, common: set[Key], records: Sequence[Record]) -> dict[str, list[int]]:
    """The sizes that a record tells of its part, of the common rows."""
    known = next(record[SIZES] for record in records if _texts(record, part))
    totals = {name: size[1] for name, size in known.items() if name.partition("/")[0] == part}
    return {name: [sum(name in (part, f"{part}/{kind}") for kind, _ in common), total] for name, total in totals.items()}


def _saved(record: Record, part: str, read: Callable[[Path], Rows]) -> Rows:
    """The rows of a run's last checkpoint; none where they cannot be read."""
    folder = Path(record["dir"])
    try:
        return read(rows_file(folder, measured_steps(folder)[-1], part))
    except (OSError, IndexError, KeyError, TypeError, ValueError, pa.ArrowException):  # removed, of an earlier version, or damaged
        return {}


def _scored(path: Path) -> Rows:
    return {(row.subset, row.id): row for row in read_scores2(path)}


def _picked(path: Path) -> Rows:
    found: dict[Key, Any] = {}
    for task, own in read_picks(path).items():
        for pick in own:
            found.setdefault((task, pick.id), []).append(pick)
    return found


def _metrics2(rows: Mapping[Key, ScoredRow]) -> Mapping[str, float]:
    scored = list(rows.values())
    return v2.metrics(v2.scores(scored), v2.standard_errors(scored))


def _metrics1(rows: Mapping[Key, ScoredRow]) -> Mapping[str, float]:
    return v1.metrics(v1.scores(list(rows.values())))


def _bon(rows: Rows) -> Mapping[str, float]:
    tasks: dict[str, list[Any]] = {}
    for (task, _), own in rows.items():
        tasks.setdefault(task, []).extend(own)
    return accuracies(tasks)


_PARTS: Mapping[str, tuple[Callable[[Path], Rows], Callable[[Any], Mapping[str, float]]]] = {
    "rewardbench2": (_scored, _metrics2),
    "rewardbench1": (_scored, _metrics1),
    "bon": (_picked, _bon),
}
"""How what is kept row by row is read, and what metrics it gives, by the part of what hooks measure."""


def _policies(records: Sequence[Record]) -> list[str]:
    """That policies were measured on different prompts of their tasks, whose verdicts are not kept one by one."""
    own = [record for record in records if record["job"] == "ppo"]
    if len({_texts(record, "downstream") for record in own}) < 2:
        return []
    told = names([f"{_count(record, 'downstream')} for {Path(record['dir']).name}" for record in own])
    return [f"downstream: hooks.budget left PPO runs different prompts of tasks ({told}); part of their differences is which these are."]
