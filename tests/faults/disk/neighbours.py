"""Servers that answer with nothing, garbage or errors: Weights & Biases, a vLLM server, a judge's endpoint."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from core.runs.record import CONFIG
from tests.faults.case import Case, Problems
from tests.faults.child import TIMED_OUT, Ended, rewardloop
from tests.faults.inputs.trial import Expected, problems_of
from tests.faults.jobs import JOBS, PPO, RM, world_of
from tests.faults.kills.cases import Reference
from tests.faults.kills.compare import differences
from tests.faults.stage import Stage

R, A = Expected.refused, Expected.accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a server answers everything with; `hangs` never answers, `closes` hangs up.

    >>> Reply(status=500).body
    b''
    """

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    hangs: bool = False
    closes: bool = False


ERRORS: Mapping[str, Reply] = {
    "500": Reply(status=500, body=b'{"error": "not today"}'),
    "401": Reply(status=401, body=b'{"error": "who are you?"}'),
    "404": Reply(status=404, body=b'{"detail": "Not Found"}'),
    "HTML": Reply(body=b"<!doctype html><title>Welcome</title>", kind="text/html"),
    "an empty answer": Reply(),
    "hanging up": Reply(closes=True),
}

GARBAGE: Mapping[str, Reply] = {
    **ERRORS,
    "an array": Reply(body=b"[]"),
    "null": Reply(body=b"null"),
    "half a JSON": Reply(body=b'{"data": [{"pro'),
    "control characters": Reply(status=400, body=b'{"error": {"message": "\\u001b[31mred"}}'),
    "the wrong number of results": Reply(body=b'{"data": [{"index": 0, "probs": [0.5], "num_classes": 1}], "choices": []}'),
    "NaN": Reply(body=json.dumps({"data": [{"index": i, "probs": [float("nan")]} for i in range(64)]}).encode()),
    "two outputs": Reply(body=json.dumps({"data": [{"index": i, "probs": [0.1, 0.2]} for i in range(64)]}).encode()),
    "choices without content": Reply(body=b'{"choices": [{"index": 0}], "id": "a"}'),
}


@contextmanager
def serving(reply: Reply) -> Generator[str]:
    """The address of a server in a process of its own, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if reply.hangs:
                time.sleep(3600)
            if reply.closes:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        server.serve_forever()
        os._exit(0)
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def neighbour_cases(stage: Stage) -> list[Case]:
    """Every answer of every neighbour."""
    commands: dict[str, Callable[[str], Sequence[str]]] = {
        "vLLM rewards of bench": lambda url: [
            *("bench", "runs_dir=runs", f"rows={stage.rows2}"),
            *("reward=vllm", f"reward.url={url}", f"reward.path={stage.reward_model}"),
        ],
        "vLLM rewards of ppo": lambda url: [
            *("ppo", *world_of(stage), *PPO, "reward=vllm", f"reward.url={url}", f"reward.path={stage.reward_model}")
        ],
        "vLLM rollouts": lambda url: [
            *("ppo", *world_of(stage), *PPO, f"reward.path={stage.reward_model}"),
            *("rollout.kind=vllm", f"rollout.url={url}", "rollout.folder=weights", "rollout.timeout_s=3"),
        ],
        "judge": lambda url: [
            *("bench", "runs_dir=runs", f"rows={stage.rows2}", "reward=judge", "reward.judge.model=a", f"reward.judge.base_url={url}/v1"),
            *("reward.judge.retries=0", "reward.judge.timeout_s=3", "reward.judge.cache=answers.sqlite"),
        ],
    }
    cases = [
        Case(name=f"disk/{who}/{what}", what="", run=_answered(command, reply, expected=_expected(who, what)))
        for who, command in commands.items()
        for what, reply in GARBAGE.items()
        if who in ("vLLM rewards of bench", "judge") or what in ("500", "HTML", "an array", "NaN")
    ]
    hosts = {"refusing": None, "hanging": Reply(hangs=True), **{what: ERRORS[what] for what in ("500", "401", "HTML", "hanging up")}}
    return [*cases, *(Case(name=f"disk/W&B/{what}", what="", run=_tracked(stage, reply)) for what, reply in hosts.items())]


def _expected(who: str, what: str) -> Expected:
    """An answer without content is a judge's to give: it counts as one that cannot be read."""
    return Expected.clean if who == "judge" and what in ("choices without content", "the wrong number of results") else R


def _answered(command: Callable[[str], Sequence[str]], reply: Reply, *, expected: Expected) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        with serving(reply) as url:
            ended = rewardloop(command(url), folder, timeout=90)
            problems = problems_of(ended, expected, (url,))
        return problems + [f"{file} says it is running" for file in folder.rglob("record.json") if '"running"' in file.read_text()]

    return run


def _tracked(stage: Stage, reply: Reply | None) -> Callable[[Path], Problems]:
    """Training with a host of W&B that fails: as without one, within 20 s more, with one line."""

    def run(folder: Path) -> Problems:
        reference = Reference(job=JOBS["rm"], stage=stage).made()
        if reply is None:
            return _problems(_with_host(stage, folder, "http://127.0.0.1:9"), folder, reference)
        with serving(reply) as url:
            return _problems(_with_host(stage, folder, url), folder, reference)

    return run


def _with_host(stage: Stage, folder: Path, url: str) -> Ended:
    def host() -> None:
        os.environ.update(WANDB_BASE_URL=url, WANDB_API_KEY="0123456789" * 4, HOME=str(folder))

    return rewardloop(["rm", *world_of(stage), *RM, "tracker=wandb", "tracker.mode=online"], folder, before=host, timeout=150)


def _problems(ended: Ended, folder: Path, reference: Reference) -> Problems:
    if ended.code == TIMED_OUT:
        return [f"did not end in {ended.seconds:.0f} s: {ended.tail()}"]
    problems = [f"printed a traceback: {ended.tail(500)}"] if "Traceback" in ended.said else []
    if ended.code:
        problems.append(f"ended with {ended.code}: {ended.tail()}")
    if ended.seconds > 30:
        problems.append(f"took {ended.seconds:.0f} s")
    if lines := [line for line in ended.err.splitlines() if "wandb" in line.casefold() or "W&B" in line]:
        if len(lines) > 1:
            problems.append(f"said {len(lines)} lines about it: {lines[:2]}")
        if "wandb sync" not in ended.said:
            problems.append("did not say how to sync")
    else:
        problems.append("said nothing about it")
    for run in folder.glob("runs/tiny/*"):
        for left in run.glob("wandb*"):
            os.rename(left, folder / left.name)
        # The tracker is the one setting in which the two runs differ.
        shutil.copyfile(reference.folder / "runs" / "tiny" / run.name / CONFIG, run / CONFIG)
    return problems + differences(folder / "runs", reference.folder / "runs")
