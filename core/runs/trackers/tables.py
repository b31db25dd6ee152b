"""Tables that trackers show of a checkpoint: its samples, and the scores that have standard errors, such as a benchmark's domains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.records import AXIS
from core.runs.samples import SAMPLE_COLUMNS, read_samples, sample_tables
from core.runs.tracking import Row

SCORE_COLUMNS = ("step", "name", "score", "standard error")
_ERRORS = "_se"
"""The metric `rewardbench2_se/math` is the standard error of `rewardbench2/math`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows with a cell for each column: text, a number or nothing.

    >>> Table(columns=("name", "score"), rows=[("math", 0.5)]).columns
    ('name', 'score')
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


def is_table(name: str) -> bool:
    """Whether a name is that of a table, and not of a metric."""
    return name.startswith(("samples/", "scores/"))


class CheckpointTables:
    """The tables of a run's checkpoints, each with the first row of the log that is the checkpoint's."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._tabled: set[int] = set()

    def of(self, row: Row) -> dict[str, Table]:
        """By name, `samples/held_out` or `scores/rewardbench2` for instance; none for rows of training."""
        if row.axis != AXIS:
            return {}
        found = _score_tables(row)
        if row.step not in self._tabled:
            self._tabled.add(row.step)
            samples = sample_tables(read_samples(self._run_dir, row.step))
            found |= {name: Table(columns=SAMPLE_COLUMNS, rows=rows) for name, rows in samples.items()}
        return found

    def forget(self) -> None:
        """Begins anew, for a tracker that does."""
        self._tabled.clear()


def _score_tables(row: Row) -> dict[str, Table]:
    """A table for each group of metrics with standard errors: `rewardbench2/math` and `rewardbench2_se/math` are a row."""
    groups = dict.fromkeys(name.partition("/")[0].removesuffix(_ERRORS) for name in row.metrics if name.partition("/")[0].endswith(_ERRORS))
    return {f"scores/{group}": Table(columns=SCORE_COLUMNS, rows=_scores(row, group)) for group in groups}


def _scores(row: Row, group: str) -> list[tuple[int, str, float, float | None]]:
    metrics: Mapping[str, float] = row.metrics
    names = [name.removeprefix(f"{group}/") for name in metrics if name.startswith(f"{group}/")]
    return [(row.step, name, metrics[f"{group}/{name}"], metrics.get(f"{group}{_ERRORS}/{name}")) for name in names]
