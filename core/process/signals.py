"""Preemption: on SIGTERM a training run saves a checkpoint before it exits."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped, not failed; the same command resumes the run. Not 0, which would mean finished."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


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


@contextmanager
def raise_on_signal() -> Generator[None]:
    """Context in which SIGTERM and SIGUSR1 raise `Preempted` at once, because there is nothing to lose yet.

    `Preemption.listening` takes over while there is something to save.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by a signal; what is complete is kept, and the same command goes on from there")

    with _handled(stop):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Context in which `handler` gets the signals. Only the main thread can receive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


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
