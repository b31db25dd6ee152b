"""The jobs of a sweep side by side: the settings in which they differ, and at the end what became of each."""

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from core.disk import BrokenFileError, atomic_file, jsonable
from core.records import AXIS
from core.runs.identity import clean_name
from core.runs.record import CONFIG, RECORD, RunStatus, read_record
from core.runs.tracking import METRICS as LOG
from core.runs.tracking import read_metrics
from core.shares import in_points
from core.text import shown
from evalhooks.measured_rows import different_rows, rows_texts
from evalhooks.rewardbench.domains import LABELS, OVERALL, PREFIX
from launch.identity import unhashed_keys
from launch.overrides.differences import OWN, Setting, common, differences, is_under, settings_of
from launch.settings import RunSettings

METRICS = {"rm": ("rewardbench2/overall", "held_out/accuracy"), "ppo": ("downstream/average",), "bon": ("bon/average",)}
"""The metrics that the table of a sweep shows, by command, where they were measured; see `shown_metrics`."""

Row: TypeAlias = dict[str, str | float | None]
"""What the table at the end of a sweep has on one job, by column."""

WIDTH = 10_000
"""Columns to assume for a log, which has no width; tables only take what they need."""

RUN_KINDS = ("rm", "ppo", "bon")
"""Commands whose jobs leave a run that a dry run looks for."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is faster, but not in every build

_IN_NAME = {"name", "model.lineage"}  # unhashed, but part of the name of the run's folder


class JobStatus(StrEnum):
    """What became of a job; `skipped`: its run was finished before the sweep."""

    finished = "finished"
    skipped = "skipped"
    failed = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOutcome:
    """What became of a job: the record of its run if it left one, and the reason if it failed.

    >>> JobOutcome(status=JobStatus.failed, message="data.paths is empty").record is None
    True
    """

    status: JobStatus
    message: str = ""
    record: Mapping[str, Any] | None = None


def outcome_of(record: Mapping[str, Any] | None, *, begun: str) -> JobOutcome:
    """The outcome of a job that did not fail. `begun` is its start in UTC, ISO 8601 to the millisecond like the times in records."""
    before = record is not None and record.get("finished", begun) < begun
    return JobOutcome(status=JobStatus.skipped if before else JobStatus.finished, record=record)


def print_plan(name: str, jobs: Sequence[RunSettings], console: Console, asked: Collection[str] = ()) -> None:
    """Prints a dry run: a row per job with what sets it apart, then the settings they share, then how many they are.

    Of the shared settings those are shown that are not the default and lie under a key that was `asked` for: presets set others. All
    are if no keys are given, or if an experiment or a file of the user's was chosen.

    If `runs_dir` holds a run with the same settings, the row has its folder and how it ended. No input is read for that, so a run whose
    inputs have changed since counts as the same here.
    """
    found = differences(jobs)
    states = states_of(name, jobs)
    table = _table(["job", *found.keys, *(states[0] if states else ())])
    for number, row in enumerate(found.rows):
        table.add_row(*map(Text, [str(number + 1), *row.values(), *(states[number].values() if states else ())]))
    if len(jobs) > 1 or states:
        console.print(Text(f"jobs of rewardloop {name}"), table)
    if found.with_them:
        table = _table(["where", "also"])
        for (key, value), settings in sorted(found.with_them.items(), key=lambda item: found.keys.index(item[0][0])):
            table.add_row(Text(f"{key}={value}"), Text("\n".join(f"{key}={value}" for key, value in settings.items())))
        console.print(Text("settings that follow from these values"), table)
    same = common(jobs)
    if asked and not {"experiment", "hydra.job.config_name"} & set(asked):
        same = {key: value for key, value in same.items() if is_under(key, asked)}
    if same:
        table = _table(["key", "value"])
        for key, value in same.items():
            table.add_row(Text(key), Text(value))
        console.print(Text("shared by all jobs and not the default" if len(jobs) > 1 else "not the default"), table)
    console.print(Text(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}; nothing was run or written (dry_run=true)"))


def states_of(name: str, jobs: Sequence[RunSettings]) -> list[dict[str, str]]:
    """For every job the `state` of its run (new, torn or how it ended) and, if any job has a run, its folder; empty for jobs without runs.

    Runs are recognised by the settings in their config.yaml.
    """
    if name not in RUN_KINDS:
        return []
    kept = {place: _kept(name, place) for place in {_place(job) for job in jobs}}
    states: list[dict[str, str]] = []
    for job in jobs:
        ignored = unhashed_keys(job) - _IN_NAME
        settings = {key: setting for key, setting in settings_of(job).items() if not is_under(key, ignored)}
        fits = [(state, folder) for state, folder, config in kept[_place(job)] if _is_same(settings, config, ignored)]
        state, folder = min(fits, key=lambda found: (found[0] != RunStatus.finished, found[1]), default=("new", ""))
        states.append({"state": state, "run": folder})
    return states if any(state["run"] for state in states) else [{"state": state["state"]} for state in states]


def print_outcomes(name: str, jobs: Sequence[RunSettings], outcomes: Sequence[JobOutcome], console: Console) -> None:
    """Prints the table at the end of a sweep: what sets each job apart, its status, best and last metrics, time and folder."""
    rows = outcome_rows(name, jobs, outcomes)
    keys = [key for key in rows[0] if key != "message" and any(row[key] is not None for row in rows)]  # errors have been said
    width, table = console.width, _outcomes(rows, keys)
    for dropped in ("dir", *(f"{metric} last" for metric in METRICS.get(name, ()))):
        if Measurement.get(console, console.options.update(max_width=WIDTH), table).maximum > width and dropped in keys:
            keys.remove(dropped)
            table = _outcomes(rows, keys)
    console.print(Text(f"sweep of {len(rows)} jobs of rewardloop {name}, accuracies in points of 100"), table)
    if "dir" not in keys:  # below the table, which would be wider than the terminal
        for row in (row for row in rows if row["dir"] is not None):
            console.print(Text(f"{row['job']}  {row['dir']}"), soft_wrap=True)


def rows_warnings(name: str, outcomes: Sequence[JobOutcome]) -> list[str]:
    """Where the table compares scores that do not: jobs that were measured on different rows, and the key that makes them the same."""
    records = {f"job {number}": outcome.record for number, outcome in enumerate(outcomes, 1) if outcome.record}
    found = [different_rows(records, metric) for metric in METRICS.get(name, ())]
    return [f"warning: {text}" for text in found if text]


def _outcomes(rows: Sequence[Row], keys: Sequence[str]) -> Table:
    table = _table([_heading(key) for key in keys])
    for row in rows:
        table.add_row(*(Text(_cell(key, row[key])) for key in keys))
    return table


def write_outcomes(name: str, jobs: Sequence[RunSettings], outcomes: Sequence[JobOutcome]) -> list[Path]:
    """Writes the same table, with errors, to `<runs_dir>/<study>/sweep-<name>.csv`, one file per study, each atomically. Returns the paths.

    Times are in seconds, accuracies shares of 1. A later sweep of the study replaces the file if it has all of its runs; else it goes to
    the next free `sweep-<name>-2.csv`.
    """
    rows = outcome_rows(name, jobs, outcomes)
    paths: list[Path] = []
    for place in dict.fromkeys(map(_place, jobs)):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        own = [row for row, job in zip(rows, jobs, strict=True) if _place(job) == place]
        writer.writerows(own)
        paths.append(replaceable(place / f"sweep-{name}.csv", {str(row["dir"]) for row in own if row["dir"]}, len(own)))
        with atomic_file(paths[-1]) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    return paths


def replaceable(path: Path, runs: Collection[str], num_rows: int) -> Path:
    """`path`, or the next free one of its name with a number, where the file there has rows of runs that the new one lacks."""
    for place in chain([path], (path.with_stem(f"{path.stem}-{number}") for number in count(2))):
        if not place.exists():
            return place
        with place.open(encoding="utf-8", newline="") as file:
            before = list(csv.DictReader(file))
        if len(before) <= num_rows and {row.get("dir") or "" for row in before} - {""} <= set(runs):
            return place
    raise AssertionError("there is always a free number")


def outcome_rows(name: str, jobs: Sequence[RunSettings], outcomes: Sequence[JobOutcome]) -> list[Row]:
    """A row per job, with None for whatever a job lacks: of each metric the highest of the run's checkpoints, and that of the last one."""
    rows: list[Row] = []
    shown_here = shown_metrics(name, [outcome.record for outcome in outcomes if outcome.record])
    folders = _folders_of_failed(name, jobs, outcomes)
    in_part = any(rows_texts(outcome.record) for outcome in outcomes if outcome.record)
    for number, (values, outcome) in enumerate(zip(differences(jobs).rows, outcomes, strict=True), 1):
        record = outcome.record or {}
        row: Row = {"job": number, **values, "status": outcome.status.value, "message": shown(outcome.message) or None}
        for metric in shown_here:
            series = _series(record, metric)
            best, last = max(filter(math.isfinite, series), default=None), series[-1] if series else None
            row |= {metric: last} if name == "bon" else {f"{metric} best": best, f"{metric} last": last}  # bon measures once
        row |= {"measured on": ", ".join(rows_texts(record)) or None} if in_part else {}
        rows.append({**row, "wall_s": record.get("wall_s"), "dir": record.get("dir") or folders.get(number)})
    return rows


def _folders_of_failed(name: str, jobs: Sequence[RunSettings], outcomes: Sequence[JobOutcome]) -> dict[int, str]:
    """The folders of the failed jobs that came as far as to have one, by the number of the job."""
    numbers = [number for number, outcome in enumerate(outcomes, 1) if outcome.status is JobStatus.failed]
    states = states_of(name, [jobs[number - 1] for number in numbers]) if numbers else []
    return {number: state["run"] for number, state in zip(numbers, states, strict=False) if state.get("run")}


def shown_metrics(name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that a table of these runs has: those of the command, and every mean over some domains that one of the runs has."""
    means = [f"{PREFIX}{key}" for key in LABELS if any(f"{PREFIX}{key}" in record.get("final", {}) for record in records)]
    return [shown for metric in METRICS.get(name, ()) for shown in ((metric, *means) if metric == f"{PREFIX}{OVERALL}" else (metric,))]


def _place(job: RunSettings) -> Path:
    return Path(job.runs_dir) / clean_name(job.study)


def _kept(name: str, place: Path) -> list[tuple[str, str, dict[str, object]]]:
    """State, folder and settings of a study's runs of one kind."""
    found: list[tuple[str, str, dict[str, object]]] = []
    for file in sorted(place.glob(f"{name}-*/{CONFIG}")):
        if ".old-" in file.parent.name or not (file.parent / RECORD).is_file():
            continue
        try:
            status = read_record(file.parent)["status"]
            state = "torn" if status == RunStatus.running else str(status)
            # Not through the schema, which would take most of the time.
            config = OmegaConf.create(yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader))
            found.append((state, str(file.parent), dict(_flat(OmegaConf.to_container(config, resolve=True)))))
        except BrokenFileError as error:
            print(f"note: {file.parent.name} is not looked at: {error}")
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            print(f"note: {file.parent.name} is not looked at: {file} is no YAML ({' '.join(str(error).split()):.200})")
        except OmegaConfBaseException:
            continue  # it needs an environment variable that is not set: this run cannot be recognised
    return found


def _flat(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted keys."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _is_same(settings: Mapping[str, Setting], config: Mapping[str, object], ignored: Collection[str]) -> bool:
    """Whether a run's configuration, which may lack newer keys, has these settings; `ignored` keys may differ."""
    if any(key not in settings and not is_under(key, ignored) and key not in OWN for key in config):
        return False
    return all(
        config[key] == jsonable(setting.value) if key in config else setting.value == setting.default for key, setting in settings.items()
    )


def _series(record: Mapping[str, Any], metric: str) -> list[float]:
    """The values of a metric at a run's checkpoints, or the final one in its record if it has no metrics.jsonl."""
    steps = read_metrics(Path(record["dir"]) / LOG, axis=AXIS) if "dir" in record else {}
    series = [values[metric] for values in steps.values() if metric in values]
    final = record.get("final", {}).get(metric)
    return series or ([float(final)] if final is not None else [])


def _heading(key: str) -> str:
    if key.startswith(f"{PREFIX}mean_of_"):
        metric, _, which = key.removeprefix(PREFIX).rpartition(" ")
        return f"RewardBench 2 {LABELS[metric]}, {which}"
    return {"wall_s": "time", "dir": "run"}.get(key, key)


def _cell(key: str, value: str | float | None) -> str:
    if value is None:
        return ""
    if key == "status" and value == JobStatus.skipped:
        return "skipped: finished before"
    if key == "wall_s" and not isinstance(value, str):
        return str(timedelta(seconds=round(value)))
    return in_points(key.removesuffix(" best").removesuffix(" last"), value, ".3f") if isinstance(value, float) else str(value)


def _table(headings: Sequence[str]) -> Table:
    table = Table()
    for heading in headings:
        # In a narrow terminal cells wrap, so that nothing is cut.
        table.add_column(Text(heading), overflow="fold")
    return table
