"""A polite end: SIGTERM lets training save itself before the process goes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped, not failed; the same command goes on. Not 0, which would mean done."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """The run was told to stop and is saved; the process exits with `EXIT_CODE`."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


def stop_at_once() -> None:
    """From here on SIGTERM and SIGUSR1 end the process with `EXIT_CODE`: nothing has begun that could be lost.

    `Preemption.heard` takes over while there is something to save. Call it on the main thread.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted("stopped by a signal; what is complete is kept, and the same command goes on from there")

    for number in SIGNALS:
        signal.signal(number, stop)


class Preemption:
    """Hears SIGTERM, and SIGUSR1, which Slurm can send ahead of it.

    `asked` says that one has come: a training loop looks at it between steps, saves and raises. Where all is saved already,
    in `interruptible`, the signal itself raises. A second signal always does.
    """

    def __init__(self) -> None:
        self.asked = False
        self._now = False

    @contextmanager
    def heard(self) -> Iterator["Preemption"]:
        """Within it signals are heard; afterwards as before. Only a main thread hears them; in another one nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it nothing is lost by going at once."""
        self.check()
        before, self._now = self._now, True
        try:
            yield
        finally:
            self._now = before

    def check(self) -> None:
        """Raises `Preempted` if a signal has come."""
        if self.asked:
            raise Preempted("stopped by a signal; what is saved is kept, and the same command goes on from there")

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if self._now or again:
            self.check()
