"""Metrics reach files and W&B on their own step axis, and survive a kill, a resume and a late result."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.runs.samples import write_samples
from core.runs.trackers.wandb_tracker import WandbTracker
from core.runs.tracking import JsonlTracker, Trackers, forget_later, read_metrics
from tests.fakes import ListTracker

DOMAINS = ("factuality", "precise_if", "math", "safety", "focus", "ties")
AXIS = "checkpoint/step"


def wandb_records(path: Path) -> list[dict[str, Any]]:
    """The records of an offline run, one JSON object a line, as W&B's own reader prints them."""
    wandb = Path(sys.executable).parent / "wandb"
    inspected = subprocess.run([wandb, "leet", "inspect", "--json", path], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in inspected.stdout.splitlines()]


def offline_runs(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The logged rows, without the columns that W&B adds."""
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [{name: value for name, value in item.items() if not name.startswith("_")} for item in items]


def step_metrics(records: list[dict[str, Any]]) -> dict[str, str | None]:
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    return {metric["name"]: metric.get("step_metric") for metric in metrics}


def offline_tracker(run_dir: Path, *, name: str = "rm", id: str | None = None, config: Mapping[str, Any] | None = None) -> WandbTracker:
    return WandbTracker(project="demo", name=name, group="study", dir=run_dir, config=config or {}, mode="offline", id=id)


def run_python(code: str, *arguments: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process whose environment and home know nothing of W&B but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    home = {"HOME": str(arguments[0]), "NETRC": str(arguments[0] / "netrc"), "WANDB_CONFIG_DIR": str(arguments[0] / "config")}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=kept | home | environment, capture_output=True, text=True, check=False)


def test_a_line_holds_its_axis_step_time_and_metrics(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "run" / "metrics.jsonl")
    tracker.log({"rewardbench2/math": 0.5, "ppo/kl": float("nan"), "top": float("-inf")}, axis=AXIS, step=12)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line.pop("time") > 1.7e9
    assert line == {"axis": AXIS, AXIS: 12, "rewardbench2/math": 0.5, "ppo/kl": "NaN", "top": "-Infinity"}


def test_metrics_are_read_back_by_step_and_a_repeated_step_overrides_key_by_key(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log({"bon/sums@16": 0.3}, axis=AXIS, step=20)
    tracker.log({"rewardbench2/math": 0.1, "rewardbench2/ties": 0.2}, axis=AXIS, step=10)
    tracker.log({"train/loss": 0.7}, axis="train/step", step=10)
    tracker.log({"rewardbench2/math": float("inf")}, axis=AXIS, step=10)
    metrics = read_metrics(tmp_path / "metrics.jsonl", axis=AXIS)
    assert metrics == {10: {"rewardbench2/math": float("inf"), "rewardbench2/ties": 0.2}, 20: {"bon/sums@16": 0.3}}
    assert list(metrics) == [10, 20]
    assert read_metrics(tmp_path / "metrics.jsonl", axis="train/step") == {10: {"train/loss": 0.7}}


def test_a_torn_last_line_is_left_out_by_a_reader_and_cut_off_by_the_next_tracker(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonlTracker(path).log({"a": 1.0}, axis=AXIS, step=1)
    with path.open("a") as file:
        file.write('{"axis": "checkpoint/step", "checkpoint/step": 2, "a": 2')
    assert read_metrics(path, axis=AXIS) == {1: {"a": 1.0}}
    JsonlTracker(path).log({"a": 3.0}, axis=AXIS, step=3)
    assert read_metrics(path, axis=AXIS) == {1: {"a": 1.0}, 3: {"a": 3.0}}
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("spoilt", r"is no JSON \(Expecting value"),
        ("\0\0\0", "is no JSON"),
        ("[1]", "holds no metrics"),
        ('{"a": 1}', r"holds no metrics \(KeyError: 'axis'\)"),
        (f'{{"axis": "{AXIS}", "a": 1}}', "holds no metrics"),
        (f'{{"axis": "{AXIS}", "{AXIS}": 7, "a": "high"}}', "holds no metrics"),
        (f'{{"axis": "{AXIS}", "{AXIS}": 7, "a": {{}}}}', "holds no metrics"),
    ],
)
def test_a_line_without_metrics_is_skipped_and_named(tmp_path: Path, line: str, why: str) -> None:
    path, said = tmp_path / "metrics.jsonl", list[str]()
    JsonlTracker(path).log({"a": 1.0}, axis=AXIS, step=1)
    path.write_text(f"{line}\n{path.read_text()}")
    assert read_metrics(path, axis=AXIS, say=said.append) == {1: {"a": 1.0}}
    assert len(said) == 1
    assert re.match(re.escape(f"{path}:1 ") + why, said[0])
    assert said[0].endswith("the line is skipped.")


def test_lines_that_are_no_json_are_dropped_with_a_line_when_the_run_is_opened_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonlTracker(path).log({"a": 1.0}, axis=AXIS, step=1)
    whole = path.read_bytes()
    JsonlTracker(path)
    assert (path.read_bytes(), capsys.readouterr().err) == (whole, "")
    path.write_bytes(b'{"axis": "train/st\x00\n' + whole + b"\xff garbage\n" + whole[:-3])
    JsonlTracker(path).log({"a": 2.0}, axis=AXIS, step=2)
    assert read_metrics(path, axis=AXIS, say=pytest.fail) == {1: {"a": 1.0}, 2: {"a": 2.0}}
    assert len(path.read_text().splitlines()) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"{path}: the last line was not written completely; it is dropped."
    assert [line.split(" is no JSON")[0] for line in said[1:]] == [f"{path}:1", f"{path}:3"]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_without_metrics_reads_as_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl", axis=AXIS) == {}
    JsonlTracker(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "metrics.jsonl", axis=AXIS) == {}


def test_a_metric_may_not_take_the_name_of_a_column_and_a_closed_tracker_takes_none(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="named time"):
        tracker.log({"time": 1.0}, axis=AXIS, step=1)
    tracker.close()
    with pytest.raises(ValueError, match="closed"):
        tracker.log({"a": 1.0}, axis=AXIS, step=1)


def test_the_six_domains_are_bound_to_the_checkpoint_axis_in_wandb(tmp_path: Path) -> None:
    tracker = offline_tracker(tmp_path, config={"lr": 3e-6, "out": Path("runs") / "a"})
    tracker.log({"train/loss": 0.7}, axis="train/step", step=40)
    tracker.log({f"rewardbench2/{domain}": 0.5 for domain in DOMAINS}, axis=AXIS, step=30)
    # A result that comes late: W&B would drop a row whose native step is smaller than the last one.
    tracker.log({"downstream/average": 0.25, "ppo/kl": float("nan")}, axis=AXIS, step=10)
    tracker.close()
    (run,) = offline_runs(tmp_path)
    records = wandb_records(run)
    bound = step_metrics(records)
    assert {name: bound[name] for name in bound if name.startswith("rewardbench2/")} == {f"rewardbench2/{d}": AXIS for d in DOMAINS}
    assert bound["train/loss"] == "train/step"
    assert bound["downstream/average"] == AXIS
    assert bound[AXIS] is None
    assert history(records) == [
        {"train/step": 40, "train/loss": 0.7},
        {AXIS: 30, **{f"rewardbench2/{domain}": 0.5 for domain in DOMAINS}},
        {AXIS: 10, "downstream/average": 0.25, "ppo/kl": "NaN"},
    ]
    (settings,) = [record["run"] for record in records if record["type"] == "run"]
    assert settings["display_name"] == "rm"
    assert settings["run_group"] == "study"
    config = {name: value for name, value in settings["config"]["update"].items() if name != "_wandb"}
    assert config == {"lr": 3e-6, "out": "runs/a"}


def test_two_runs_in_one_process_are_two_runs_even_where_the_first_is_still_open(tmp_path: Path) -> None:
    first = offline_tracker(tmp_path / "first", name="first", id="aaaa1111")
    second = offline_tracker(tmp_path / "second", name="second", id="bbbb2222")
    for tracker, value in ((first, 1.0), (second, 2.0)):
        tracker.log({"a": value}, axis=AXIS, step=1)
        tracker.close()
    assert history(wandb_records(offline_runs(tmp_path / "first")[0])) == [{AXIS: 1, "a": 1.0}]
    assert history(wandb_records(offline_runs(tmp_path / "second")[0])) == [{AXIS: 1, "a": 2.0}]


def session(run_dir: Path, steps: Iterable[int], *, exit_code: int = 0) -> None:
    """What a run logs in a session that starts after step 2, its last checkpoint, to its own log and to W&B."""
    files, wandb = JsonlTracker(run_dir / "metrics.jsonl"), offline_tracker(run_dir, id="cccc3333")
    forget_later(run_dir / "metrics.jsonl", 2)
    tracker = Trackers([files, wandb])
    for step in steps:
        tracker.log({"a": float(step)}, axis=AXIS, step=step)
    tracker.close(exit_code=exit_code)


def test_a_run_that_is_resumed_offline_is_one_folder_with_every_step_once(tmp_path: Path) -> None:
    session(tmp_path, (1, 2, 3, 4), exit_code=75)
    session(tmp_path, (3,), exit_code=130)  # stopped again before it came as far, so that the log has no step 4 any more
    [second] = offline_runs(tmp_path)
    assert history(wandb_records(second / "run-cccc3333.wandb")) == [{AXIS: step, "a": float(step)} for step in (1, 2, 3)]
    session(tmp_path, (3, 4, 5))
    [last] = offline_runs(tmp_path)
    records = wandb_records(last)
    assert history(records) == [{AXIS: step, "a": float(step)} for step in (1, 2, 3, 4, 5)]
    [run] = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_id"], run["resume"]) == ("cccc3333", True)
    assert sorted(read_metrics(tmp_path / "metrics.jsonl", axis=AXIS)) == [1, 2, 3, 4, 5]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_an_earlier_folder_stays_where_no_log_has_its_rows(tmp_path: Path) -> None:
    for step in (1, 2):
        tracker = offline_tracker(tmp_path, id="cccc3333")
        tracker.log({"a": float(step)}, axis=AXIS, step=step)
        tracker.close()
        time.sleep(1)  # folders have the second in their names
    rows = [history(wandb_records(run / "run-cccc3333.wandb")) for run in offline_runs(tmp_path)]
    assert rows == [[{AXIS: 1, "a": 1.0}], [{AXIS: 2, "a": 2.0}]]


def test_what_was_synced_stays_and_the_next_folder_holds_only_what_is_new(tmp_path: Path) -> None:
    session(tmp_path, (1, 2, 3))
    [first] = offline_runs(tmp_path)
    [log] = first.glob("*.wandb")
    log.with_name(f"{log.name}.synced").touch()
    session(tmp_path, (3, 4))
    [second] = set(offline_runs(tmp_path)) - {first}
    assert history(wandb_records(second)) == [{AXIS: 4, "a": 4.0}]


def test_the_samples_of_a_checkpoint_are_a_table_that_a_resumed_run_keeps(tmp_path: Path) -> None:
    completions = [{"text": "a plum", "score": 0.5, "correct": True}, {"text": "a lamp", "score": "NaN", "correct": False}]
    prompt = [{"role": "user", "content": "Name a fruit."}]
    for step in (1, 3):
        write_samples(tmp_path, step, "held_out", [{"prompt": prompt, "margin": -0.25, "completions": completions}])
    session(tmp_path, (1, 2))
    session(tmp_path, (3,))
    [run] = offline_runs(tmp_path)
    tables = sorted(run.glob("files/media/table/samples/*.json"))
    assert len(tables) == 2
    table = json.loads(tables[0].read_text())
    assert table["data"][0] == ["", "[user] Name a fruit.", "a plum", 0.5, 1.0, -0.25]


def test_an_offline_run_reads_back_as_its_log_and_its_samples_step_by_step(tmp_path: Path) -> None:
    files, wandb = JsonlTracker(tmp_path / "metrics.jsonl"), offline_tracker(tmp_path)
    tracker = Trackers([files, wandb])
    for step in (1, 2):
        tracker.log({"train/loss": 1 / (step + 2), "train/grad_norm": float("nan")}, axis="train/step", step=step)
        completions = [{"text": f"plum {step}", "score": step / 3, "correct": True}, {"text": "lamp", "score": "NaN", "correct": False}]
        prompt = [{"role": "user", "content": "Name a fruit."}]
        write_samples(tmp_path, step, "held_out", [{"prompt": prompt, "margin": step / 7, "completions": completions}])
        tracker.log({"rewardbench2/math": step / 9}, axis=AXIS, step=step)
    tracker.close()
    [run] = offline_runs(tmp_path)
    rows = history(wandb_records(run))
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    named = [{name: value for name, value in line.items() if name not in ("axis", "time")} for line in logged]
    assert [{name: value for name, value in row.items() if not name.startswith("samples/")} for row in rows] == named
    tables = {row[AXIS]: json.loads((run / "files" / row["samples/held_out.path"]).read_text()) for row in rows if AXIS in row}
    assert sorted(tables) == [1, 2]
    for step, table in tables.items():
        right = ["", "[user] Name a fruit.", f"plum {step}", step / 3, 1.0, step / 7]
        np.testing.assert_equal(table["data"], [right, [*right[:2], "lamp", math.nan, 0.0, step / 7]])
    assert tables[1]["columns"] == ["place", "prompt", "completion", "score", "correct", "margin"]


WITHOUT_A_PLACE_FOR_TABLES = """
import shutil, sys
from pathlib import Path
from core.runs.samples import write_samples
from core.runs.trackers.wandb_tracker import WandbTracker
from wandb.sdk.data_types._private import MEDIA_TMP
folder = Path(sys.argv[1])
tracker = WandbTracker(project="rewardloop", name="rm", group="tests", dir=folder, config={}, mode="offline")
shutil.rmtree(MEDIA_TMP.name)  # as systems do that tidy /tmp
for step in (5, 10):
    write_samples(folder, step, "held_out", [{"prompt": [], "completions": [{"text": "No.", "score": 0.5}]}])
    tracker.log({"rewardbench2/math": step / 10}, axis="checkpoint/step", step=step)
tracker.close()
"""


def test_samples_that_cannot_be_written_for_wandb_cost_it_the_table_alone_and_one_line(tmp_path: Path) -> None:
    said = run_python(WITHOUT_A_PLACE_FOR_TABLES, tmp_path)
    assert said.returncode == 0
    # Where warnings are errors, W&B reports a folder of its own that it left behind.
    [line] = [line for line in said.stderr.splitlines() if line.startswith("W&B")]
    assert "the samples of rm could not be written for it" in line
    assert str(tmp_path / "samples") in line
    [run] = offline_runs(tmp_path)
    rows = history(wandb_records(run))
    assert [(row["checkpoint/step"], row["rewardbench2/math"]) for row in rows] == [(5, 0.5), (10, 1.0)]
    assert not any(name.startswith("samples/") for row in rows for name in row)


@pytest.mark.parametrize(("exit_code", "preempting"), [(0, False), (1, False), (75, True), (130, True)])
def test_a_run_that_was_stopped_reads_as_preempted_in_wandb_and_one_that_failed_as_failed(
    tmp_path: Path, exit_code: int, preempting: bool
) -> None:
    session(tmp_path, (1,), exit_code=exit_code)
    records = wandb_records(offline_runs(tmp_path)[0])
    assert [record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"] == [exit_code]
    assert any(record["type"] == "preempting" for record in records) == preempting


IS_KILLED_ONCE_THE_ROW_IS_ON_DISK = """
import os, signal, sys, time
from pathlib import Path
from core.runs.trackers.wandb_tracker import WandbTracker
tracker = WandbTracker(project="p", name="n", group="g", dir=Path(sys.argv[1]), config={}, mode="offline")
tracker.log({"a": 0.123456789}, axis="checkpoint/step", step=1)
(log,) = Path(sys.argv[1]).glob("wandb/offline-run-*/*.wandb")
deadline = time.monotonic() + 10
while b"0.123456789" not in log.read_bytes() and time.monotonic() < deadline:
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_offline_run_keeps_its_rows(tmp_path: Path) -> None:
    # W&B's own interval between flushes is 15 s, so that it would lose the row: the wait ends after 10 s.
    assert run_python(IS_KILLED_ONCE_THE_ROW_IS_ON_DISK, tmp_path).returncode == -signal.SIGKILL
    assert history(wandb_records(offline_runs(tmp_path)[0])) == [{AXIS: 1, "a": 0.123456789}]


LOGS_ONE_ROW = """
import sys
from pathlib import Path
from core.runs.trackers.wandb_tracker import WandbTracker
assert "wandb" not in sys.modules
tracker = WandbTracker(project="p", name="rm-a", group="g", dir=Path(sys.argv[1]), config={}, mode="auto")
tracker.log({"a": 1.0}, axis="checkpoint/step", step=1)
tracker.close()
"""


def test_without_a_key_auto_goes_offline_and_says_so_in_one_line(tmp_path: Path) -> None:
    ended = run_python(LOGS_ONE_ROW, tmp_path)
    where = tmp_path / "wandb" / "offline-run-*"
    assert ended.stderr == f"W&B: no API key found, so rm-a is logged offline; upload it with: wandb sync {where}\n"
    assert (ended.returncode, ended.stdout) == (0, "")
    assert len(offline_runs(tmp_path)) == 1


def test_auto_follows_the_mode_of_the_environment_without_a_word_and_keeps_secrets_out_of_the_files(tmp_path: Path) -> None:
    ended = run_python(LOGS_ONE_ROW, tmp_path, Path("token=hunter2"), WANDB_MODE="offline", HF_TOKEN="hunter2")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    (run,) = offline_runs(tmp_path)
    files = [file for file in run.rglob("*") if file.is_file()]
    assert f"run-{run.name.rpartition('-')[2]}.wandb" in [file.name for file in files]
    assert [file.name for file in files if b"hunter2" in file.read_bytes()] == []


FINDS_A_KEY = "from core.runs.trackers import wandb_tracker; print(wandb_tracker._session_mode(), wandb_tracker.has_api_key())"


def test_a_key_is_found_in_the_environment_and_in_netrc(tmp_path: Path) -> None:
    key = "a" * 40
    assert run_python(FINDS_A_KEY, tmp_path, WANDB_API_KEY=key).stdout == "online True\n"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\nlogin user\npassword {key}\n")
    (tmp_path / "netrc").chmod(0o600)
    ended = run_python(FINDS_A_KEY, tmp_path)
    assert (ended.stdout, ended.stderr) == ("online True\n", "")


def test_a_disabled_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = WandbTracker(project="p", name="n", group="g", dir=tmp_path / "run", config={}, mode="disabled")
    tracker.log({"a": 1.0}, axis=AXIS, step=1)
    tracker.close()
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'of-line'; it is one of auto, online, offline, disabled"):
        WandbTracker(project="p", name="n", group="g", dir=tmp_path, config={}, mode="of-line")


class BrokenTracker(ListTracker):
    """Cannot be closed."""

    def close(self, *, exit_code: int = 0) -> None:
        raise OSError("disk full")


def test_several_trackers_get_the_same_and_all_are_closed_even_if_one_fails() -> None:
    one, two, three = ListTracker(), BrokenTracker(), ListTracker()
    trackers = Trackers([one, two, three])
    trackers.log({"a": 1.0}, axis=AXIS, step=3)
    assert one.rows == two.rows == three.rows == [(AXIS, 3, {"a": 1.0})]
    with pytest.raises(OSError, match="disk full"):
        trackers.close()
    assert one.closed
    assert three.closed
