"""The script for a GPU runs on a CPU with tiny models, tells a row that fails, and goes on with the others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import Workers, entries
from benchmarks.gpu.__main__ import run as run_rows
from benchmarks.gpu.findings import Finding
from benchmarks.gpu.rows import ROWS, Row
from benchmarks.gpu.subjects import TINY
from benchmarks.gpu.worker import carry_out, out_of_time
from core.trees.trial import fault_of

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


def runs(process: int) -> bool:
    """Whether a process goes on; one that is dead may wait for whoever asks how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_row_has_started_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, started, worker = tmp_path / "log.jsonl", tmp_path / "started", tmp_path / "worker"
    log.touch()
    begin = json.dumps({"row": "ceilings", "event": "begin"})
    worker.write_text(f"#!/bin/sh\nread rows || exit 0\nsleep 300 &\necho $! > {started}\necho '{begin}' >> {log}\nwait\n")
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    workers = Workers(log, dict(os.environ), tiny=True)
    run_rows(["ceilings"], log, time.monotonic() + 2, workers, tiny=True)
    workers.close()
    ends = time.monotonic() + 20
    while runs(int(started.read_text())):
        assert time.monotonic() < ends, "what it has started goes on"
        time.sleep(0.05)
    assert [entry["event"] for entry in entries(log)] == ["begin", "fail"]


def test_a_row_whose_time_is_over_while_it_tries_a_kernel_fails_and_its_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(scale: object) -> Iterator[Finding]:
        yield {"why": fault_of(lambda: time.sleep(20) or 0.0, tolerance=1.0) or ""}

    monkeypatch.setattr(Row, "load", lambda self: trial)
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        assert not carry_out(Row("ceilings", "", 1), TINY, tmp_path / "log.jsonl")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [entry["event"] for entry in entries(tmp_path / "log.jsonl")] == ["begin", "fail"]
