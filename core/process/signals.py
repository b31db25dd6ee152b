"""Preemption: on SIGTERM, and on Ctrl-C, a training run saves a checkpoint before it exits."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped, not failed; the same command resumes the run. Not 0, which would mean finished."""

INTERRUPTED = 130
"""What shells report for a command that Ctrl-C ended."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

STOPPED = "stopped; what is complete is kept, and the same command goes on from there"


STOPPING = "stopping as soon as this step is saved; Ctrl-C again ends the run at once"

_SAME_SIGNAL_S = 2.0
"""Terminals and `timeout` signal all processes, torchrun and our scheduler then their own once more: within this time it is one signal."""


class Preempted(SystemExit):
    """The run was told to stop and has been saved; the process exits with `EXIT_CODE`, or with `INTERRUPTED` after Ctrl-C."""

    def __init__(self, message: str, code: int = EXIT_CODE) -> None:
        super().__init__(code)
        self.message = message

    @classmethod
    def saved_at(cls, where: str, code: int = EXIT_CODE) -> "Preempted":
        """The end of a run that has just been saved at `where`, such as "step 5 of 9"."""
        return cls(f"{_by(code)} and saved at {where}; the same command goes on from there", code)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> "tuple[type[Preempted], tuple[str, object]]":
        return Preempted, (self.message, self.code)  # its arguments are the exit code's


def _by(code: int) -> str:
    return "stopped by Ctrl-C" if code == INTERRUPTED else "stopped by a signal"


def stop_at_once() -> None:
    """From now on, Ctrl-C and the signals end this process with one line and their exit code, and nothing is unwound.

    For the start of a command, when there is nothing to lose: an exception would reach whatever is being imported, and packages
    turn it into other errors, or print it.
    """
    for number in (signal.SIGINT, *SIGNALS):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background of a script
            signal.signal(number, _exit_at_once)


@contextmanager
def stopping_at_once() -> Generator[None]:
    """Context in which Ctrl-C and the signals do as after `stop_at_once`, for imports that take seconds."""
    with _handled(_exit_at_once, (signal.SIGINT, *SIGNALS)):
        yield


@contextmanager
def ignoring_interrupts() -> Generator[None]:
    """Context in which Ctrl-C does nothing, and neither does it in the programs that are started in it."""
    with _handled(signal.SIG_IGN, (signal.SIGINT,)):
        yield


@contextmanager
def raise_on_signal() -> Generator[None]:
    """Context in which SIGTERM and SIGUSR1 raise `Preempted`, and Ctrl-C `KeyboardInterrupt`, at once: there is nothing to lose yet.

    `Preemption.listening` takes over while there is something to save.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by a signal; what is complete is kept, and the same command goes on from there")

    with _handled(stop), _handled(signal.default_int_handler, (signal.SIGINT,)):
        yield


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, numbers: Sequence[signal.Signals] = SIGNALS
) -> Generator[None]:
    """Context in which `handler` gets the signals that are not ignored. Only the main thread can receive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _is_started_by_others() -> bool:
    """Whether torchrun or our scheduler started this process, and passes signals on to it."""
    return "TORCHELASTIC_RUN_ID" in os.environ or multiprocessing.parent_process() is not None


def _tell(line: str) -> None:
    """Prints a line from within a handler, where the streams may be in use."""
    if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun started, one says it
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    _tell(STOPPED)
    os._exit(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)


class Preemption:
    """Listens for SIGTERM, for SIGUSR1, which Slurm can send ahead of it, and for Ctrl-C.

    `requested` is set when one arrives: a training loop checks it between steps, saves and raises. Inside `interruptible`, where
    everything is saved already, the signal itself raises. A second signal always does.
    """

    def __init__(self) -> None:
        self.requested = False
        self.code = EXIT_CODE
        """The exit code of a process that the signal has stopped."""
        self._now = False
        self._heard_at = 0.0

    @contextmanager
    def listening(self) -> Generator["Preemption"]:
        """Context in which signals set `requested`. In any thread but the main one it does nothing."""
        with _handled(self._hear, (signal.SIGINT, *SIGNALS)):
            yield self

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """Context in which everything is saved, so that a signal may raise at once."""
        self.check()
        before, self._now = self._now, True
        try:
            yield
        finally:
            self._now = before

    def check(self) -> None:
        """Raises `Preempted` if a signal has arrived."""
        if self.requested:
            raise Preempted(f"{_by(self.code)}; what is saved is kept, and the same command goes on from there", self.code)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, now = self.requested, time.monotonic()
        if again and _is_started_by_others() and now - self._heard_at < _SAME_SIGNAL_S:
            return
        self.requested, self._heard_at = True, now
        self.code = INTERRUPTED if number == signal.SIGINT else EXIT_CODE
        if self._now or again:
            self.check()
        if number == signal.SIGINT:
            _tell(STOPPING)
