"""Each tracker's files hold the same values as `metrics.jsonl`, whatever became of the run meanwhile."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.records import AXIS
from core.runs.samples import write_samples
from core.runs.trackers.mirror import Destination, Entry, Mirror, RunEnd, TrackedRun
from core.runs.trackers.mlflow_tracker import MLflow
from core.runs.trackers.tensorboard_tracker import TensorBoard
from core.runs.tracking import METRICS, JsonlTracker, Trackers, forget_later, read_rows

SESSION = """
import os, signal, sys
from pathlib import Path
from core.runs.samples import write_samples
from core.runs.tracking import JsonlTracker, Trackers, forget_later
from core.runs.trackers.mirror import Mirror, TrackedRun
from core.runs.trackers.mlflow_tracker import MLflow
from core.runs.trackers.tensorboard_tracker import TensorBoard
from core.runs.trackers.trackio_tracker import Trackio

folder, first, last, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "killed"
config = {"optim": {"lr": 1e-5}, "paths": ["a.jsonl"], "api_key": "hunter2"}
run = TrackedRun(dir=folder, id="12345678", job="rm", study="demo", project="rewardloop", config=config)
files = JsonlTracker(folder / "metrics.jsonl")
tracker = Trackers([files, *(Mirror(kind(run), folder) for kind in (TensorBoard, MLflow, Trackio))])
forget_later(folder / "metrics.jsonl", first - 1)
for step in range(first, last + 1):
    tracker.log({"train/loss": 1 / step if step < 4 else float("nan")}, axis="train/step", step=step)
    completions = [{"text": f"a | plum\\nor {first}", "score": 0.5, "correct": True}]
    prompt = [{"role": "user", "content": "Name a fruit."}]
    write_samples(folder, step, "held_out", [{"prompt": prompt, "margin": -0.25, "completions": completions}])
    # The second session measures other values than the killed one did: what that had is taken back.
    tracker.log({"bon/sums@16": step / 7 + first, "kl": float("inf")}, axis="checkpoint/step", step=step)
if killed:
    os.kill(os.getpid(), signal.SIGKILL)
tracker.close(exit_code=int(sys.argv[4]))
"""

Values = dict[tuple[str, int], list[float]]


def session(folder: Path, first: int, last: int, end: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "TRACKIO", "WANDB"))}
    command = [sys.executable, "-W", "error", "-c", SESSION, str(folder), str(first), str(last), end]
    return subprocess.run(command, env=kept | {"HOME": str(folder.parent)}, capture_output=True, text=True, timeout=300, check=False)


def logged(folder: Path) -> Values:
    """The values of the log by metric and step, each in a list: twice in a tracker would be two."""
    return {(name, row.step): [value] for row in read_rows(folder / METRICS) for name, value in row.metrics.items()}


def test_each_trackers_files_hold_the_same_values_as_the_log_of_a_run_that_was_killed_and_went_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo" / "rm-a-12345678"
    assert session(folder, 1, 3, "killed").returncode == -signal.SIGKILL
    ended = session(folder, 2, 5, "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    expected = logged(folder)
    assert len(expected) == 15
    in_trackio, in_mlflow, in_tensorboard = _in_trackio(folder), _in_mlflow(folder), _in_tensorboard(folder)
    np.testing.assert_equal(in_trackio, expected)
    largest = {key: [min(value, sys.float_info.max) for value in values] for key, values in expected.items()}
    np.testing.assert_equal(in_mlflow, {(name.replace("@", "_at_"), step): values for (name, step), values in largest.items()})
    np.testing.assert_equal(in_tensorboard, {key: [float(np.float32(value)) for value in values] for key, values in expected.items()})


def _in_trackio(folder: Path) -> Values:
    found: Values = {}
    database = sqlite3.connect(folder.parents[1] / "trackio" / "rewardloop.db")
    for name, step, metrics in database.execute("select run_name, step, metrics from metrics"):
        assert name == folder.name
        row = json.loads(metrics)
        if table := row.pop("samples/held_out", None):
            assert table["_value"][0]["completion"] == f"a | plum\nor {1 if step < 2 else 2}"
        for metric, value in row.items():
            found.setdefault((metric, step), []).append(float(value))
    [(text,)] = database.execute("select config from configs")
    config = json.loads(text)
    assert (config["study"], config["job"], config["status"], config["optim"], config["api_key"]) == (
        *("demo", "rm", "finished", {"lr": 1e-5}, "***"),
    )
    return found


def _in_mlflow(folder: Path) -> Values:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("rewardloop/demo")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])  # the killed one's is among the deleted
    assert (run.info.run_name, run.info.status, run.data.tags["rewardloop.job"]) == (folder.name, "FINISHED", "rm")
    assert run.data.params == {"optim.lr": "1e-05", "paths": "['a.jsonl']", "api_key": "***"}
    artifacts = folder.parents[1] / "mlflow-artifacts" / "demo" / run.info.run_id / "artifacts"
    table = json.loads((artifacts / "samples" / "held_out" / "step-000002.json").read_text())
    assert table["data"] == [["", "[user] Name a fruit.", "a | plum\nor 2", 0.5, 1.0, -0.25]]
    found: Values = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault((metric.key, metric.step), []).append(metric.value)
    return found


def _in_tensorboard(folder: Path) -> Values:
    events = _events(folder)
    found: Values = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault((name, event.step), []).append(event.value)
    samples = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples/held_out")]
    assert [text.splitlines()[2] for text in samples[:2]] == [
        f"|  | [user] Name a fruit. | a \\| plum or {first} | 0.5 | 1.0 | -0.25 |" for first in (1, 2)
    ]
    assert len(samples) == 5
    assert _text(events, "status") == "finished"
    assert "| optim.lr | 1e-05 |" in _text(events, "config")
    assert "| api_key | *** |" in _text(events, "config")
    return found


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def _text(events: Any, tag: str) -> str:
    [event] = events.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


def tracked(folder: Path) -> TrackedRun:
    return TrackedRun(dir=folder, id="12345678", job="rm", study="demo", project="rewardloop", config={"seed": 0})


@pytest.mark.parametrize(("exit_code", "status"), [(0, "finished"), (1, "failed"), (75, "interrupted"), (130, "interrupted")])
def test_tensorboard_says_how_a_run_ended(tmp_path: Path, exit_code: int, status: str) -> None:
    tracker = Trackers([JsonlTracker(tmp_path / METRICS), Mirror(TensorBoard(tracked(tmp_path)), tmp_path)])
    tracker.close(exit_code=exit_code)
    assert _text(_events(tmp_path), "status") == status


def test_a_run_of_mlflows_goes_on_where_nothing_was_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / "demo" / "rm-a-12345678"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for steps, code, status in (((1, 2), 75, "KILLED"), ((3,), 1, "FAILED"), ((4,), 0, "FINISHED")):
        tracker = Trackers([JsonlTracker(folder / METRICS), Mirror(MLflow(tracked(folder)), folder)])
        for step in steps:
            tracker.log({"a": math.nan if step == 1 else step}, axis="train/step", step=step)
        tracker.close(exit_code=code)
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.get_experiment_by_name("rewardloop/demo")
        assert experiment is not None
        [run] = client.search_runs([experiment.experiment_id], run_view_type=3)  # the deleted ones too
        assert run.info.status == status
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, "a")] == [*range(1, steps[-1] + 1)]


def test_samples_that_a_killed_run_could_not_give_to_mlflow_are_there_after_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "demo" / "rm-a-12345678"
    sample = {"prompt": [{"role": "user", "content": "Name a fruit."}], "completions": [{"text": "plum", "score": 0.5}]}
    write_samples(folder, 2, "held_out", [sample])

    def killed(*_: object) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as dying:
        tracker = Trackers([JsonlTracker(folder / METRICS), Mirror(MLflow(tracked(folder)), folder)])
        tracker.log({"loss": 0.5}, axis="train/step", step=1)
        dying.setattr(MlflowClient, "log_dict", killed)
        with pytest.raises(SystemExit):
            tracker.log({"accuracy": 0.7}, axis=AXIS, step=2)
    again = Trackers([JsonlTracker(folder / METRICS), Mirror(MLflow(tracked(folder)), folder)])
    again.close()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("rewardloop/demo")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"loss": 0.5, "accuracy": 0.7}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "samples/held_out")] == ["samples/held_out/step-000002.json"]


class Fragile(Destination):
    """Fails while `broken`."""

    title = "Fragile"

    def __init__(self) -> None:
        self.broken = False
        self.held: list[tuple[int, dict[str, float]]] = []
        self.ends: list[RunEnd] = []

    def failures(self) -> tuple[type[Exception], ...]:
        return (ZeroDivisionError,)

    def begin(self, entries: Sequence[Entry]) -> None:
        self.held.clear()
        for entry in entries:
            self.write(entry)

    def write(self, entry: Entry) -> None:
        if self.broken:
            raise ZeroDivisionError("no   such\nservice")
        self.held.append((entry.row.step, dict(entry.row.metrics)))

    def end(self, end: RunEnd) -> None:
        self.ends.append(end)


def test_a_tracker_that_fails_costs_one_line_and_is_tried_once_more_in_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fragile = Fragile()
    tracker = Trackers([JsonlTracker(tmp_path / METRICS), Mirror(fragile, tmp_path)])
    for step in range(1, 5):
        fragile.broken = step > 1
        tracker.log({"a": step}, axis="train/step", step=step)
    assert [step for step, _ in fragile.held] == [1]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Fragile does not work (no such service); the metrics of {tmp_path.name} go on in its metrics.jsonl")
    fragile.broken = False
    tracker.close()
    assert [step for step, _ in fragile.held] == [1, 2, 3, 4]
    assert (fragile.ends, capsys.readouterr().err) == ([RunEnd.finished], "")


def test_a_step_that_the_log_repeats_or_takes_back_stands_once(tmp_path: Path) -> None:
    fragile = Fragile()
    tracker = Trackers([JsonlTracker(tmp_path / METRICS), Mirror(fragile, tmp_path)])
    for step in (1, 2, 3):
        tracker.log({"a": step, "b": step}, axis="train/step", step=step)
    forget_later(tmp_path / METRICS, 2)
    tracker.log({"a": 30}, axis="train/step", step=3)
    assert fragile.held == [(1, {"a": 1, "b": 1}), (2, {"a": 2, "b": 2}), (3, {"a": 30})]
    tracker.log({"a": 20}, axis="train/step", step=2)
    assert fragile.held == [(1, {"a": 1, "b": 1}), (2, {"b": 2}), (3, {"a": 30}), (2, {"a": 20})]


def test_a_folder_that_tensorboard_cannot_write_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    tracker = Trackers([JsonlTracker(tmp_path / METRICS), Mirror(TensorBoard(tracked(tmp_path)), tmp_path)])
    for step in (1, 2):
        tracker.log({"a": step}, axis="train/step", step=step)
    assert capsys.readouterr().err.count("TensorBoard does not work") == 1
    tracker.close()
    assert "the run's next start writes them all" in capsys.readouterr().err


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x"])
def test_a_server_of_mlflows_that_does_not_answer_costs_lines_and_no_run(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = tmp_path / "demo" / "rm-a-12345678"
    tracker = Trackers([JsonlTracker(folder / METRICS), Mirror(MLflow(tracked(folder)), folder)])
    for step in (1, 2):
        tracker.log({"a": step}, axis="train/step", step=step)
    assert capsys.readouterr().err.count("MLflow does not work") == 1
    tracker.close()
    assert [row.step for row in read_rows(folder / METRICS)] == [1, 2]
