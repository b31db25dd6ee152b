"""The script for a GPU runs on a CPU with tiny models, tells a row that fails, and goes on with the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.rows import ROWS

ROOT = Path(__file__).parents[2]
# The study and TRL have tests and benchmarks of their own, and take longest.
HERE = [row.name for row in ROWS if row.name not in ("study", "trl")]


def run(folder: Path, *arguments: str) -> tuple[int, str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--json", str(folder / "out.json"), *arguments]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr, json.loads((folder / "out.json").read_text())["rows"]


def test_every_row_gives_findings_on_a_cpu(tmp_path: Path) -> None:
    code, output, found = run(tmp_path, "--only", ",".join(HERE))
    assert code == 0, output
    assert {entry["row"] for entry in found} == set(HERE)
    assert {entry["event"] for entry in found} == {"finding"}


def test_rows_for_which_no_time_is_left_are_told(tmp_path: Path) -> None:
    code, output, found = run(tmp_path, "--only", "ceilings,values", "--seconds", "0")
    assert code == 1
    assert [(entry["row"], entry["event"], entry["why"]) for entry in found] == [
        ("values", "fail", "no time was left"),
        ("ceilings", "fail", "no time was left"),
    ]
    assert "values: FAILED (no time was left)" in output
