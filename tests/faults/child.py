"""The commands of rewardloop in forked processes."""

import atexit
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import cli

TIMED_OUT = -1000
"""The code of a command that had to be ended because it took too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A command that has ended: its exit code, or the negative number of the signal that ended it, and what it printed.

    `survivors` counts processes that it started and that outlived it by more than the few seconds which they are given.

    >>> Ended(code=0, out="done", err="", seconds=0.4, survivors=0).said
    'done'
    """

    code: int
    out: str
    err: str
    seconds: float
    survivors: int

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err

    def tail(self, size: int = 300) -> str:
        """The end of what it printed, on one line."""
        return " | ".join(self.said.split("\n"))[-size:]


def nothing() -> None:
    """Does nothing."""


def rewardloop(
    arguments: Sequence[str], folder: Path, *, before: Callable[[], object] = nothing, timeout: float = 120.0, grace: float = 5.0
) -> Ended:
    """Runs `rewardloop ARGUMENTS` in `folder`; the process calls `before` first. Processes that it leaves behind are killed."""

    def command() -> None:
        sys.argv = ["rewardloop", *arguments]
        before()
        cli.main()

    return forked(command, folder, timeout=timeout, grace=grace)


def forked(work: Callable[[], object], folder: Path, *, timeout: float = 120.0, grace: float = 5.0) -> Ended:
    """Does `work` in a process of its own, in `folder` and with its output in files there, which are removed."""
    names = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
    descriptors = [os.open(name, os.O_CREAT | os.O_RDWR | os.O_TRUNC) for name in names]
    sys.stdout.flush()
    sys.stderr.flush()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(descriptors, folder)
        os._exit(_code_of(work))
    code = _waited(pid, started + timeout)
    survivors = _ended_group(pid, grace)
    texts = [os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace") for descriptor in descriptors]
    for descriptor, name in zip(descriptors, names, strict=True):
        os.close(descriptor)
        name.unlink()
    return Ended(code=code, out=texts[0], err=texts[1], seconds=time.monotonic() - started, survivors=survivors)


def _become(descriptors: Sequence[int], folder: Path) -> None:
    """Makes this process a command of its own: its group, its folder, its streams, and Python's own handling of signals."""
    # What was imported before the fork would tidy up here what others still use, such as the folder of W&B's tables.
    atexit._clear()  # pyright: ignore[reportPrivateUsage]  # as multiprocessing does
    os.setpgid(0, 0)
    os.chdir(folder)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in zip((null, *descriptors), range(3), strict=True):
        os.dup2(descriptor, target)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", errors=errors, line_buffering=True)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _code_of(work: Callable[[], object]) -> int:
    """The exit code that Python would give `work`, with what Python would print."""
    code = 0
    try:
        work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:  # a harness must outlive whatever a command does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # as multiprocessing does; there is no public one
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _waited(pid: int, deadline: float) -> int:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return TIMED_OUT
        time.sleep(0.002)


def _ended_group(group: int, grace: float) -> int:
    """Waits until no process of the group is alive; kills those that are left after `grace` seconds and returns their number."""
    deadline = time.monotonic() + grace
    while alive := _alive(group):
        if time.monotonic() > deadline:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            return len(alive)
        time.sleep(0.02)
    return 0


def _alive(group: int) -> list[int]:
    """The processes of a group that are no zombies."""
    try:
        os.killpg(group, 0)  # far cheaper than looking through all processes
    except ProcessLookupError:
        return []
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, belongs = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has just ended
                continue
            if int(belongs) == group and state != "Z":
                found.append(int(entry.name))
    return found
