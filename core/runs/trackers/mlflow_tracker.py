"""MLflow: a run in the store that MLFLOW_TRACKING_URI names, or else in `runs/mlflow.db`."""

import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.disk import jsonable
from core.runs.trackers.mirror import Entry, RunEnd, TrackedRun
from core.text import redacted_values

STORE = "mlflow.db"
_ID = "rewardloop.id"
_BATCH = 500
"""Metrics in one request, of at most 1,000."""
_TAGS = 100
"""Tags in one request, at most."""
_NAME_LENGTH, _PARAM_LENGTH = 250, 6000
"""Characters of a name and of a parameter, at most; `config.json` has all."""
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Unless the user says otherwise: nothing is sent to its makers, and a server that does not answer holds a run up for seconds only."""

Point = tuple[str, int, str]
"""A metric, its step and its value, as text since NaN equals nothing."""


class MLflow:
    """Metrics at the step of their axis, the configuration as parameters and `config.json`, tables as artifacts, what was best as tags.

    An experiment holds a study. MLflow takes no metric back: where the log did, a new run takes the place of the earlier one, which
    MLflow keeps among its deleted runs. Otherwise a resumed run goes on in the same one. `@` in a name is written `_at_`, and an
    infinite value is the largest number that there is.
    """

    title = "MLflow"

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._client: Any = None
        self._id = ""

    def failures(self) -> tuple[type[Exception], ...]:
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        return MlflowException, SQLAlchemyError, CommandError

    def begin(self, entries: Sequence[Entry]) -> None:
        with self._alone():
            experiment = self._opened()
            points = {point for entry in entries for point in _points(entry)}
            self._id, held = "", set[Point]()
            for found in self._client.search_runs([experiment], f"tags.`{_ID}` = '{self._run.id}'"):
                its = self._held(found)
                if not self._id and its <= points:
                    self._id, held = found.info.run_id, its
                else:
                    self._client.delete_run(found.info.run_id)
            if self._id:
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._created(experiment)
        self._log([entry for entry in entries if not held.issuperset(_points(entry))])

    def write(self, entry: Entry) -> None:
        self._log([entry])

    def end(self, end: RunEnd, best: Mapping[str, float]) -> None:
        from mlflow.entities import RunTag

        statuses = {RunEnd.finished: "FINISHED", RunEnd.failed: "FAILED", RunEnd.interrupted: "KILLED"}
        if best:
            self._client.log_batch(self._id, tags=[RunTag(_name(name), str(value)) for name, value in best.items()][:_TAGS])
        self._client.set_terminated(self._id, status=statuses[end])

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Context in which no other run makes the store or the experiment, which MLflow does not do atomically."""
        self._run.runs_dir.mkdir(parents=True, exist_ok=True)
        with (self._run.runs_dir / f".{STORE}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _opened(self) -> str:
        """The experiment of the study, made if absent."""
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        run = self._run
        given = os.environ.get("MLFLOW_TRACKING_URI")
        if not given and not (run.runs_dir / STORE).exists():
            _make_store(run.runs_dir / STORE)
        self._client = MlflowClient(tracking_uri=given or f"sqlite:///{run.runs_dir / STORE}")
        name = f"{run.project}/{run.study}"
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        artifacts = None if given else (run.runs_dir / "mlflow-artifacts" / run.study).as_uri()
        return self._client.create_experiment(name, artifact_location=artifacts)

    def _created(self, experiment: str) -> str:
        from mlflow.entities import Param

        run = self._run
        tags = {_ID: run.id, "rewardloop.job": run.job, "rewardloop.study": run.study, "rewardloop.dir": str(run.dir)}
        created: str = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        params = [Param(_name(key), str(value)[:_PARAM_LENGTH]) for key, value in run.settings.items()]
        for first in range(0, len(params), 100):  # as many as it takes at a time
            self._client.log_batch(created, params=params[first : first + 100])
        self._client.log_dict(created, redacted_values(jsonable(run.config)), "config.json")
        return created

    def _held(self, run: Any) -> set[Point]:
        history = [metric for key in run.data.metrics for metric in self._client.get_metric_history(run.info.run_id, key)]
        return {_point(metric.key, metric.step, metric.value) for metric in history}

    def _log(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        # Before the metrics, by which a resumed run sees what MLflow holds already.
        for entry in entries:
            for name, table in entry.tables.items():
                held: Mapping[str, object] = {"columns": table.columns, "data": table.rows}
                self._client.log_dict(self._id, jsonable(held), f"{name}/step-{entry.row.step:06d}.json")
        metrics = [
            Metric(_name(name), value, int(entry.row.time * 1000), entry.row.step)
            for entry in entries
            for name, value in entry.row.metrics.items()
        ]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._id, metrics=metrics[first : first + _BATCH])


def _make_store(path: Path) -> None:
    """Makes an empty store in memory where there is room, and copies it: each of MLflow's many steps would wait for the disk."""
    from mlflow import MlflowClient

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        made = Path(folder) / STORE
        MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments()
        temporary = path.with_name(f".tmp-{path.name}")
        shutil.copyfile(made, temporary)
        temporary.replace(path)


def _points(entry: Entry) -> list[Point]:
    return [_point(_name(name), entry.row.step, value) for name, value in entry.row.metrics.items()]


def _point(name: str, step: int, value: float) -> Point:
    return name, step, str(max(min(value, sys.float_info.max), -sys.float_info.max) if value == value else value)


def _name(name: str) -> str:
    """A name in the characters that MLflow takes."""
    return re.sub(r"[^/\w.\- ]", lambda match: f"_{ord(match[0]):x}_", name.replace("@", "_at_"))[:_NAME_LENGTH]
