"""What W&B has been given of a run: whatever step a run is resumed from, every row reaches it once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.disk import json_float, remove
from core.runs.trackers.tables import Table
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
    """The rows of a run's earlier sessions, to be called before anything is logged again; they are kept in `files`.

    Those that the log has taken back are among them where W&B's host has them, which takes nothing back.
    """
    found = SentRows([*(read_rows(files / SENT) if is_elsewhere(files) else []), *read_rows(run_dir / METRICS)])
    if found.rows or (files / SENT).exists():
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


def wandb_tables(tables: Mapping[str, Table]) -> "dict[str, wandb.Table]":
    """Tables as W&B's own."""
    if not tables:
        return {}
    import wandb

    return {name: wandb.Table(columns=[*table.columns], data=[*table.rows], allow_mixed_types=True) for name, table in tables.items()}


def _line_of(row: Row) -> str:
    values = {name: json_float(float(value)) for name, value in row.metrics.items()}
    return json.dumps({"axis": row.axis, row.axis: row.step, **values}, allow_nan=False) + "\n"
