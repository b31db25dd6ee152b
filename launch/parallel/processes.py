"""A job in several processes of this machine, with the environment that torchrun gives them: what torchrun cannot do for a study is to
report progress, to hand back the run, and to leave a stopped job the time to save."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from core.process.shortage import killed
from core.process.signals import EXIT_CODE, INTERRUPTED, Preempted
from core.progress import Progress
from core.runs.record import read_record

PATIENCE_S = 30.0
"""How long the other processes of a job may go on after one has failed: they wait for it in vain, or are about to say the same."""


def run_in_processes(name: str, overrides: Sequence[str], processes: int, progress: Progress) -> dict[str, Any]:
    """Does a job of `rewardloop <name>` in several processes and returns the record of its run.

    Each gets the GPU of its number among those of this process. They end with this process; when it is told to stop, they save first.
    Raises `RuntimeError` with what the first that failed has said.
    """
    reader, writer = os.pipe()
    workers = _started([name, *overrides], processes, writer)
    os.close(writer)
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)
        for worker in workers:
            worker.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        said = _heard(reader, workers, progress)
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(reader)
        for worker in workers:
            worker.kill()
            worker.wait()
    if stopping:
        raise Preempted("stopped by a signal; what is saved is kept")
    if "failed" in said or any(worker.returncode for worker in workers):
        raise RuntimeError(said.get("failed") or said["ended"])
    return {**read_record(Path(said["run"])), "dir": said["run"]}


def _started(arguments: Sequence[str], processes: int, writer: int) -> list[subprocess.Popen[bytes]]:
    """The processes of a job, which write to the pipe `writer`, and everything else to the log of this one."""
    import torch  # the child of a study has it

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    # -P: a file in the current folder may have the name of a package.
    command = [sys.executable, "-P", "-m", "launch.parallel.worker", str(writer), *arguments]
    return [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=sys.stdout,
            stderr=sys.stdout,
            pass_fds=[writer],
        )
        for rank in range(processes)
    ]


def _heard(reader: int, workers: Sequence[subprocess.Popen[bytes]], progress: Progress) -> dict[str, str]:
    """What the processes have said until all have ended: the folder of the `run`, or why the first that `failed` did; and of the first
    that `ended` badly how, since it may have been killed before it could say so."""
    said: dict[str, str] = {}
    rest, failed_at = b"", None
    while True:
        ready, _, _ = select.select([reader], [], [], 0.5)
        if ready:
            if not (read := os.read(reader, 65536)):
                break
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                _take(json.loads(line), said, progress)
        if failed_at is None and _note_end(workers, said):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > PATIENCE_S:
            for worker in workers:
                worker.kill()
    for worker in workers:
        worker.wait()
    _note_end(workers, said)
    return said


def _note_end(workers: Sequence[subprocess.Popen[bytes]], said: dict[str, str]) -> bool:
    """Notes how the first of the processes that ended badly did; whether one failed. Of those that were stopped none did: they have saved
    what is theirs, and the first may still be flushing the checkpoint to the disk."""
    codes = {rank: code for rank, worker in enumerate(workers) if (code := worker.poll())}
    for rank, code in list(codes.items())[:1]:
        smaller = "lower processes, so that fewer share the memory, or what each needs"
        how = f"was {killed(code, smaller)}" if code < 0 else f"ended with code {code}"
        said.setdefault("ended", f"process {rank} {how}")
    return any(code not in (EXIT_CODE, INTERRUPTED) for code in codes.values())


def _take(message: Sequence[Any], said: dict[str, str], progress: Progress) -> None:
    match message:
        case ["start", description, total, unit, done]:
            progress.start(description, total, unit=unit, done=done)
        case ["advance", n]:
            progress.advance(n)
        case ["finish"]:
            progress.finish()
        case [kind, text]:
            said.setdefault(kind, text)
        case _:
            raise AssertionError(message)
