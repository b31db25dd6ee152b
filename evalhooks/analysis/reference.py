"""Published numbers laid behind one's own: points, correlations, and where one's best would stand. They are never put into a fit."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalhooks.analysis.correlation import correlation
from evalhooks.analysis.table import ScoreTable, read_cells

_SAME = {
    "overall": ("overall", "score", "average", "avg", "rb2", "rbv2", "rewardbench2", "rewardbench2overall"),
    "bon": ("bon", "bonaverage", "downstreamaverage", "bestofn"),
    "ppo": ("ppo", "ppoaverage"),
    "preciseif": ("preciseif", "if"),
}
"""Names by which papers, leaderboards and runs call the same thing."""


def references(paths: Sequence[str], table: ScoreTable, *, benchmarks: Sequence[str], downstream: Sequence[str]) -> list[dict[str, Any]]:
    """What each file has beside the columns of the table.

    A file is a table of scores per reward model, or, with a column `downstream`, one of published correlations with the benchmarks across
    (figure 3 of the paper). Columns are matched by name, also by what else the paper and leaderboards call them, and brought to the
    table's scale where one counts in shares and the other in points of 100. Each entry has `source`, `points` and `pearson` by
    "benchmark~downstream", `standing` by benchmark, and a `note` where nothing matches.

    Raises `ValueError` for a file that cannot be read.
    """
    return [_reference(path, table, benchmarks, downstream) for path in paths]


def _reference(path: str, table: ScoreTable, benchmarks: Sequence[str], downstream: Sequence[str]) -> dict[str, Any]:
    cells = read_cells(Path(path), key="reference")
    columns = list(dict.fromkeys(column for row in cells for column in row))
    entry: dict[str, Any] = {"source": Path(path).name, "protocol": "as published", "points": {}, "pearson": {}, "standing": {}, "note": ""}
    if "downstream" in columns:
        for row in cells:
            for y in downstream:
                if _called(y) == _called(str(row["downstream"])):
                    entry["pearson"] |= {
                        f"{x}~{y}": value for x in benchmarks if (value := _number(row, _matching(columns, x))) is not None
                    }
    else:
        known = {column: found for column in (*benchmarks, *downstream) if (found := _matching(columns, column))}
        scales = {column: _scale(table, column, [_number(row, found) for row in cells]) for column, found in known.items()}
        for x in benchmarks:
            if x in known:
                published = [value * scales[x] for row in cells if (value := _number(row, known[x])) is not None]
                entry["standing"][x] = _standing(table, x, published)
            for y in downstream:
                if x in known and y in known:
                    both = [(_number(row, known[x]), _number(row, known[y])) for row in cells]
                    points = [(a * scales[x], b * scales[y]) for a, b in both if a is not None and b is not None]
                    entry["points"][f"{x}~{y}"] = points
                    r = correlation([a for a, _ in points], [b for _, b in points]).pearson
                    entry["pearson"] |= {} if r is None else {f"{x}~{y}": r}
    if not (entry["pearson"] or entry["points"] or entry["standing"]):
        entry["note"] = f"{entry['source']} has none of {', '.join((*benchmarks, *downstream))}, so nothing of it is shown."
    return entry


def _standing(table: ScoreTable, column: str, published: Sequence[float]) -> dict[str, Any]:
    """Where the best of the table would stand among the published scores."""
    own = max((model.scores[column] for model in table.models if column in model.scores), default=None)
    rank = None if own is None else 1 + sum(value > own for value in published)
    return {"best": own, "rank": rank, "of": len(published), "highest": max(published, default=None)}


def _scale(table: ScoreTable, column: str, published: Sequence[float | None]) -> float:
    """What published scores are multiplied by to be on the table's scale: of shares or of points of 100."""
    own = max((abs(model.scores[column]) for model in table.models if column in model.scores), default=1.0)
    other = max((abs(value) for value in published if value is not None), default=own)
    return 0.01 if own <= 1.5 < other else 100.0 if other <= 1.5 < own else 1.0


def _matching(columns: Sequence[str], column: str) -> str | None:
    return column if column in columns else next((name for name in columns if _called(name) == _called(column)), None)


def _called(name: str) -> str:
    """A name without its spelling, its benchmark and its number of completions."""
    plain = re.sub(r"[^a-z0-9]+", "", re.sub(r"^(rewardbench2|bon|downstream)/|@\d+$", "", name.lower()) or name.lower())
    if name.lower().startswith("bon/average"):
        plain = "bon"
    return next((key for key, names in _SAME.items() if plain in names), plain)


def _number(row: Mapping[str, Any], column: str | None) -> float | None:
    """A finite number of a row; None where a published table says n/a, in words or as NaN."""
    try:
        found = math.nan if column is None or isinstance(row.get(column), bool) else float(row[column])
    except (KeyError, TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None
