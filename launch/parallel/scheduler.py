"""Runs jobs in processes of their own, a limited number at a time, each once the jobs it depends on are done."""

import multiprocessing
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, TypeAlias

from core.process.memory import keep_freed_memory
from core.process.shortage import killed
from core.process.signals import ignoring_interrupts
from core.progress import Progress
from core.text import redacted
from launch.obstacles import reason
from launch.parallel.slots import GPUS

Results: TypeAlias = Mapping[str, object]
"""What jobs returned, by key; a `Failure` for a job that has no result."""

Task: TypeAlias = Callable[[Progress], object]
"""The work of a job. It is pickled, so it is a function of a module or a `functools.partial` of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Same:
    """In place of a task: the result is that of another job, which does the same work.

    >>> Same(key="ppo-first").key
    'ppo-first'
    """

    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of work; `task` makes it from the results of those in `waits_for`. A `ValueError` that it raises is the job's failure.

    >>> Job(key="world", task=lambda results: print).after
    ()
    """

    key: str
    task: Callable[[Results], Task | Same]
    after: tuple[str, ...] = ()
    """The jobs that must have succeeded."""
    any_of: tuple[str, ...] = ()
    """Jobs that must have ended, at least one of them, if there are any, with success."""
    what: str = ""
    """What it is, for a list of jobs; empty where the key says it."""
    settings: object = None
    """The configuration that it carries out, where that is known before others have ended."""

    @property
    def waits_for(self) -> tuple[str, ...]:
        """All jobs that must have ended."""
        return tuple(dict.fromkeys((*self.after, *self.any_of)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a job has no result, and the file that holds its output."""

    message: str
    log: Path


class Display(Protocol):
    """Shows how the jobs are getting on."""

    def started(self, key: str) -> None:
        """The job's process has started."""
        ...

    def progressed(self, key: str, description: str, done: int, total: int) -> None:
        """The job is at `done` of `total`."""
        ...

    def ended(self, key: str, failure: Failure | None) -> None:
        """The job has ended."""
        ...


END_WITH_PARENT = "launch.parallel.end_with_parent"
"""Imported by the server before anything that takes long."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Keeps the current folder out of the places of modules. Only for the server: programs of the user's may rely on it."""


class _Sender:
    """Sends a job's progress to the parent process: that of its last part, if it has parts."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._sent = connection, -1
        self._tasks: list[tuple[str, int, int]] = []
        """Description, items done and total of the tasks that are under way, each a part of the one before."""

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        self._tasks.append((description, done, max(1, total)))
        self._sent = -1
        self.advance(0)

    def advance(self, n: int = 1) -> None:
        description, done, total = self._tasks[-1]
        self._tasks[-1] = description, done + n, total
        percent = 100 * (done + n) // total
        if percent != self._sent:  # at most a hundred messages per stage
            self._sent = percent
            self._connection.send(("progress", self._tasks[-1]))

    def note(self, text: str) -> None:
        pass  # a line of many jobs has no room for it

    def finish(self) -> None:
        self._tasks.pop()
        self._sent = -1


def run_jobs(
    jobs: Sequence[Job], *, slots: int, threads: int, gpus: Sequence[str], logs: Path, display: Display, preload: Sequence[str]
) -> dict[str, object]:
    """Runs all jobs and returns their results by key, a `Failure` for each that failed or depended on one that did.

    At most `slots` jobs run at a time, each with `threads` threads and one of `gpus`, or of groups of them, if there are any; more
    slots than these share them.
    A failure stops only the jobs that depend on it. `preload` names modules that are imported once, before any process is forked.
    """
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([END_WITH_PARENT, *preload])
    _start_server()
    results: dict[str, object] = {}
    waiting, shared = list(jobs), dict[str, str]()
    running: dict[Connection, tuple[Job, BaseProcess, int]] = {}
    free = list(range(slots))
    try:
        while waiting or running:
            _share(shared, results, display)
            for job in [job for job in waiting if all(key in results for key in job.waits_for)]:
                if (skipped := _skipped(job, results)) is not None:
                    waiting.remove(job)
                    results[job.key] = skipped
                    display.ended(job.key, skipped)
                elif free:
                    waiting.remove(job)
                    task = _task(job, results, logs)
                    if isinstance(task, Failure):
                        results[job.key] = task
                        display.ended(job.key, task)
                    elif isinstance(task, Same):
                        shared[job.key] = task.key
                    else:
                        slot = free.pop(0)
                        settings = _Settings(threads=threads, gpu=gpus[slot % len(gpus)] if gpus else None, log=logs / f"{job.key}.log")
                        ours, process = _started(context, task, settings)
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
        _stop([process for _, process, _ in running.values()])
    _share(shared, results, display)
    return results


def _started(context: ForkServerContext, task: Task, settings: "_Settings") -> tuple[Connection, BaseProcess]:
    """A new process that does a task, and the connection by which it reports."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(task, theirs, settings), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _skipped(job: Job, results: Results) -> Failure | None:
    """The failure of a job that is not run because others failed; None if it can run."""
    failures = {key: found for key in job.waits_for if isinstance(found := results[key], Failure)}
    in_vain = job.any_of if failures.keys() >= set(job.any_of) else ()
    failed = next((key for key in (*job.after, *in_vain) if key in failures), None)
    return None if failed is None else Failure(message=f"not run because {failed} failed", log=failures[failed].log)


def _task(job: Job, results: Results, logs: Path) -> Task | Same | Failure:
    """The task of a job; what it cannot be made of is its failure, which its log says too."""
    try:
        return job.task(results)
    except ValueError as error:
        log = logs / f"{job.key}.log"
        log.write_text(redacted(f"{error}\n"), encoding="utf-8")
        return Failure(message=str(error), log=log)


def _share(shared: dict[str, str], results: dict[str, object], display: Display) -> None:
    """Gives the jobs in `shared` the results of those whose work they share, as far as these have ended."""
    while ended := [key for key, other in shared.items() if other in results]:
        for key in ended:
            results[key] = result = results[shared.pop(key)]
            display.ended(key, result if isinstance(result, Failure) else None)


def _stop(running: Sequence[BaseProcess]) -> None:
    """Has jobs save what they have, and waits for them; Ctrl-C, or a signal, ends the wait, and them with this process."""
    for process in running:
        process.terminate()
    if running:
        jobs = "the running job saves" if len(running) == 1 else f"{len(running)} running jobs save"
        print(f"stopping as soon as {jobs}; Ctrl-C again ends at once", file=sys.stderr, flush=True)
    for process in running:
        process.join()


def _start_server() -> None:
    """Starts the process that the jobs are forked from, unless it runs.

    It imports nothing from the current folder, where a file may have the name of a package, and leaves Ctrl-C to this process: it
    would print a traceback while it imports, and so would every job.
    """
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        with ignoring_interrupts():
            forkserver.ensure_running()
    finally:
        os.environ.pop(SAFE_PATH)
        os.environ.update({} if before is None else {SAFE_PATH: before})


def _received(connection: Connection, job: Job, process: BaseProcess, logs: Path, display: Display) -> tuple[bool, object]:
    """Handles one message of a job; returns whether the job has ended, and its result."""
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):  # OSError: killed while it sent a message
        process.join()
        return True, Failure(message=_ended(process.exitcode or 0), log=logs / f"{job.key}.log")
    if kind == "progress":
        display.progressed(job.key, *value)
        return False, None
    process.join()
    return True, value if kind == "result" else Failure(message=value, log=logs / f"{job.key}.log")


def _ended(code: int) -> str:
    """Why a process that said nothing has ended."""
    if code >= 0:
        return f"the process ended with code {code}"
    return f"the process was {killed(code, 'lower parallel, so that fewer jobs run at a time')}"


def _die_with_parent(connection: Connection) -> None:
    """Ends this process once nobody reads the connection any more, so that a killed study leaves no run that still counts as busy."""

    def watch() -> None:
        poll = select.poll()
        poll.register(connection.fileno(), 0)  # a closed peer is reported even with no events requested
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Settings:
    """What a job's process may use; no `gpu` leaves the environment's own."""

    threads: int
    gpu: str | None
    log: Path


def _child(task: Task, connection: Connection, settings: _Settings) -> None:
    """The main function of a job's process: output goes to the log, the result or failure to the parent."""
    _die_with_parent(connection)
    os.environ.pop(SAFE_PATH, None)
    if settings.gpu is not None:
        os.environ[GPUS] = settings.gpu
    import torch

    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    with settings.log.open("w", encoding="utf-8", buffering=1) as log:
        sys.stdout = sys.stderr = log
        try:
            message = ("result", task(_Sender(connection)))
        except Exception as error:  # of any kind: it ends this job, and the others are told what it was
            log.write(redacted(traceback.format_exc()))
            message = ("failure", reason(error, settings.log.parent.parent))
        connection.send(message)
        connection.close()
