"""Trackers: a plain file beside the run, and whatever else takes metrics, on the same step axes.

Every metric is bound to a named step axis ("train/step" or "checkpoint/step"), never to a logger's own counter: benchmark
results arrive late, or repeat after a resume, and W&B silently drops what arrives behind its native step.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.disk import BrokenFileError, json_float, parse_json, read_lines, writing

if TYPE_CHECKING:
    from core.records import Tracker

METRICS = "metrics.jsonl"
"""The log in a run's folder."""
AXES = ("train/step", "checkpoint/step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One call of a tracker's `log`, at `time` in Unix seconds; 0 where that is not known.

    >>> Row(axis="train/step", step=3, metrics={"train/loss": 0.7}).step
    3
    """

    axis: str
    step: int
    metrics: Mapping[str, float]
    time: float = 0.0


class JsonlTracker:
    """Appends one line of JSON per call of `log` to a file.

    A line reads `{"axis": "checkpoint/step", "checkpoint/step": 12, "time": 1795251386.8, "rewardbench2/math": 0.4}`, with
    the time in Unix seconds. On opening, a last line torn by a killed process and lines that are no JSON are dropped, with a
    line for each, so that every line is valid.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        _drop_broken_lines(path)
        self._path = path
        self._closed = False

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        """Writes the line before returning; raises `ValueError` for a metric with the name of one of the line's own keys."""
        if self._closed:
            raise ValueError(f"The tracker of {self._path} is closed.")
        head = {"axis": axis, axis: step, "time": round(time.time(), 3)}
        if clash := head.keys() & metrics.keys():
            raise ValueError(f"Metrics must not be named {', '.join(sorted(clash))}: every line of {self._path.name} already has that key.")
        line = {**head, **{name: json_float(float(value)) for name, value in metrics.items()}}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self, *, exit_code: int = 0) -> None:
        self._closed = True


def read_metrics(path: Path, *, axis: str, say: Callable[[str], None] = print) -> dict[int, dict[str, float]]:
    """The metrics that a `JsonlTracker` wrote on `axis`, by step, ascending; empty if there is no file yet.

    If a resumed run repeated a step, the later value of each metric counts. An unterminated last line, torn or still being
    written, is ignored. Any other line that holds no metrics is skipped, and `say` gets a line for it.
    """
    if not path.is_file():
        return {}
    steps: dict[int, dict[str, float]] = {}
    for number, text in read_lines(path):
        where = f"{path}:{number}"
        try:
            line = parse_json(text, where, remedy="the line is skipped")
            if line["axis"] == axis:
                values = {name: float(value) for name, value in line.items() if name not in ("axis", "time", axis)}
                steps.setdefault(int(line[axis]), {}).update(values)
        except BrokenFileError as error:
            say(str(error))
        except (KeyError, TypeError, ValueError) as error:
            say(f"{where} holds no metrics ({type(error).__name__}: {error}); the line is skipped.")
    return dict(sorted(steps.items()))


def read_rows(path: Path) -> list[Row]:
    """The rows of a log in their order, none if there is no file; a line that holds none is left out, as `read_metrics` says."""
    found = [row_of(text, f"{path}:{number}") for number, text in read_lines(path)] if path.is_file() else []
    return [row for row in found if row is not None]


def row_of(text: str, where: str) -> Row | None:
    """The row in a line of a log; None for a line that holds none."""
    try:
        line = parse_json(text, where, remedy="it is left out")
        axis = line["axis"]
        values = {name: float(value) for name, value in line.items() if name not in ("axis", "time", axis)}
        return Row(axis=axis, step=int(line[axis]), metrics=values, time=float(line.get("time", 0.0)))
    except (BrokenFileError, KeyError, TypeError, ValueError):
        return None


def forget_later(path: Path, step: int) -> None:
    """Removes the lines of steps after `step` from the log of a run that goes on from there and will log them again."""
    if not path.is_file():
        return
    lines = [line + b"\n" for line in path.read_bytes().split(b"\n")[:-1]]
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        _rewrite(path, kept)


class Trackers:
    """Forwards everything to several trackers."""

    def __init__(self, trackers: "Sequence[Tracker]") -> None:
        self._trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, float], *, axis: str, step: int) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, axis=axis, step=step)

    def close(self, *, exit_code: int = 0) -> None:
        """Closes every tracker, last one first, even if one of them raises."""
        with ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.close, exit_code=exit_code)


def _drop_broken_lines(path: Path) -> None:
    *lines, torn = path.read_bytes().split(b"\n")
    dropped = [f"{path}: the last line was not written completely; it is dropped."] if torn else []
    kept: list[bytes] = []
    for number, line in enumerate(lines, 1):
        try:
            parse_json(line.decode("utf-8", errors="replace"), f"{path}:{number}", remedy="it is dropped")
            kept.append(line + b"\n")
        except BrokenFileError as error:
            dropped.append(str(error))
    if dropped:
        _rewrite(path, kept)
        print("\n".join(dropped), file=sys.stderr)


def _step_of(line: bytes) -> int:
    """The step of a line in a log, on whichever axis; -1 for a line without one."""
    try:
        found = parse_json(line.decode("utf-8", errors="replace"), "a line", remedy="it is kept")
        return int(found[found["axis"]])
    except (BrokenFileError, KeyError, TypeError, ValueError):
        return -1


def _rewrite(path: Path, lines: Sequence[bytes]) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(b"".join(lines))
    temporary.replace(path)
