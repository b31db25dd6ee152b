"""Preemption: on SIGTERM a training run saves a checkpoint before it exits."""

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped, not failed; the same command resumes the run. Not 0, which would mean finished."""

INTERRUPTED = 130
"""What shells report for a command that Ctrl-C ended."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

STOPPED = "stopped; what is complete is kept, and the same command goes on from there"


class Preempted(SystemExit):
    """The run was told to stop and has been saved; the process exits with `EXIT_CODE`."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_CODE)
        self.message = message

    @classmethod
    def saved_at(cls, where: str) -> "Preempted":
        """The end of a run that has just been saved at `where`, such as "step 5 of 9"."""
        return cls(f"stopped by a signal and saved at {where}; the same command goes on from there")

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type["Preempted"], tuple[str]]:
        return Preempted, (self.message,)  # its arguments are the exit code's


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


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes that torchrun started, one says it
        os.write(2, f"{STOPPED}\n".encode())
    os._exit(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)


class Preemption:
    """Listens for SIGTERM, and for SIGUSR1, which Slurm can send ahead of it.

    `requested` is set when one arrives: a training loop checks it between steps, saves and raises. Inside `interruptible`, where
    everything is saved already, the signal itself raises. A second signal always does.
    """

    def __init__(self) -> None:
        self.requested = False
        self._now = False

    @contextmanager
    def listening(self) -> Generator["Preemption"]:
        """Context in which signals set `requested`. In any thread but the main one it does nothing."""
        with _handled(self._hear):
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
            raise Preempted("stopped by a signal; what is saved is kept, and the same command goes on from there")

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if self._now or again:
            self.check()
