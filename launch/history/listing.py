"""`rewardloop runs`: the runs there are, filtered and sorted."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.shares import in_points
from core.text import duration, shown
from evalhooks.measured_rows import rows_text
from launch.history.arguments import Arguments, parse, said
from launch.history.find import KILLED, Record, all_runs, find_runs, status_of, study_of
from launch.history.scores import Scores, scores_of

HELP = """usage: rewardloop runs [RUN ...] [key=value ...]

Lists runs: all under runs_dir, or those that RUN names by folder, id, name, study or a pattern such as 'demo/rm-*'.

status=finished    only runs that are running, finished, failed, stopped (by a signal) or killed; several as finished,failed
job=rm             only runs of rm, ppo, bench; several as rm,ppo
sort=age           by age (the newest last), score, size, time or name
runs_dir=runs      where the runs lie

The score is that of the best checkpoint, by the metric that chose it, accuracies in points of 100.
`rewardloop show RUN` says more of one."""

STATUSES = ("running", "finished", "failed", "stopped", KILLED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A run as it is listed; `age` counts seconds since it started, `size` bytes on disk."""

    record: Record
    status: str
    scores: Scores | None
    age: float
    size: int


SORTS: Mapping[str, Callable[[Line], tuple[float | str, ...]]] = {
    "age": lambda line: (-line.age,),
    "score": lambda line: (-1.0 if line.scores is None or line.scores.best is None else line.scores.best,),
    "size": lambda line: (float(line.size),),
    "time": lambda line: (float(line.record.get("wall_s", 0.0)),),
    "name": lambda line: (study_of(line.record), Path(line.record["dir"]).name),
}


def main() -> None:
    """Entry point."""
    with said("runs", HELP):
        arguments = parse(sys.argv[1:], keys=("status", "job", "sort", "runs_dir"))
        lines = listed(arguments)
        _print(lines, arguments.settings.get("runs_dir", "runs"))


def listed(arguments: Arguments) -> list[Line]:
    """The runs that the arguments ask for, sorted. Raises `ValueError` for an unknown choice or a name of no run."""
    settings = arguments.settings
    runs_dir = Path(settings.get("runs_dir", "runs")).expanduser()
    statuses = _choices("status", settings.get("status", ""), STATUSES)
    jobs = _choices("job", settings.get("job", ""), ("rm", "ppo", "bon", "bench"))
    [order] = _choices("sort", settings.get("sort", "age"), tuple(SORTS)) or ["age"]
    records = find_runs(arguments.places, runs_dir) if arguments.places else all_runs(runs_dir)
    chosen = [
        (record, status)
        for record in records
        if (not jobs or record["job"] in jobs) and (not statuses or status_of(record) in statuses)
        for status in [status_of(record)]
    ]
    lines = [
        Line(record=record, status=status, scores=scores_of(record), age=age_of(record), size=size_of(Path(record["dir"])))
        for record, status in chosen
    ]
    return sorted(lines, key=SORTS[order])


def age_of(record: Record) -> float:
    """Seconds since a run was started first."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(record["started"])).total_seconds()
    except (KeyError, ValueError):
        return 0.0


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def bytes_text(size: float) -> str:
    """A size in the unit that suits it.

    >>> bytes_text(512), bytes_text(3_400_000)
    ('512 B', '3.4 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _choices(key: str, given: str, known: Sequence[str]) -> list[str]:
    chosen = [part for part in given.split(",") if part]
    if unknown := [part for part in chosen if part not in known]:
        raise ValueError(f"{key}={unknown[0]} is unknown; choose among {', '.join(known)}.")
    return chosen


def _print(lines: Sequence[Line], runs_dir: str) -> None:
    if not lines:
        print(f"no such runs under {runs_dir}")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in ("id", "run", "status", "metric", "best", "last", "age", "time", "size"):
        table.add_column(heading, justify="left" if heading in ("id", "run", "status", "metric") else "right", overflow="fold")
    for line in lines:
        folder, scores = Path(line.record["dir"]), line.scores
        best = "" if scores is None or scores.best is None else in_points(scores.metric, scores.best) + _at(scores.best_step)
        table.add_row(
            line.record["id"],
            Text(shown(f"{study_of(line.record)}/{folder.name.rpartition('-')[0]}")),
            line.status,
            _metric(line.record, scores.metric) if scores else "",
            best,
            "" if scores is None or scores.last is None else in_points(scores.metric, scores.last),
            duration(line.age),
            duration(line.record.get("wall_s", 0.0)),
            bytes_text(line.size),
        )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)
    print(f"{len(lines)} run{'' if len(lines) == 1 else 's'}, {bytes_text(sum(line.size for line in lines))}; accuracies in points of 100")


def _metric(record: Record, metric: str) -> str:
    rows = rows_text(record, metric)
    return f"{metric} ({rows})" if rows else metric


def _at(step: int | None) -> str:
    return "" if step is None else f" @{step}"
