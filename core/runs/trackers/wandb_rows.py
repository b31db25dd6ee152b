"""What W&B has been given of a run: whatever step a run is resumed from, every row reaches it once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.disk import json_float, remove
from core.runs.samples import SAMPLE_COLUMNS, sample_tables
from core.runs.tracking import METRICS, Row, read_rows

if TYPE_CHECKING:  # takes seconds to import
    import wandb

SENT = "sent.jsonl"
"""The rows of earlier sessions, beside W&B's own folders: the run's log loses those that it will log again."""
ONLINE = "was-online"
"""The file that says that W&B's host has rows of the run."""


class SentRows:
    """The rows given to W&B, in their order, each metric once per axis and step."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = []
        self._known: set[tuple[str, int, str]] = set()
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> Row | None:
        """The part of a row that was not there yet; None if all of it was."""
        metrics = {name: value for name, value in row.metrics.items() if (row.axis, row.step, name) not in self._known}
        if not metrics:
            return None
        self._known.update((row.axis, row.step, name) for name in metrics)
        self.rows.append(new := Row(axis=row.axis, step=row.step, metrics=metrics))
        return new


def earlier_rows(run_dir: Path, files: Path) -> SentRows:
    """The rows of a run's earlier sessions, to be called before anything is logged again; they are kept in `files`."""
    found = SentRows([*read_rows(files / SENT), *read_rows(run_dir / METRICS)])
    if found.rows:
        files.mkdir(parents=True, exist_ok=True)
        temporary = files / f".tmp-{SENT}"
        temporary.write_text("".join(map(_line_of, found.rows)), encoding="utf-8")
        temporary.replace(files / SENT)
    return found


def is_elsewhere(files: Path) -> bool:
    """Whether W&B's host has rows of the run already, sent online or by `wandb sync`."""
    return (files / ONLINE).exists() or any(files.glob("offline-run-*/*.synced"))


def offline_folders(files: Path) -> list[Path]:
    """The folders of a run's offline sessions."""
    return sorted(files.glob("offline-run-*"))


def remove_folders(folders: Sequence[Path]) -> None:
    """Removes folders of earlier sessions, whose rows are in a new one."""
    for folder in folders:
        remove(folder)


def tables_of(samples: Sequence[Mapping[str, Any]]) -> "dict[str, wandb.Table]":
    """Samples as tables of W&B's by kind, `samples/held_out` for instance."""
    tables = sample_tables(samples)
    if not tables:
        return {}
    import wandb

    columns: list[str | int] = [*SAMPLE_COLUMNS]
    return {name: wandb.Table(columns=columns, data=rows, allow_mixed_types=True) for name, rows in tables.items()}


def _line_of(row: Row) -> str:
    values = {name: json_float(float(value)) for name, value in row.metrics.items()}
    return json.dumps({"axis": row.axis, row.axis: row.step, **values}, allow_nan=False) + "\n"
