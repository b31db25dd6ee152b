"""A study whose jobs run in two processes each: killed while one trains, taken up again, and what its table says then."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.runs.lock import is_held


def pairs(file: Path) -> Path:
    words = ("plum", "lamp", "river", "stone", "cloud", "paper", "seven", "green")
    rows = [{"prompt": f"{a} {b}?", "chosen": f"{a} is {b}.", "rejected": f"{b} no."} for a in words for b in words]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def start(folder: Path, base: Path) -> "subprocess.Popen[str]":
    line = f"model=custom model.path={base} model.lineage=tiny data=custom data.paths=[{folder}/pairs.jsonl] hooks=none data.held_out=0.2"
    sizes = "optim.lr=1e-3 epochs=30 batch_size=8 num_checkpoints=2 max_length=64 tracker=files"
    study = ["study=s", "processes=2", "parallel=1", "parts=[rm]", f"reward_models=['{line} {sizes}']"]
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-m", "launch.study", *study]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def record_of(folder: Path) -> dict[str, Any]:
    [file] = folder.glob("runs/s/rm-*/record.json")
    return json.loads(file.read_text()) | {"dir": file.parent}


@pytest.mark.long
def test_a_job_in_two_processes_goes_on_where_a_killed_study_left_it_and_stands_in_the_table(tmp_path: Path, policy_folder: Path) -> None:
    pairs(tmp_path / "pairs.jsonl")
    process = start(tmp_path, policy_folder)
    deadline = time.monotonic() + 300
    while not (saved := list(tmp_path.glob("runs/s/rm-*/checkpoints/*/COMPLETE"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    run = saved[0].parents[2]
    while is_held(run / "run.lock"):  # its processes end with the study
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = record_of(tmp_path)
    assert before["status"] == "running"

    again = start(tmp_path, policy_folder)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    record = record_of(tmp_path)
    assert (record["status"], record["id"], record["started"]) == ("finished", before["id"], before["started"])
    logged = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    steps = [line["train/step"] for line in logged if "train/loss" in line]
    assert steps == sorted(set(steps))
    assert steps[-1] == record["step"]
    [model] = json.loads((tmp_path / "runs/s/report/summary.json").read_text())["reward_models"]
    assert (model["id"], model["base"], model["epochs"]) == (record["id"], "tiny", 30)
    assert f"{100 * record['final']['held_out/accuracy']:.1f}" in said
    assert said.strip().endswith("runs/s/report/report.html")
    assert f"resuming {run.name} from {saved[0].parent.name}" in (tmp_path / "runs/s/logs/rm-01.log").read_text()
