"""Whatever W&B's host or its service on this machine does, the run goes on, and one line says how to upload it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.core.runs.test_tracking import history, wandb_records

RUN = """
import sys, time
from pathlib import Path
from core.runs.trackers import wandb_tracker
from core.runs.tracking import JsonlTracker, Trackers

wandb_tracker._START_S = 1.0
folder = Path(sys.argv[1])
files = JsonlTracker(folder / "metrics.jsonl")
wandb = wandb_tracker.WandbTracker(project="p", name="rm", group="g", dir=folder, config={}, mode=sys.argv[2], id="abcd1234")
tracker = Trackers([files, wandb])
for step in range(1, 4):
    tracker.log({"train/loss": step / 4}, axis="train/step", step=step)
    if step == 1 and len(sys.argv) > 3:
        exec(sys.argv[3])
tracker.close()
print("the run has finished")
"""

KILL_SERVICE = """
import os, signal, subprocess
before, size = -1, 0
while size != before:  # until the first row is on disk, which takes a second
    before = size
    time.sleep(2)
    size = sum(file.stat().st_size for file in folder.glob("wandb/*/*.wandb"))
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True, check=True)
for child in children.stdout.split():
    os.kill(int(child), signal.SIGKILL)
"""


def run(folder: Path, host: str, mode: str = "auto", *during: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "WANDB_BASE_URL": host, "WANDB_API_KEY": "a" * 40}
    command = [sys.executable, "-c", RUN, str(folder / "run"), mode, *during]
    return subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def host_that_answers(status: int, body: bytes, *, after_s: float = 0.0) -> Generator[str]:
    """The URL of a host on this machine that gives the same answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(after_s)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the other side has given up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["train/step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    ("status", "body", "after_s", "reason"),
    [
        (401, b'{"errors":[{"message":"unauthorized"}]}', 0.0, "401"),
        (500, b"oops", 0.0, "500"),
        (200, b"<html>log in to this network first</html>", 0.0, "invalid character"),
        (200, b"{}", 60.0, "deadline|no answer|timed out"),
    ],
    ids=["401", "500", "html", "hangs"],
)
def test_a_host_that_gives_no_run_leaves_the_run_offline(tmp_path: Path, status: int, body: bytes, after_s: float, reason: str) -> None:
    with host_that_answers(status, body, after_s=after_s) as host:
        ended = run(tmp_path, host)
    assert (ended.returncode, ended.stdout) == (0, "the run has finished\n")
    [line] = ended.stderr.splitlines()
    assert line.startswith("W&B: it does not work (")
    assert line.endswith(f"so rm is logged offline; upload it with: wandb sync {tmp_path}/run/wandb/offline-run-*")
    assert any(word in line for word in reason.split("|"))
    assert steps_of(tmp_path) == [1, 2, 3]
    assert len(segments(tmp_path)) == 1


def test_a_host_that_refuses_leaves_the_run_offline_although_online_was_asked_for(tmp_path: Path) -> None:
    ended = run(tmp_path, "http://127.0.0.1:9", "online")
    assert (ended.returncode, ended.stdout) == (0, "the run has finished\n")
    assert "connection refused" in ended.stderr
    assert len(segments(tmp_path)) == 1


def test_a_service_that_dies_midway_is_started_anew_and_no_row_is_lost(tmp_path: Path) -> None:
    ended = run(tmp_path, "http://127.0.0.1:9", "offline", KILL_SERVICE)
    assert (ended.returncode, ended.stdout) == (0, "the run has finished\n")
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("W&B:")]
    assert line.endswith(f"so rm is logged offline; upload it with: wandb sync {tmp_path}/run/wandb/*run-*")
    assert steps_of(tmp_path) == [1, 2, 3]
    logged = [rows for segment in segments(tmp_path) for rows in _steps_in(segment)]
    assert sorted(set(logged)) == [1, 2, 3]


def _steps_in(segment: Path) -> list[int]:
    [file] = segment.glob("*.wandb")
    return [int(row["train/step"]) for row in history(wandb_records(file))]
