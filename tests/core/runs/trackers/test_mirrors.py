"""Each tracker's files hold the same values as `metrics.jsonl`, whatever became of the run meanwhile."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.records import AXIS
from core.runs.samples import write_samples
from core.runs.trackers.mirror import Destination, Entry, Mirror, RunEnd, TrackedRun
from core.runs.trackers.mlflow_tracker import MLflow
from core.runs.trackers.tensorboard_tracker import TensorBoard
from core.runs.tracking import METRICS, JsonlTracker, Trackers, forget_later, read_rows
from tests.core.runs.test_tracking import history, offline_runs, wandb_records
from tests.core.runs.trackers.readers import assert_all_hold_the_log, events_of, in_log, rows_of_trackio, run_of_mlflow

SESSION = """
import os, signal, sys
from pathlib import Path
import trackio  # as TRL does, before a tracker says where it should write
from core.disk import write_json
from core.runs.samples import write_samples
from core.runs.tracking import JsonlTracker, Trackers, forget_later
from core.runs.trackers.mirror import Mirror, TrackedRun
from core.runs.trackers.mlflow_tracker import MLflow
from core.runs.trackers.tensorboard_tracker import TensorBoard
from core.runs.trackers.trackio_tracker import Trackio
from core.runs.trackers.wandb_tracker import WandbTracker

folder, first, last, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "killed"
config = {"optim": {"lr": 1e-5}, "paths": ["a.jsonl"], "api_key": "hunter2"}
run = TrackedRun(dir=folder, id="12345678", job="rm", study="demo", project="rewardloop", config=config)
files = JsonlTracker(folder / "metrics.jsonl")
named = {"project": "rewardloop", "name": folder.name, "group": "demo", "job": "rm", "id": "12345678"}
wandb = WandbTracker(**named, dir=folder, config=config, mode="offline")
tracker = Trackers([files, wandb, *(Mirror(kind(run), folder) for kind in (TensorBoard, MLflow, Trackio))])
forget_later(folder / "metrics.jsonl", first - 1)
for step in range(first, last + 1):
    tracker.log({"train/loss": 1 / step if step < 4 else float("nan")}, axis="train/step", step=step)
    completions = [{"text": f"a | plum\\nor {first}", "score": 0.5, "correct": True}]
    prompt = [{"role": "user", "content": "Name a fruit."}]
    write_samples(folder, step, "held_out", [{"prompt": prompt, "margin": -0.25, "completions": completions}])
    measured = {"bon/sums@16": step / 7 + first, "kl": float("inf"), "rewardbench2/math": step / 9, "rewardbench2_se/math": 0.125}
    tracker.log(measured, axis="checkpoint/step", step=step)
if killed:
    os.kill(os.getpid(), signal.SIGKILL)
best = {"best_step": last, "best": {"rewardbench2/math": 0.5, "checkpoint/step": last}}
write_json(folder / "record.json", {"id": run.id, "job": "rm", "identity": {}, "status": "finished", **best})
tracker.close(exit_code=int(sys.argv[4]))
"""


def session(folder: Path, first: int, last: int, end: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "TRACKIO", "WANDB"))}
    # Where warnings are errors, W&B reports a folder of its own that it left behind.
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", SESSION, str(folder), str(first), str(last), end]
    return subprocess.run(command, env=kept | {"HOME": str(folder.parents[2])}, capture_output=True, text=True, timeout=300, check=False)


def test_each_trackers_files_hold_the_same_values_as_the_log_of_a_run_that_was_killed_and_went_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo" / "rm-a-12345678"
    assert session(folder, 1, 3, "killed").returncode == -signal.SIGKILL
    ended = session(folder, 2, 5, "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert len(in_log(folder)) == 25
    assert_all_hold_the_log(folder)  # although the second session measures other values than the killed one did
    in_home = [
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.relative_to(tmp_path).parts[0] != "runs"
    ]
    assert [path for path in in_home if "trackio" in path or "staging" in path] == []


def test_each_tracker_holds_samples_scores_settings_and_the_end_beside_the_values(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "demo" / "rm-a-12345678"
    assert session(folder, 1, 2, "0").stderr == ""
    sample = ["", "[user] Name a fruit.", "a | plum\nor 1", 0.5, 1.0, -0.25]
    score = [2, "math", 2 / 9, 0.125]

    events = events_of(folder)
    texts = [event.tensor_proto.string_val[0].decode().splitlines() for event in events.Tensors("samples/held_out")]
    assert [text[2] for text in texts] == ["|  | [user] Name a fruit. | a \\| plum or 1 | 0.5 | 1.0 | -0.25 |"] * 2
    assert f"| 2 | math | {2 / 9} | 0.125 |" in events.Tensors("scores/rewardbench2")[1].tensor_proto.string_val[0].decode()
    assert _text(events, "status") == "finished"
    assert "| best/rewardbench2/math | 0.5 |" in _text(events, "best")
    assert {"| optim.lr | 1e-05 |", "| api_key | *** |"} <= {*_text(events, "config").splitlines()}

    _, run = run_of_mlflow(folder)
    assert (run.info.status, run.data.tags["rewardloop.job"], run.data.tags["best/step"]) == ("FINISHED", "rm", "2.0")
    assert run.data.params == {"optim.lr": "1e-05", "paths": "['a.jsonl']", "api_key": "***"}
    artifacts = folder.parents[1] / "mlflow-artifacts" / "demo" / run.info.run_id / "artifacts"
    tables = [json.loads((artifacts / name / "step-000002.json").read_text()) for name in ("samples/held_out", "scores/rewardbench2")]
    assert [table["data"] for table in tables] == [[sample], [score]]
    assert tables[1]["columns"] == ["step", "name", "score", "standard error"]

    rows = [row for step, row in rows_of_trackio(folder) if step == 2]
    [table] = [row["samples/held_out"]["_value"] for row in rows if "samples/held_out" in row]
    assert [*table[0].values()] == sample
    with sqlite3.connect(folder.parents[1] / "trackio" / "rewardloop.db") as database:
        [(text,)] = database.execute("select config from configs")
    database.close()
    config = json.loads(text)
    kept = {"study": "demo", "job": "rm", "status": "finished", "optim": {"lr": 1e-5}, "api_key": "***", "best/step": 2.0}
    assert {key: config[key] for key in kept} == kept

    [offline] = offline_runs(folder)
    [file] = offline.glob("*.wandb")
    records = wandb_records(file)
    [run] = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["config"]["update"]["api_key"]) == ("demo", "rm", "***")
    summary = {name: value for record in records if record["type"] == "summary" for name, value in record["summary"]["update"].items()}
    assert (summary["best/step"], summary["best/rewardbench2/math"], summary["rewardbench2/math"]) == (2, 0.5, 2 / 9)
    [row] = [row for row in history(records) if row.get(AXIS) == 2]
    shown = [
        json.loads((offline / "files" / row[f"{name}.path"]).read_text())["data"] for name in ("samples/held_out", "scores/rewardbench2")
    ]
    assert shown == [[sample], [score]]
    staged = [
        entry["local_path"] for record in records if record["type"] == "artifact" for entry in record["artifact"]["manifest"]["contents"]
    ]
    assert len(staged) == 4
    assert all(Path(path).is_file() and Path(path).is_relative_to(folder) for path in staged)


def _text(events: Any, tag: str) -> str:
    [event] = events.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


def tracked(folder: Path) -> TrackedRun:
    return TrackedRun(dir=folder, id="12345678", job="rm", study="demo", project="rewardloop", config={"seed": 0})


@pytest.mark.parametrize(("exit_code", "status"), [(0, "finished"), (1, "failed"), (75, "interrupted"), (130, "interrupted")])
def test_tensorboard_says_how_a_run_ended(tmp_path: Path, exit_code: int, status: str) -> None:
    tracker = Trackers([JsonlTracker(tmp_path / METRICS), Mirror(TensorBoard(tracked(tmp_path)), tmp_path)])
    tracker.close(exit_code=exit_code)
    assert _text(events_of(tmp_path), "status") == status


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


def test_names_and_settings_longer_than_mlflow_takes_are_cut_and_whole_in_its_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "demo" / "rm-a-12345678"
    paths = [f"/data/part-{number:05d}.jsonl" for number in range(500)]
    run = replace(tracked(folder), config={"data": {"paths": paths}, "x" * 300: 1})
    tracker = Trackers([JsonlTracker(folder / METRICS), Mirror(MLflow(run), folder)])
    tracker.log({"downstream/" + "y" * 300: 0.5}, axis=AXIS, step=1)
    tracker.close()
    assert "does not work" not in capsys.readouterr().err
    client, found = run_of_mlflow(folder)
    assert found.data.params == {"data.paths": str(paths)[:6000], "x" * 250: "1"}
    assert found.data.metrics == {("downstream/" + "y" * 300)[:250]: 0.5}
    config = Path(client.download_artifacts(found.info.run_id, "config.json", str(tmp_path)))
    assert json.loads(config.read_text())["data"]["paths"] == paths


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

    def end(self, end: RunEnd, best: Mapping[str, float]) -> None:
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
