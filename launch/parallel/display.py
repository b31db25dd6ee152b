"""Shows the jobs of a study: bars on a terminal, plain lines in a log."""

import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from core.text import shown
from launch.parallel.scheduler import Failure


class Bars:
    """One bar for all jobs, and one for each that is running."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[what]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._progress.start()
        self._all = self._progress.add_task("all jobs", total=total, what=f"0/{total}")
        self._bars: dict[str, TaskID] = {}
        self._total, self._ended = total, 0

    def started(self, key: str) -> None:
        self._bars[key] = self._progress.add_task(key, total=1, what="starting")

    def progressed(self, key: str, description: str, done: int, total: int) -> None:
        self._progress.update(self._bars[key], completed=done, total=total, what=f"{description} {done}/{total}")

    def ended(self, key: str, failure: Failure | None) -> None:
        self._ended += 1
        if key in self._bars:
            self._progress.remove_task(self._bars.pop(key))
        self._progress.update(self._all, completed=self._ended, what=f"{self._ended}/{self._total}")
        if failure is not None:
            self._progress.console.print(
                f"[red]failed[/] {key}: {escape(shown(failure.message))} (see {escape(str(failure.log))})", highlight=False
            )

    def close(self) -> None:
        """Stops drawing; the bar of all jobs stays as the last line."""
        self._progress.stop()


class Lines:
    """A line when a job starts and ends, and in between at most one every half minute."""

    def __init__(self, total: int) -> None:
        self._total, self._ended = total, 0
        self._begun: dict[str, float] = {}
        self._printed: dict[str, float] = {}

    def started(self, key: str) -> None:
        self._begun[key] = self._printed[key] = time.monotonic()
        _print(f"{key}: started")

    def progressed(self, key: str, description: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._printed[key] > 30:
            self._printed[key] = now
            _print(f"{key}: {description} {done}/{total}")

    def ended(self, key: str, failure: Failure | None) -> None:
        self._ended += 1
        took = f" after {time.monotonic() - self._begun[key]:.0f} s" if key in self._begun else ""  # not one that never started
        how = "done" if failure is None else f"failed: {shown(failure.message)} (see {failure.log})"
        _print(f"[{self._ended}/{self._total}] {key}: {how}{took}")

    def close(self) -> None:
        """Nothing to release."""


def display(total: int) -> Bars | Lines:
    """Bars on a terminal, lines where the output goes to a file."""
    console = Console(stderr=True)
    return Bars(console, total) if console.is_terminal else Lines(total)


def _print(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
