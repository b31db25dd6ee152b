"""Jobs in processes of their own, as many at a time as there are slots, each once what it waits for is done."""

import multiprocessing
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from core.process.memory import keep_freed_memory
from core.progress import Progress

Arguments = Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work.

    `run` is a function of a module (it must be found by name in another process); `argument` makes what it is given out
    of the results of the jobs in `after`.
    """

    key: str
    run: Callable[[Arguments, Progress], Any]
    argument: Callable[[Mapping[str, Any]], Arguments]
    after: tuple[str, ...] = ()
    any_of: bool = False
    """Run once all in `after` are over, if at least one of them has a result; else all of them must."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a job has no result, and the file with its output."""

    message: str
    log: Path


class Display(Protocol):
    """Who is told how the jobs fare."""

    def started(self, key: str) -> None:
        """A process has taken the job."""
        ...

    def progressed(self, key: str, description: str, done: int, total: int) -> None:
        """The job is at `done` of `total`."""
        ...

    def ended(self, key: str, failure: Failure | None) -> None:
        """The job is over."""
        ...


class _Sender:
    """Progress of a job, sent to the process that waits for it."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._description, self._done, self._total, self._sent = connection, "", 0, 1, -1

    def start(self, description: str, total: int) -> None:
        self._description, self._done, self._total, self._sent = description, 0, max(1, total), -1
        self.advance(0)

    def advance(self, n: int = 1) -> None:
        self._done += n
        percent = 100 * self._done // self._total
        if percent != self._sent:  # a hundred messages a job at most
            self._sent = percent
            self._connection.send(("progress", (self._description, self._done, self._total)))

    def finish(self) -> None:
        pass


def run_jobs(
    jobs: Sequence[Job], *, slots: int, threads: int, gpus: bool, logs: Path, display: Display, preload: Sequence[str]
) -> dict[str, Any]:
    """Runs all jobs and returns their results by key; a `Failure` stands for a job that failed or waited for one that did.

    At most `slots` run at a time, each with `threads` threads and, where `gpus`, with the GPU of its slot's number. The
    others go on when one fails. `preload` names modules that are imported once, before the processes part.
    """
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload])
    results: dict[str, Any] = {}
    waiting = list(jobs)
    running: dict[Connection, tuple[Job, BaseProcess, int]] = {}
    free = list(range(slots))
    try:
        while waiting or running:
            for job in [job for job in waiting if all(key in results for key in job.after)]:
                failures = [key for key in job.after if isinstance(results[key], Failure)]
                if failures and (not job.any_of or len(failures) == len(job.after)):
                    failed = failures[0]
                    waiting.remove(job)
                    results[job.key] = Failure(message=f"not run, since {failed} failed", log=results[failed].log)
                    display.ended(job.key, results[job.key])
                elif free:
                    waiting.remove(job)
                    slot = free.pop(0)
                    ours, theirs = context.Pipe(duplex=False)
                    settings = {"threads": threads, "gpu": slot if gpus else None, "log": logs / f"{job.key}.log"}
                    process = context.Process(target=_child, args=(job.run, job.argument(results), theirs, settings), daemon=True)
                    process.start()
                    theirs.close()
                    running[ours] = (job, process, slot)
                    display.started(job.key)
            for connection in wait(list(running)) if running else []:
                assert isinstance(connection, Connection)
                job, process, slot = running[connection]
                done, result = _received(connection, job, process, logs, display)
                if done:
                    del running[connection]
                    free.append(slot)
                    results[job.key] = result
                    display.ended(job.key, result if isinstance(result, Failure) else None)
    finally:
        for _, process, _ in running.values():
            process.terminate()
    return results


def _received(connection: Connection, job: Job, process: BaseProcess, logs: Path, display: Display) -> tuple[bool, Any]:
    """Takes one message of a job; says whether the job is over, and its result."""
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):  # OSError: killed in the middle of a message
        process.join()
        return True, Failure(message=f"the process ended with code {process.exitcode}", log=logs / f"{job.key}.log")
    if kind == "progress":
        display.progressed(job.key, *value)
        return False, None
    process.join()
    return True, value if kind == "result" else Failure(message=value, log=logs / f"{job.key}.log")


def _die_with_parent(connection: Connection) -> None:
    """Ends this process once nobody reads the connection any more, so that a killed study leaves no run behind that is busy."""

    def watch() -> None:
        poll = select.poll()
        poll.register(connection.fileno(), 0)  # an error is reported whatever is asked for
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _child(run: Callable[[Arguments, Progress], Any], argument: Arguments, connection: Connection, settings: Mapping[str, Any]) -> None:
    """The life of a job's process: its output goes to the log, its result or failure to the parent."""
    _die_with_parent(connection)
    if settings["gpu"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(settings["gpu"])
    import torch

    torch.set_num_threads(settings["threads"])
    keep_freed_memory()
    with settings["log"].open("w", encoding="utf-8", buffering=1) as log:
        sys.stdout = sys.stderr = log
        try:
            message = ("result", run(argument, _Sender(connection)))
        except Exception as error:
            traceback.print_exc()
            message = ("failure", f"{type(error).__name__}: {error}")
        connection.send(message)
        connection.close()
