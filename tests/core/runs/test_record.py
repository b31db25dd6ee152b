"""A run is found again by what determines its result, and only one process works on it at a time."""

import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.runs.record import Run, RunBusyError, RunState, fail_run, finish_run, open_run, read_record, read_records, settle_killed, stop_run

HOLDS_THE_RUN = """
import sys
from datetime import date
from pathlib import Path
from core.runs.record import open_run
open_run(runs_dir=Path(sys.argv[1]), study="demo", job="rm", name="tulu", identity={"lr": 3e-6, "seed": 7}, config_yaml="held: true")
print("open", flush=True)
sys.stdin.read()
"""


def open_tulu(
    runs_dir: Path, *, name: str = "tulu", lr: float = 3e-6, resume: bool = True, extra: Mapping[str, Any] | None = None
) -> tuple[Run, RunState]:
    identity = {"lr": lr, "seed": 7}
    return open_run(
        runs_dir=runs_dir, study="demo", job="rm", name=name, identity=identity, config_yaml="lr: ${lr}\n", resume=resume, extra=extra
    )


def test_a_new_run_gets_a_folder_named_by_job_name_and_hash_with_config_and_record(tmp_path: Path) -> None:
    run, state = open_tulu(tmp_path, name="Tulu Mix", extra={"lineage": {"base": "llama"}})
    assert state is RunState.new
    assert run.dir == tmp_path / "demo" / f"rm-tulu-mix-{run.id}"
    assert (run.dir / "config.yaml").read_text() == "lr: ${lr}\n"
    record = read_record(run.dir)
    assert record["status"] == "running"
    assert record["identity"] == {"lr": 3e-6, "seed": 7}
    assert record["seed"] == 7
    assert record["lineage"] == {"base": "llama"}
    assert set(record["versions"]) == {"python", "torch", "transformers", "trl", "rewardloop"}
    fail_run(run, "end of test")


def test_a_resumed_run_keeps_its_date_and_one_that_starts_over_gets_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter([date(2024, 2, 29), date(2024, 3, 2)])
    monkeypatch.setattr("core.runs.record._today", lambda: next(days))
    for resume, expected in ((True, "2024-02-29"), (True, "2024-02-29"), (False, "2024-03-02")):
        run, _ = open_tulu(tmp_path, resume=resume)
        assert read_record(run.dir)["date"] == expected
        fail_run(run, "end of test")


def test_the_record_names_the_revision_of_the_code(tmp_path: Path) -> None:
    run, _ = open_tulu(tmp_path)
    git = read_record(run.dir)["git"]
    assert git is None or re.fullmatch("[0-9a-f]{40}", git["revision"])
    fail_run(run, "end of test")


@pytest.mark.parametrize("place", ["demo", "demo/{run}", "demo/{run}/checkpoints"])
def test_a_link_to_nowhere_is_named_with_what_to_do(tmp_path: Path, place: str) -> None:
    run, _ = open_tulu(tmp_path / "elsewhere")
    fail_run(run, "end of test")
    link = tmp_path / "runs" / place.format(run=run.dir.name)
    link.parent.mkdir(parents=True)
    link.symlink_to("/no/such/disk")
    with pytest.raises(ValueError, match=f"{link} is a link to /no/such/disk, which is not there; mount or make that folder"):
        open_tulu(tmp_path / "runs")


def test_a_finished_run_is_returned_untouched(tmp_path: Path) -> None:
    run, _ = open_tulu(tmp_path)
    finish_run(run, final={"rewardbench2/overall": float("nan")})
    before = (run.dir / "record.json").read_bytes()
    again, state = open_tulu(tmp_path, resume=False)
    assert (again, state) == (run, RunState.finished)
    assert (run.dir / "record.json").read_bytes() == before
    record = read_record(run.dir)
    assert record["status"] == "finished"
    assert record["final"] == {"rewardbench2/overall": "NaN"}
    assert record["finished"] >= record["started"]
    assert 0 <= record["wall_s"] < 60


def test_a_failed_run_is_resumed_in_place_and_its_time_adds_up(tmp_path: Path) -> None:
    run, _ = open_tulu(tmp_path)
    started = read_record(run.dir)["started"]
    fail_run(run, "out of memory")
    assert read_record(run.dir)["error"] == "out of memory"
    # As if the first session had taken 100 seconds.
    write_json(run.dir / "record.json", {**read_record(run.dir), "wall_s": 100.0})
    again, state = open_tulu(tmp_path)
    assert (again, state) == (run, RunState.torn)
    record = read_record(run.dir)
    assert record["status"] == "running"
    assert "error" not in record
    assert record["started"] == started
    finish_run(again)
    assert 100 <= read_record(run.dir)["wall_s"] < 160


def test_without_resume_a_torn_run_is_moved_aside_and_never_deleted(tmp_path: Path) -> None:
    folders: set[Path] = set()
    for _ in range(3):
        run, state = open_tulu(tmp_path, resume=False)
        assert state is RunState.new
        (run.dir / "checkpoints").mkdir()  # fails where the folder is not a fresh one
        fail_run(run, "torn")
        folders.add(run.dir)
    (folder,) = folders
    kept = sorted(folder.parent.iterdir())
    assert [path.name for path in kept] == [folder.name, f"{folder.name}.old-1", f"{folder.name}.old-2"]
    assert all((path / "checkpoints").is_dir() for path in kept)


def test_a_run_that_another_process_works_on_is_refused_until_that_process_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_RUN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(RunBusyError, match=rf"rm-tulu-\w{{8}} is in use by pid {holder.pid} "):
            open_tulu(tmp_path)
        with pytest.raises(RunBusyError):
            open_tulu(tmp_path, resume=False)
        holder.send_signal(signal.SIGKILL)
    run, state = open_tulu(tmp_path)
    assert state is RunState.torn
    finish_run(run)


def test_a_run_just_moved_aside_still_keeps_a_second_opening_out(tmp_path: Path) -> None:
    run, _ = open_tulu(tmp_path)
    fail_run(run, "torn")
    run, _ = open_tulu(tmp_path, resume=False)
    with pytest.raises(RunBusyError):
        open_tulu(tmp_path)
    finish_run(run)


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    one, _ = open_tulu(tmp_path, lr=3e-6)
    two, state = open_tulu(tmp_path, lr=1e-6)
    assert state is RunState.new
    assert one.dir != two.dir
    fail_run(one, "end of test")
    fail_run(two, "end of test")


@pytest.mark.parametrize("field", ["status", "id", "wall_s"])
def test_extras_and_results_cannot_hide_a_field_of_the_record(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        open_tulu(tmp_path, extra={field: 1})
    run, _ = open_tulu(tmp_path)
    with pytest.raises(ValueError, match=field):
        finish_run(run, **{field: 1})
    fail_run(run, "end of test")


BARE = '"id": "a", "job": "rm", "status": "finished"'


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"status": "fin',
        "[]",
        '{"status": "finished"}',
        f'{{{BARE}, "identity": null}}',
        f'{{{BARE}, "identity": {{}}, "lineage": "tulu"}}',
        f'{{{BARE}, "identity": {{}}, "final": [1]}}',
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_does_not_stop_its_run(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = open_tulu(tmp_path)
    finish_run(run)
    (run.dir / "record.json").write_text(content)
    with pytest.raises(ValueError, match=rf"^{run.dir}/record\.json .*; the command that made the run mends it, going on from the newest"):
        read_record(run.dir)
    said: list[str] = []
    assert list(read_records(tmp_path / "demo", "*", said.append)) == []
    assert [line.partition(":")[0] for line in said] == [f"skipping {run.dir.name}"]
    again, state = open_tulu(tmp_path)
    assert (again, state) == (run, RunState.torn)
    assert capsys.readouterr().err.startswith(f"{run.dir}/record.json ")
    finish_run(run)
    assert [record["status"] for record in read_records(tmp_path / "demo", "*", pytest.fail)] == ["finished"]


def test_a_record_without_lineage_and_results_is_read_with_empty_ones_and_a_key_of_the_wrong_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text(f'{{{BARE}, "identity": {{}}, "lineage": null, "versions": null}}')
    record = read_record(tmp_path)
    assert (record["lineage"], record["final"], "versions" in record) == ({}, {}, False)
    file.write_text(f'{{{BARE}, "identity": {{}}, "final": "0.5"}}')
    with pytest.raises(ValueError, match=rf"^{file} has final='0\.5', which is no JSON object; "):
        read_record(tmp_path)


def test_what_killed_processes_left_half_written_goes_when_the_run_is_opened_again(tmp_path: Path) -> None:
    run, _ = open_tulu(tmp_path)
    fail_run(run, "killed")
    for folder in ("evals", "scores"):
        (run.dir / folder).mkdir()
    left = [
        ".tmp-record.json-elsewhere-1",
        ".tmp-best",
        "evals/.tmp-step-000002.json-elsewhere-1",
        "evals/step-000002.rewardbench2.tmp",
        "scores/.tmp-rm.parquet-vm-1",
    ]
    for name in left:
        (run.dir / name).touch()
    (run.dir / "evals" / "step-000002.json").touch()
    open_tulu(tmp_path)
    assert {path.name for path in run.dir.iterdir()} == {"config.yaml", "record.json", "run.lock", "evals", "scores"}
    assert not [*(run.dir / "scores").iterdir()]
    assert [path.name for path in (run.dir / "evals").iterdir()] == ["step-000002.json"]
    fail_run(run, "end of test")


def test_runs_whose_process_was_killed_are_recorded_as_failed_and_living_ones_are_left_alone(tmp_path: Path) -> None:
    held, _ = open_tulu(tmp_path)
    killed, _ = open_tulu(tmp_path, lr=1e-6)
    stopped, _ = open_tulu(tmp_path, lr=1e-5)
    fail_run(killed, "end of test")
    times = ("session_started", "wall_s")  # which a record that was edited may lack
    record = {key: value for key, value in read_record(killed.dir).items() if key not in times}
    write_json(killed.dir / "record.json", {**record, "status": "running"})
    stop_run(stopped, "by a signal")
    settle_killed(tmp_path / "demo", "its process was killed")
    assert [read_record(run.dir)["status"] for run in (held, killed, stopped)] == ["running", "failed", "stopped"]
    assert read_record(killed.dir)["error"] == "its process was killed"
    assert open_tulu(tmp_path, lr=1e-6)[1] is RunState.torn
    fail_run(held, "end of test")
    fail_run(killed, "end of test")
