"""Processes that jobs start anew are forked instead, so that they cost no start and count their own operations."""

import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

_STARTS = {"-m", "-c"}
_popen, _get_context = subprocess.Popen, multiprocessing.get_context


class ForkedPython:
    """What `subprocess.Popen([sys.executable, ..., "-c", PROGRAM, ...])` starts, forked from this process; as much of it as is used.

    `-m MODULE` likewise.
    """

    def __init__(self, arguments: Sequence[str], *, begin: Callable[[], None], stdout: Any, stderr: Any, env: Any = None, **_: Any) -> None:
        place = next(place for place, argument in enumerate(arguments) if argument in _STARTS)
        option, program, *rest = arguments[place:]
        ours, theirs = os.pipe()[::-1]
        self.args, self.returncode = arguments, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ours)
            for descriptor, target in ((theirs, 0), (stdout.fileno(), 1), (stderr.fileno() if stderr != subprocess.STDOUT else 1, 2)):
                os.dup2(descriptor, target)
            os._exit(_run(option, program, rest, begin, env))
        os.close(theirs)
        self.stdin = io.FileIO(ours, "w")

    returncode: int | None

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[None, None]:
        self.stdin.close()
        self.wait()
        return None, None


def _run(option: str, program: str, rest: Sequence[str], begin: Callable[[], None], env: Any) -> int:
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), encoding="utf-8", line_buffering=True) for n in (1, 2))
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.argv = [option if option == "-c" else program, *rest]
    code = 0
    try:
        begin()
        if option == "-c":
            exec(program, {"__name__": "__main__"})
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
                runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def fork_instead(begin: Callable[[], None]) -> None:
    """From now on this process forks the Python programs that it would start, and a study's jobs; `begin` is called first in each."""

    def popen(arguments: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(arguments, list) and arguments[:1] == [sys.executable] and not _STARTS.isdisjoint(arguments):
            return ForkedPython(arguments, begin=begin, **{name: options[name] for name in options if name != "stdin"})
        return _popen(arguments, *rest, **options)

    def get_context(method: str | None = None) -> Any:
        return _get_context("fork" if method == "forkserver" else method)

    subprocess.Popen, multiprocessing.get_context = popen, get_context
