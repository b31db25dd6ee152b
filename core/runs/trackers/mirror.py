"""Trackers that mirror a run's log: through kills and resumes they hold the rows of `metrics.jsonl`, each once.

A resumed run takes lines of its log back and writes them again. Hardly a tracker can take anything back, so a mirror follows the
file itself: where the log grew, the new rows are written; where it was rewritten, the destination begins anew with what it holds now.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from core.disk import BrokenFileError, jsonable
from core.process.signals import EXIT_CODE, INTERRUPTED
from core.records import AXIS
from core.runs.record import RunStatus, read_record
from core.runs.trackers.tables import CheckpointTables, Table
from core.runs.tracking import METRICS, Row, row_of
from core.text import redacted_values, shown


class RunEnd(StrEnum):
    """How a run ended."""

    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"
    """Stopped; the same command goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What trackers show of a run besides its rows; `config` has its secrets hidden.

    >>> TrackedRun(dir=Path("runs/demo/rm-a-1234"), id="1234", job="rm", study="demo", project="p", config={"seed": 0}).name
    'rm-a-1234'
    """

    dir: Path
    id: str
    job: str
    study: str
    project: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def runs_dir(self) -> Path:
        """The folder of all studies."""
        return self.dir.parent.parent.absolute()

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration flat, a key like `optim.lr` for each plain value; lists are text."""
        return _flat(redacted_values(jsonable(self.config)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A row of the log, and the tables that go with it.

    >>> Entry(row=Row(axis="train/step", step=3, metrics={"train/loss": 0.7})).tables
    {}
    """

    row: Row
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])


class Destination(Protocol):
    """Where a mirror writes."""

    title: str
    """What messages call it."""

    def failures(self) -> tuple[type[Exception], ...]:
        """What it raises if it does not work."""
        ...

    def begin(self, entries: Sequence[Entry]) -> None:
        """Makes `entries` all that there is of the run, whatever earlier sessions left."""
        ...

    def write(self, entry: Entry) -> None:
        """Adds an entry."""
        ...

    def end(self, end: RunEnd, best: Mapping[str, float]) -> None:
        """Notes how the run ended and what was best (see `best_of`), and releases everything."""
        ...


class Mirror:
    """A `Tracker` that keeps a destination like the log in the run's folder, which must have been written first.

    If the destination fails, one line says so and the run goes on; in the end it is tried once more with the whole log.
    """

    def __init__(self, destination: Destination, run_dir: Path) -> None:
        self._destination, self._run_dir = destination, run_dir
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._known: set[tuple[str, int, str]] = set()
        self._tables = CheckpointTables(run_dir)
        self._failed = False
        if is_new(run_dir):
            self._try()

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        """Has the destination follow the log, in which the row stands already."""
        self._try()

    def close(self, *, exit_code: int = 0) -> None:
        """Notes the end of the run: interrupted if `exit_code` is that of a stopped run."""
        end = RunEnd.finished if exit_code == 0 else RunEnd.interrupted if exit_code in (EXIT_CODE, INTERRUPTED) else RunEnd.failed
        if self._failed:
            self._file = None

        def finish() -> None:
            self._follow()
            self._destination.end(end, best_of(self._run_dir))

        if error := self._tried(finish):
            self._say(error, "the run's next start writes them all")

    def _try(self) -> None:
        if not self._failed and (error := self._tried(self._follow)):
            self._failed = True
            self._say(error, "they are tried once more in the end")

    def _tried(self, function: Callable[[], None]) -> Exception | None:
        try:
            function()
        except (OSError, *self._destination.failures()) as error:
            return error
        return None

    def _say(self, error: Exception, then: str) -> None:
        reason = " ".join(shown(str(error)).split())[:200] or type(error).__name__
        said = f"{self._destination.title} does not work ({reason}); the metrics of {self._run_dir.name} go on in its {METRICS}, and {then}"
        print(said, file=sys.stderr, flush=True)

    def _follow(self) -> None:
        """Writes what is new in the log, or begins anew if the log was rewritten or repeats itself."""
        path = self._run_dir / METRICS
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            grew = self._file == (state.st_dev, state.st_ino) and state.st_size >= self._offset
            file.seek(self._offset if grew else 0)
            whole, line_feed, _ = file.read().rpartition(b"\n")
        rows = _rows(whole, path)
        if grew and any((row.axis, row.step, name) in self._known for row in rows for name in row.metrics):
            self._file = None
            self._follow()
            return
        if not grew:
            self._offset = 0
            self._known.clear()
            self._tables.forget()
            rows = _once(rows)
        entries = [Entry(row=row, tables=self._tables.of(row)) for row in rows]
        if grew:
            for entry in entries:
                self._destination.write(entry)
        else:
            self._destination.begin(entries)
        self._known.update((row.axis, row.step, name) for row in rows for name in row.metrics)
        self._file, self._offset = (state.st_dev, state.st_ino), self._offset + len(whole + line_feed)


def is_new(run_dir: Path) -> bool:
    """Whether a run's log is there and empty: nothing can be taken back, so a tracker starts at once, before any speed is measured."""
    return (run_dir / METRICS).is_file() and not (run_dir / METRICS).stat().st_size


def best_of(run_dir: Path) -> dict[str, float]:
    """Of a finished run its best checkpoint and what was measured there, as `best/step` and `best/rewardbench2/overall` for instance; else
    nothing."""
    try:
        record = read_record(run_dir)
    except (FileNotFoundError, BrokenFileError):  # a tracker can be used without a record, and whoever opens the run says what is broken
        return {}
    if record["status"] != RunStatus.finished or record.get("best_step") is None:
        return {}
    measured = record.get("at_best") or record.get("best") or {}
    return {"best/step": float(record["best_step"]), **{f"best/{name}": float(value) for name, value in measured.items() if name != AXIS}}


def _rows(lines: bytes, path: Path) -> list[Row]:
    found = [row_of(line, str(path)) for line in lines.decode("utf-8", errors="replace").split("\n") if line.strip()]
    return [row for row in found if row is not None]


def _once(rows: Sequence[Row]) -> list[Row]:
    """The rows with each metric once per axis and step, the later of repeated ones, as `read_metrics` reads a log."""
    last = {(row.axis, row.step, name): number for number, row in enumerate(rows) for name in row.metrics}
    kept: list[Row] = []
    for number, row in enumerate(rows):
        metrics = {name: value for name, value in row.metrics.items() if last[row.axis, row.step, name] == number}
        if metrics:
            kept.append(Row(axis=row.axis, step=row.step, metrics=metrics, time=row.time))
    return kept


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: value if isinstance(value, str | bool | int | float) else str(value)} if prefix else {}
