"""However a run ends, its record says so, and the next one finds its metrics where they were left."""

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from core.disk import write_json
from core.hooks.hook import eval_file
from core.process.shortage import ShortageError
from core.process.world import World
from core.records import AXIS, Tracker
from core.runs import record as records
from core.runs.record import Run, read_record
from core.runs.tracking import METRICS
from launch.compose import composed
from launch.jobs.lifecycle import RunPlan, carry_out
from launch.schema import RMJob

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
Work = Callable[[Run, Tracker], Mapping[str, Any]]


def carried_out(runs_dir: Path, work: Work) -> dict[str, Any]:
    job = composed(RMJob, [f"runs_dir={runs_dir}", "study=tiny", "tracker=files", "world=somewhere"])
    return carry_out(job, RunPlan(kind="rm", name="tulu", identity={"seed": 0}), work, world=ALONE)


def failing(error: Exception) -> Work:
    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        raise error

    return work


def the_record(runs_dir: Path) -> dict[str, Any]:
    (folder,) = (runs_dir / "tiny").glob("rm-*")
    return read_record(folder)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"^the disk of .*/tiny/rm-tulu-\w{8} is full, or .*Free space there"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"^memory ran out .*2 GiB.* lower micro_batch_tokens"),
        (MemoryError(), r"^memory ran out \(MemoryError: no details\)"),
    ],
)
def test_a_shortage_is_told_and_recorded(tmp_path: Path, error: Exception, words: str) -> None:
    with pytest.raises(ShortageError, match=words) as raised:
        carried_out(tmp_path, failing(error))
    assert (the_record(tmp_path)["status"], the_record(tmp_path)["error"]) == ("failed", str(raised.value))


def test_a_record_does_not_stay_running_on_a_disk_without_room_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        def full(path: Path, value: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(records, "write_json", full)
        return {"final": {}}  # finishing it is the first thing to fail

    with pytest.raises(ShortageError, match="is full"):
        carried_out(tmp_path, work)
    monkeypatch.undo()
    assert the_record(tmp_path)["status"] == "failed"
    assert carried_out(tmp_path, lambda run, tracker: {"final": {}})["status"] == "finished"


def test_metrics_that_a_killed_run_had_measured_and_not_logged_are_logged_once_when_it_goes_on(tmp_path: Path) -> None:
    def measures(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        write_json(eval_file(run.dir, 2), {AXIS: 2, "accuracy": 0.5})
        raise RuntimeError("the machine went away")

    with pytest.raises(RuntimeError):
        carried_out(tmp_path, measures)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            carried_out(tmp_path, failing(RuntimeError("and again")))
    (log,) = (tmp_path / "tiny").glob(f"rm-*/{METRICS}")
    assert [(line[AXIS], line["accuracy"]) for line in map(json.loads, log.read_text().splitlines())] == [(2, 0.5)]


def test_a_run_that_was_gone_on_with_has_its_whole_time_and_not_that_of_its_last_process_for_training(tmp_path: Path) -> None:
    def ends(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        return {"train_s": 16.0, "hooks_s": 5.0, "step": 9}

    alone = carried_out(tmp_path / "alone", ends)
    assert (alone["train_s"], alone["hooks_s"], alone["step"]) == (16.0, 5.0, 9)
    with pytest.raises(RuntimeError):
        carried_out(tmp_path, failing(RuntimeError("killed after an hour")))
    record = carried_out(tmp_path, ends)
    assert record["step"] == 9
    assert "train_s" not in record
    assert "hooks_s" not in record
