"""trackio: a project's SQLite database in `runs/trackio`, or where TRACKIO_DIR says; `TRACKIO_DIR=runs/trackio trackio show` opens it."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from core.disk import jsonable
from core.runs.trackers.mirror import Entry, RunEnd, TrackedRun
from core.runs.trackers.tables import Table
from core.text import redacted_values

FOLDER = "trackio"


class Trackio:
    """Metrics at the step of their axis, the configuration with study, job and status, and tables.

    It is given rows through its storage: `trackio.init` would start a server, and measure the machine. A run can be deleted there,
    so that a session begins with a fresh one under the same name.
    """

    title = "trackio"

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._last = 0

    def failures(self) -> tuple[type[Exception], ...]:
        return sqlite3.Error, ValueError  # of a project's name, for instance

    def begin(self, entries: Sequence[Entry]) -> None:
        storage, run = self._storage(), self._run
        storage.delete_run(run.project, run.name, run_id=run.id)
        self._write(entries, status="running")

    def write(self, entry: Entry) -> None:
        self._write([entry])

    def end(self, end: RunEnd, best: Mapping[str, float]) -> None:
        self._write([], status=end.value, best=best)

    def _storage(self) -> Any:
        from trackio import sqlite_storage

        if not os.environ.get("TRACKIO_DIR"):
            # It settles on a folder as it is imported, which TRL does before us, and so may a run of another folder in this process.
            sqlite_storage.TRACKIO_DIR = self._run.runs_dir / FOLDER  # pyright: ignore[reportPrivateImportUsage]
        return sqlite_storage.SQLiteStorage

    def _write(self, entries: Sequence[Entry], status: str = "", best: Mapping[str, float] | None = None) -> None:
        rows = [{**entry.row.metrics, **{name: _table(table) for name, table in entry.tables.items()}} for entry in entries]
        steps = [entry.row.step for entry in entries]
        times = [datetime.fromtimestamp(entry.row.time, UTC).isoformat() for entry in entries]
        if not rows:  # with which the configuration is not written
            rows, steps, times = [{}], [self._last], [datetime.now(UTC).isoformat()]
        self._last = max(self._last, *steps)
        run = self._run
        config = {
            "_Group": run.study,
            "study": run.study,
            "job": run.job,
            "status": status,
            **redacted_values(jsonable(run.config)),
            **(best or {}),
        }
        self._storage().bulk_log(run.project, run.name, rows, steps, times, config=config if status else None, run_id=run.id)


def _table(table: Table) -> dict[str, Any]:
    """A table as trackio stores it."""
    return {"_type": "trackio.table", "_value": [dict(zip(table.columns, row, strict=True)) for row in table.rows]}
