"""How long a study took: the time of all commands that worked on it together, however each of them ended."""

import time
from contextlib import suppress
from pathlib import Path

from core.disk import BrokenFileError, read_json, write_json
from evalhooks.report.summary import read_summary
from launch.parallel.scheduler import Display, Failure

TIME = "time.json"
"""In a study's folder: the seconds of its commands so far, as `wall_s`."""


class TimeSpent:
    """The clock of one command of a study in `folder`, which goes on from where the earlier ones ended."""

    def __init__(self, folder: Path) -> None:
        self._file, self._began = folder / TIME, time.monotonic()
        self._before = _earlier(folder)

    def note(self) -> None:
        """Keeps the time so far, for a command that does not get to its end."""
        with suppress(OSError):  # on a full disk the work counts more than its time
            write_json(self._file, {"wall_s": round(self._before + time.monotonic() - self._began, 1)})

    def total(self, *, worked: bool) -> float:
        """The seconds of all commands, without this one's if it had nothing to do and the others' are known."""
        if not worked and self._before:
            self._began = time.monotonic()
        self.note()
        return self._before + time.monotonic() - self._began


class Timed:
    """A display that also notes the time whenever a job ends: a command that is killed leaves no more than its last jobs uncounted."""

    def __init__(self, shown: Display, spent: TimeSpent) -> None:
        self.started, self.progressed = shown.started, shown.progressed
        self._shown, self._spent = shown, spent

    def ended(self, key: str, failure: Failure | None) -> None:
        """Shows it, and notes the time."""
        self._shown.ended(key, failure)
        self._spent.note()


def _earlier(folder: Path) -> float:
    """The seconds of earlier commands; of a study that has only a report, what that says; 0 of a new one, and where nothing can be read."""
    try:
        return float(read_json(folder / TIME, remedy="the study counts its time anew").get("wall_s", 0.0))
    except FileNotFoundError:
        pass
    except BrokenFileError as error:
        print(error)
    if not (folder / "report" / "summary.json").is_file():
        return 0.0
    try:
        return float(read_summary(folder / "report").get("wall_s", 0.0))
    except BrokenFileError as error:
        print(error)
        return 0.0
