"""A run in one process, `rewardloop report serve=true` in another: the page follows it, and killing either harms nothing.

tests/journeys/test_live.py has the same of a whole study.
"""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser, open_page

WORKER = """
import sys, time
from pathlib import Path
from core.disk import write_json
from core.hooks.hook import eval_file, measured_steps
from core.records import AXIS
from core.runs.record import finish_run, open_run
facts = {"lineage": {"base": "base", "model": "base", "data": "tulu"}}
identity = {"optim": {"lr": 1e-3}, "epochs": 1, "seed": 0, "data": {"flip": 0.0}}
run, _ = open_run(runs_dir=Path("runs"), study="live", job="rm", name="a", identity=identity, config_yaml="", extra=facts)
first = max(measured_steps(run.dir), default=0) + 5
for step in range(first, int(sys.argv[1]) + 1, 5):
    write_json(eval_file(run.dir, step), {AXIS: step, "held_out/accuracy": step / 100})
    print(step, flush=True)
    sys.stdin.readline()  # on to the next checkpoint
finish_run(run, final={"held_out/accuracy": step / 100}, step=step, best_step=step)
"""


class Work:
    """The process of a run that measures a checkpoint each time it is told to go on, and finishes after `last`."""

    def __init__(self, folder: Path, last: int) -> None:
        command = [sys.executable, "-c", WORKER, str(last)]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> int:
        """The checkpoint that it has just measured."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def serve(folder: Path, study: str, port: int = 0) -> "tuple[subprocess.Popen[str], int]":
    """A server of a study in a process of its own, and its port."""
    command = [sys.executable, "-m", "launch.report", f"study={study}", "serve=true", f"port={port}"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/ follows", line)
    assert found, line
    return server, int(found[1])


def kill(process: "subprocess.Popen[str]") -> None:
    """Ends a process by SIGKILL, if it has not ended yet."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def until(what: Callable[[], Any], why: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.2)


@pytest.fixture
def ended() -> Generator[ExitStack]:
    """What is called in the end, however a test goes."""
    with ExitStack() as stack:
        yield stack


def test_a_page_follows_a_run_through_kills_of_the_server_and_of_the_run(tmp_path: Path, ended: ExitStack) -> None:
    work = Work(tmp_path, last=20)
    ended.callback(kill, work.process)
    assert work.step() == 5
    server, port = serve(tmp_path, "live")
    ended.callback(kill, server)
    page = open_page(ended.enter_context(browser()), f"http://127.0.0.1:{port}/").page
    page.evaluate("window.stays = true")

    def says(words: str) -> Callable[[], bool]:
        return lambda: words in page.inner_text("body")

    work.go_on()
    assert work.step() == 10
    until(says("is not finished (running): its scores are those of step 10"), "the new checkpoint did not appear")
    kill(server)
    until(says("the server does not answer"), "the page does not say that its server is gone")
    work.go_on()
    assert work.step() == 15  # which no server hinders
    again, _ = serve(tmp_path, "live", port)
    ended.callback(kill, again)
    until(says("its scores are those of step 15"), "the page did not find the server again")
    kill(work.process)
    until(says("is not finished (killed): its scores are those of step 15"), "the page takes a killed run for a running one")
    resumed = Work(tmp_path, last=20)
    ended.callback(kill, resumed.process)
    assert resumed.step() == 20
    until(says("is not finished (running): its scores are those of step 20"), "the page did not follow the resumed run")
    resumed.go_on()
    assert resumed.process.wait(60) == 0
    until(lambda: not says("is not finished")(), "the page does not show the end of the run")
    assert page.evaluate("window.stays") is True  # never loaded again


def test_a_server_that_is_told_to_stop_says_that_the_runs_go_on(tmp_path: Path, ended: ExitStack) -> None:
    server, _ = serve(tmp_path, "nope")
    ended.callback(kill, server)
    assert server.stdout is not None
    assert server.stdout.readline() == "runs/nope does not exist yet, and the page waits for it\n"
    server.send_signal(signal.SIGTERM)
    assert (server.stdout.readline(), server.wait(60)) == ("the server has ended; the runs go on without it\n", 0)
