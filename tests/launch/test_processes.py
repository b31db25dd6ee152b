"""Sweeps of several processes: a failure of all leads to the next job, one that meets a process alone ends the sweep."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os
from datetime import timedelta
from core.process import together
from core.process.world import join_world
from launch.jobs.lifecycle import RunPlan, carry_out
from launch.schema import RMJob
from tests.launch.sweeps import OWN

together.PATIENCE = timedelta(seconds=3)

def run(composed):
    {before}
    world = join_world()
    job = composed.job

    def work(run, tracker):
        if job.epochs == 1:
            {fails}
        world.barrier()
        os.write(1, f"process {{world.rank}} finished job {{job.epochs}}\\n".encode())  # in one piece: both share the pipe
        return {{}}

    return carry_out(composed, RunPlan(kind="rm", name="base", identity={{"epochs": job.epochs}}), work, world=world)

from launch.entry import start
start(RMJob, run, ["-m", *OWN, "study=s", "runs_dir=runs", "tracker=files", "epochs=1,2"])
"""
ALONE = "if world.rank == {rank}: raise {error}"


def swept(folder: Path, *, fails: str = "pass", before: str = "pass") -> "subprocess.CompletedProcess[str]":
    """Two processes on a sweep of two jobs, of which the first fails."""
    script = folder / "sweep.py"
    script.write_text(SCRIPT.format(fails=fails, before=before))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    started = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert time.monotonic() - started < 200  # not the hours for which processes wait for each other
    return ended


def errors(folder: Path) -> dict[int, str]:
    """What the records say of failed runs, by job."""
    records = [json.loads(file.read_text()) for file in folder.glob("runs/s/rm-*/record.json")]
    assert all(record["status"] in ("failed", "finished") for record in records)
    return {record["identity"]["epochs"]: record["error"] for record in records if record["status"] == "failed"}


@pytest.mark.parametrize(
    ("rank", "error", "said"), [(1, "MemoryError()", "process 1: memory ran out"), (0, "KeyError('column')", "KeyError: 'column'")]
)
def test_a_process_that_fails_alone_ends_the_sweep_and_the_record_says_why(tmp_path: Path, rank: int, error: str, said: str) -> None:
    ended = swept(tmp_path, fails=ALONE.format(rank=rank, error=error))
    assert ended.returncode == 1
    assert "finished job" not in ended.stdout
    assert f"process {rank} failed without the others, which ends the sweep" in ended.stderr
    assert list(errors(tmp_path)) == [1]
    assert errors(tmp_path)[1].startswith(said)


def test_a_process_that_fails_before_it_joins_the_others_ends_the_sweep(tmp_path: Path) -> None:
    gone = "if os.environ['RANK'] == '1' and composed.job.epochs == 1: raise FileNotFoundError('pairs.jsonl')"
    ended = swept(tmp_path, before=gone)
    assert ended.returncode == 1
    assert "finished job" not in ended.stdout
    assert "process 1: failed" in ended.stderr
    assert "pairs.jsonl" in ended.stderr


@pytest.mark.parametrize(
    "fails",
    [
        "raise ValueError('odd')",
        "world.all_gather(lambda: [0, 1].index(world.rank * 2))",  # an error of process 1 that all of them get
    ],
)
def test_a_failure_of_all_processes_leads_to_the_next_job(tmp_path: Path, fails: str) -> None:
    ended = swept(tmp_path, fails=fails)
    assert ended.returncode == 1
    assert sorted(ended.stdout.splitlines()[:2]) == ["process 0 finished job 2", "process 1 finished job 2"]
    assert list(errors(tmp_path)) == [1]
    assert "process 1:" not in errors(tmp_path)[1]
