"""TensorBoard: an event file in the run's folder. `tensorboard --logdir runs/demo` shows the runs of a study side by side."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from core.disk import remove
from core.runs.trackers.mirror import Entry, RunEnd, TrackedRun

FOLDER = "tensorboard"
_EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """Scalars at the step of their axis; tables, configuration and status as text; the configuration as hyperparameters too.

    Event files take nothing back: a session writes a new file with the whole run and removes the earlier ones. The file begins
    with the mark of a restart at step 0, at which a TensorBoard that is open forgets what it had read. Values are floats of 32 bits.
    """

    title = "TensorBoard"

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._writer: Any = None

    def failures(self) -> tuple[type[Exception], ...]:
        return ()  # it writes files, and fails as they do

    def begin(self, entries: Sequence[Entry]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._close()
        folder: Path = self._run.dir / FOLDER
        earlier = sorted(folder.glob(_EVENTS))
        self._writer = EventFileWriter(str(folder))
        events = _generated("compat.proto.event_pb2")
        start = events.SessionLog(status=events.SessionLog.START)
        self._writer.add_event(events.Event(wall_time=time.time(), step=0, session_log=start))
        run, settings = self._run, self._run.settings
        self._add(hparams_pb({"job": run.job, "study": run.study, **settings}, trial_id=run.id))
        names = {"project": run.project, "study": run.study, "job": run.job, "run": run.name}
        self._add_text("config", _markdown(("key", "value"), [*{**names, **settings}.items()]))
        for entry in entries:
            self._add_entry(entry)
        self._writer.flush()
        for file in earlier:
            remove(file)

    def write(self, entry: Entry) -> None:
        self._add_entry(entry)
        self._writer.flush()

    def end(self, end: RunEnd, best: Mapping[str, float]) -> None:
        self._add_text("status", end.value)
        if best:
            self._add_text("best", _markdown(("metric", "value"), [*best.items()]))
        self._add(_session_end(end))
        self._close()

    def _add_entry(self, entry: Entry) -> None:
        row = entry.row
        summaries = _generated("compat.proto.summary_pb2")
        values = [summaries.Summary.Value(tag=name, simple_value=value) for name, value in row.metrics.items()]
        self._add(summaries.Summary(value=values), step=row.step, at=row.time)
        for name, table in entry.tables.items():
            self._add_text(name, _markdown(table.columns, table.rows), step=row.step, at=row.time)

    def _add_text(self, tag: str, text: str, *, step: int = 0, at: float = 0.0) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(tag, text), step=step, at=at)

    def _add(self, summary: Any, *, step: int = 0, at: float = 0.0) -> None:
        events = _generated("compat.proto.event_pb2")
        self._writer.add_event(events.Event(wall_time=at or time.time(), step=step, summary=summary))

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _session_end(end: RunEnd) -> Any:
    """The end of a run for the page of hyperparameters; what the package itself has for it needs TensorFlow."""
    from tensorboard.plugins.hparams import metadata

    summaries, statuses = _generated("compat.proto.summary_pb2"), _generated("plugins.hparams.api_pb2")
    plugin = _generated("plugins.hparams.plugin_data_pb2")
    status = {RunEnd.finished: statuses.STATUS_SUCCESS, RunEnd.failed: statuses.STATUS_FAILURE, RunEnd.interrupted: statuses.STATUS_UNKNOWN}
    data = plugin.HParamsPluginData(session_end_info=plugin.SessionEndInfo(status=status[end], end_time_secs=time.time()))
    value = summaries.Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR
    )
    return summaries.Summary(value=[value])


def _generated(name: str) -> Any:
    """A module of TensorBoard's that protoc wrote, which has no types."""
    return import_module(f"tensorboard.{name}")


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, each row on a line of its own."""

    def line(cells: Sequence[object]) -> str:
        texts = ["" if cell is None else " ".join(str(cell).replace("|", "\\|").split()) for cell in cells]
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])
