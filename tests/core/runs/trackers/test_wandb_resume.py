"""An online run that is interrupted and goes on: W&B's host, as far as W&B's own client asks one for anything, holds every step once."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.process.signals import INTERRUPTED

KILLED = 9

SESSION = f"""
import os, sys, time
from pathlib import Path
from core.runs.tracking import JsonlTracker, Trackers
from core.runs.trackers.wandb_tracker import WandbTracker

folder, first, last, code = Path(sys.argv[1]), *map(int, sys.argv[2:])
files = JsonlTracker(folder / "metrics.jsonl")
tracker = Trackers([files, WandbTracker(project="p", name="rm", group="g", dir=folder, config={{"lr": 1.0}}, mode="auto", id="abcd1234")])
for step in range(first, last + 1):
    tracker.log({{"train/loss": step / 4}}, axis="train/step", step=step)
if code == {KILLED}:
    time.sleep(2)  # the rows are on disk after a second
    os._exit(code)
tracker.close(exit_code=code)
"""


class Host(ThreadingHTTPServer):
    """What W&B's client asks of a host for one run: whether it exists, how far it came, and where to put its history."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.config: dict[str, Any] | None = None  # None: there is no run yet
        self.history: list[str] = []
        self.ends: list[dict[str, Any]] = []

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            self.config = json.loads(variables["config"]) if variables.get("config") else self.config or {}
            return {"upsertBucket": {"inserted": not self.history, "bucket": self._run()}}
        if operation == "RunResumeStatus":
            return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": self._run() if self.config else None}}
        return {}

    def _run(self) -> dict[str, Any]:
        telemetry = (self.config or {}).get("_wandb", {}).get("value", {}).get("t")
        return {
            **{"id": "r", "name": "abcd1234", "displayName": "rm", "tags": [], "sweepName": None},
            **{"project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}},
            **{"config": json.dumps(self.config), "wandbConfig": json.dumps({"t": telemetry} if telemetry else {}), "summaryMetrics": "{}"},
            **{"historyLineCount": len(self.history), "logLineCount": 0, "eventsLineCount": 0},
            **{"historyTail": json.dumps(self.history[-1:]), "eventsTail": "[]"},
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        host = self.server
        assert isinstance(host, Host)
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            data = host.answer(asked["operationName"], asked.get("variables") or {})
            answer = {"data": data} if data else {"errors": [{"message": "not here"}]}
        elif self.path.endswith("/file_stream"):
            if new := asked.get("files", {}).get("wandb-history.jsonl"):
                host.history[new["offset"] :] = new["content"]
            if asked.keys() & {"preempting", "complete"}:
                host.ends.append({name: asked[name] for name in ("preempting", "complete", "exitcode") if name in asked})
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Generator[Host]:
    with Host() as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield host
        host.shutdown()


def work(host: Host, folder: Path, first: int, last: int, code: int) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "WANDB_API_KEY": "a" * 40}
    own["WANDB_BASE_URL"] = f"http://127.0.0.1:{host.server_port}"
    command = [sys.executable, "-c", SESSION, str(folder / "run"), *map(str, (first, last, code))]
    return subprocess.run(command, env=kept | own, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("code", [INTERRUPTED, KILLED], ids=["ctrl-c", "killed"])
def test_an_online_run_that_goes_on_has_every_step_once_and_was_not_finished_before(tmp_path: Path, host: Host, code: int) -> None:
    first = work(host, tmp_path, 1, 3, code)
    assert (first.stdout, first.stderr) == ("", "")
    assert [end for end in host.ends if end.get("exitcode") == 0] == []
    if code == INTERRUPTED:
        assert len(host.history) == 3
        assert host.ends == [{"preempting": True}, {"complete": True, "exitcode": INTERRUPTED}]
    second = work(host, tmp_path, 3, 5, 0)  # from the checkpoint after step 2
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    rows = [json.loads(line) for line in host.history]
    assert [(row["train/step"], row["train/loss"]) for row in rows] == [(step, step / 4) for step in range(1, 6)]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4]
    assert host.ends[-1] == {"complete": True, "exitcode": 0}
