"""What each tracker holds of a run, read back by its own reader, beside what `metrics.jsonl` says that it should hold."""

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.runs.trackers.tables import is_table
from core.runs.tracking import AXES, METRICS, read_rows
from tests.core.runs.test_tracking import history, offline_runs, step_metrics, wandb_records

Values = dict[tuple[str, int], list[float]]
"""Values by metric and step, each in a list: twice in a tracker would be two."""


def in_log(folder: Path) -> Values:
    return {(name, row.step): [value] for row in read_rows(folder / METRICS) for name, value in row.metrics.items()}


def in_wandb(folder: Path) -> Values:
    """Of the one offline folder that there is; each value must stand in a row with the axis to which its metric is bound."""
    [run] = offline_runs(folder)
    [file] = run.glob("*.wandb")
    records = wandb_records(file)
    bound, found = step_metrics(records), Values()
    for row in history(records):
        [axis] = [axis for axis in AXES if axis in row]
        for name, value in row.items():
            if name != axis and not is_table(name):
                assert bound[name] == axis, name
                found.setdefault((name, int(row[axis])), []).append(float(value))
    return found


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def in_tensorboard(folder: Path) -> Values:
    found, events = Values(), events_of(folder)
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault((name, event.step), []).append(event.value)
    return found


def run_of_mlflow(folder: Path) -> tuple[Any, Any]:
    """MLflow's client, and the one run of this name that is not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"rewardloop/{folder.parent.name}")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{folder.name}'")
    return client, run


def in_mlflow(folder: Path) -> Values:
    client, run = run_of_mlflow(folder)
    found = Values()
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault((metric.key, metric.step), []).append(metric.value)
    return found


def rows_of_trackio(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    with sqlite3.connect(folder.parents[1] / "trackio" / "rewardloop.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = ?", (folder.name,)).fetchall()
    database.close()
    return [(step, json.loads(metrics)) for step, metrics in rows]


def in_trackio(folder: Path) -> Values:
    found = Values()
    for step, row in rows_of_trackio(folder):
        for name, value in row.items():
            if not is_table(name):
                found.setdefault((name, step), []).append(float(value))
    return found


def _as_mlflow(values: Values) -> Values:
    """`@` is no character of a name there, and infinity no number."""
    limit = sys.float_info.max
    return {
        (name.replace("@", "_at_"), step): [value if value != value else min(max(value, -limit), limit) for value in held]
        for (name, step), held in values.items()
    }


def _as_tensorboard(values: Values) -> Values:
    """Values have 32 bits there."""
    return {key: [float(np.float32(value)) for value in held] for key, held in values.items()}


TRACKERS: Mapping[str, tuple[Callable[[Path], Values], Callable[[Values], Values]]] = {
    "wandb": (in_wandb, lambda values: values),
    "tensorboard": (in_tensorboard, _as_tensorboard),
    "mlflow": (in_mlflow, _as_mlflow),
    "trackio": (in_trackio, lambda values: values),
}
"""How each is read, and what it makes of values."""


def assert_all_hold_the_log(folder: Path, *trackers: str) -> None:
    """Compares each tracker (by default all) with the log of a run, value for value."""
    logged = in_log(folder)
    assert logged
    for name in trackers or TRACKERS:
        read, as_held = TRACKERS[name]
        np.testing.assert_equal(read(folder), as_held(logged), err_msg=name)
