"""Progress of long work: one live line on a terminal, the same as occasional plain lines in a log, nothing in tests."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column


class Progress(Protocol):
    """Reports a task: `start`, then `advance` as it goes, then `finish`. One that starts before another has ended is a part of it."""

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        """Begins a task of `total` items, each a `unit`, of which `done` were done before."""
        ...

    def advance(self, n: int = 1) -> None:
        """Reports that `n` more items are done."""
        ...

    def note(self, text: str) -> None:
        """Shows what the task has come to, such as its loss, until the next note."""
        ...

    def finish(self) -> None:
        """Ends the task, whether or not all items were done."""
        ...


class NoProgress:
    """Reports nothing."""

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


class Labelled:
    """Another progress, in which tasks are called `label` and no names of their own."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        self._progress.start(self._label, total, unit=unit, done=done)

    def advance(self, n: int = 1) -> None:
        self._progress.advance(n)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def finish(self) -> None:
        self._progress.finish()


@dataclass(kw_only=True, slots=True)
class _Task:
    """A task that is under way. `done_before` it began counts neither for its rate nor for the time left.

    The time in its `parts`, such as the hooks of a training, does not count for its rate either, but it does for the time left.
    """

    description: str
    total: int
    unit: str
    done: int
    started: float
    note: str = ""
    parts: float = 0.0
    done_before: int = field(init=False)

    def __post_init__(self) -> None:
        self.done_before = self.done

    def rate(self, now: float) -> str:
        """Items per second or, where that is below 1, seconds per item; empty before the first item."""
        num, seconds = self.done - self.done_before, now - self.started - self.parts
        if not num or seconds <= 0:
            return ""
        if num >= seconds:
            return f"{num / seconds:.1f} {_plural(self.unit)}/s" if self.unit else f"{num / seconds:.1f}/s"
        return f"{seconds / num:.1f} s/{self.unit or 'item'}"

    def left(self, now: float) -> str:
        """The time left at the rate so far; empty before the first item."""
        num = self.done - self.done_before
        if not num:
            return ""
        return f"{timedelta(seconds=round((self.total - self.done) * (now - self.started) / num))} left"

    def state(self, now: float) -> str:
        """Note, rate and time left."""
        return ", ".join(filter(None, [self.note, self.rate(now), self.left(now)]))


class RichProgress:
    """A live line on a terminal: bar, count, what the task has come to, rate and time left; a part has a line of its own below it."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=console or Console(stderr=True))
        self._clock = clock
        self._tasks: list[tuple[TaskID, _Task]] = []

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        task = _Task(description=description, total=total, unit=unit, done=done, started=self._clock())
        shown = f"  {description}" if self._tasks else description
        self._tasks.append((self._bars.add_task(shown, total=total, completed=done, state=""), task))
        self._bars.start()

    def advance(self, n: int = 1) -> None:
        self._top().done += n
        self._show()

    def note(self, text: str) -> None:
        self._top().note = text
        self._show()

    def close(self) -> None:
        """Gives the terminal back, whatever is under way."""
        self._bars.stop()

    def finish(self) -> None:
        self._top()
        shown, task = self._tasks.pop()
        if self._tasks:
            self._top().parts += self._clock() - task.started
        else:
            self._bars.stop()  # the line stays on the screen in its last state
        self._bars.remove_task(shown)

    def _top(self) -> _Task:
        assert self._tasks, "advance(), note() or finish() before start()"
        return self._tasks[-1][1]

    def _show(self) -> None:
        shown, task = self._tasks[-1]
        self._bars.update(shown, completed=task.done, state=task.state(self._clock()))


class LineProgress:
    """A plain line at every tenth of the task or after a minute without one, at most one every 10 seconds, and one at the end.

    A line gives the share done, what the task has come to, its rate and the time left, for instance
    `training: 120/400 (30%), loss 0.61, 2.4 s/step, 0:11:12 left`.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._tasks: list[_Task] = []
        self._last: list[tuple[float, int]] = []
        """When the last line of each task was said, and how much of it was done."""

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        now = self._clock()
        self._tasks.append(_Task(description=description, total=total, unit=unit, done=done, started=now))
        self._last.append((now, done))

    def advance(self, n: int = 1) -> None:
        task, (last_time, last_done), now = self._tasks[-1], self._last[-1], self._clock()
        task.done += n
        silence = now - last_time
        tenth_done = 10 * (task.done - last_done) >= task.total
        if silence >= 60 or (silence >= 10 and tenth_done):
            share = f"{task.done}/{task.total} ({task.done / max(task.total, 1):.0%})"
            self._say(task, ", ".join(filter(None, [share, task.state(now)])))
            self._last[-1] = now, task.done

    def note(self, text: str) -> None:
        self._tasks[-1].note = text

    def finish(self) -> None:
        task, now = self._tasks.pop(), self._clock()
        self._last.pop()
        if self._tasks:
            self._tasks[-1].parts += now - task.started
        took = f"{task.done}/{task.total} in {now - task.started:.1f} s"
        if not self._tasks or now - task.started >= 10:  # a quick part of a task needs no line of its own
            self._say(task, ", ".join(filter(None, [took, task.note, task.rate(now)])))

    def _say(self, task: _Task, text: str) -> None:
        print(f"{task.description}: {text}", file=self._stream, flush=True)


@contextmanager
def console_progress() -> Generator[Progress]:
    """A live line if standard error is a terminal, otherwise plain lines; the terminal is given back at the end, after an error too."""
    if not sys.stderr.isatty():
        yield LineProgress()
        return
    progress = RichProgress()
    try:
        yield progress
    finally:
        progress.close()


def _plural(unit: str) -> str:
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def short_count(value: float) -> str:
    """A large number in three digits.

    >>> short_count(950), short_count(12_345), short_count(3_100_000)
    ('950', '12.3k', '3.1M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"
