"""Progress of long work: a bar on a terminal, occasional plain lines in a log, nothing in tests."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Reports one task at a time: `start`, then `advance` as it goes, then `finish`; then another may start."""

    def start(self, description: str, total: int) -> None:
        """Begins a task of `total` items."""
        ...

    def advance(self, n: int = 1) -> None:
        """Reports that `n` more items are done."""
        ...

    def finish(self) -> None:
        """Ends the task, whether or not all items were done."""
        ...


class NoProgress:
    """Reports nothing."""

    def start(self, description: str, total: int) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def finish(self) -> None:
        pass


class RichProgress:
    """A bar on a terminal, with elapsed and remaining time."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=console or Console(stderr=True))
        self._task: TaskID | None = None

    def start(self, description: str, total: int) -> None:
        self._task = self._bars.add_task(description, total=total)
        self._bars.start()

    def advance(self, n: int = 1) -> None:
        assert self._task is not None, "advance() before start()"
        self._bars.advance(self._task, n)

    def finish(self) -> None:
        assert self._task is not None, "finish() before start()"
        self._bars.stop()  # the bar stays on the screen in its last state
        self._bars.remove_task(self._task)
        self._task = None


class LineProgress:
    """A plain line at every tenth of the task or after a minute without one, at most one every 10 seconds, and one at the end.

    A line gives the share done, the rate in items per second and the time left, for instance
    `scoring: 120/400 (30%), 12.0/s, 0:00:23 left`.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock

    def start(self, description: str, total: int) -> None:
        self._description, self._total, self._done = description, total, 0
        self._started = self._last_time = self._clock()
        self._last_done = 0

    def advance(self, n: int = 1) -> None:
        self._done += n
        silence = self._clock() - self._last_time
        tenth_done = 10 * (self._done - self._last_done) >= self._total
        if silence >= 60 or (silence >= 10 and tenth_done):
            rate = self._done / (self._clock() - self._started)
            left = timedelta(seconds=round((self._total - self._done) / rate)) if rate else "unknown time"
            self._say(f"{self._done}/{self._total} ({self._done / max(self._total, 1):.0%}), {rate:.1f}/s, {left} left")
            self._last_time, self._last_done = self._clock(), self._done

    def finish(self) -> None:
        seconds = self._clock() - self._started
        rate = f", {self._done / seconds:.1f}/s" if seconds else ""
        self._say(f"{self._done}/{self._total} in {seconds:.1f} s{rate}")

    def _say(self, text: str) -> None:
        print(f"{self._description}: {text}", file=self._stream, flush=True)


def console_progress() -> Progress:
    """A bar if standard error is a terminal, otherwise plain lines."""
    return RichProgress() if sys.stderr.isatty() else LineProgress()
