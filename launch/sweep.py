"""The jobs of a sweep side by side: in which settings they differ, and after it what became of each."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from datetime import timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.disk import jsonable
from core.runs.identity import clean_name
from core.runs.record import CONFIG, RECORD, RunStatus, read_record
from core.runs.tracking import read_metrics
from launch.identity import unhashed_keys
from launch.schema import Launch

METRICS = {"rm": ("rewardbench2/overall", "held_out/accuracy"), "ppo": ("downstream/average",)}
"""What a table says of the jobs of a kind, where it was measured."""

WIDTH = 10_000
"""Columns of a log, which has no width of its own; a table takes what it needs of them."""

RUN_KINDS = ("rm", "ppo")
"""Jobs that leave a run behind."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is faster, and not everywhere

_OWN = {"dry_run", "embedded_model"}  # the question itself, and what goes with a model's path

_IN_NAME = {"name", "model.lineage"}  # they change no result, but the name of the run's folder

# Settings that go with another one, and are left out where that one alone tells the jobs apart.
_GO_WITH = {"model.lineage": "model.path", "data.paths": "data.name", "data.sources": "data.name"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The value of a key, and the one it has where nobody sets it (`MISSING` where it must be set)."""

    value: Any
    default: Any


class JobStatus(StrEnum):
    """What became of a job; `skipped`: it was finished before the sweep."""

    finished = "finished"
    skipped = "skipped"
    failed = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a job: its record where it has one, and of a failed one why.

    >>> Outcome(status=JobStatus.failed, message="data.paths is empty").record is None
    True
    """

    status: JobStatus
    message: str = ""
    record: Mapping[str, Any] | None = None


def outcome_of(record: Mapping[str, Any] | None, *, begun: str) -> Outcome:
    """The outcome of a job that ended well; `begun` is when it began, in UTC as ISO 8601 to the millisecond, as records have it."""
    before = record is not None and record.get("finished", begun) < begun
    return Outcome(status=JobStatus.skipped if before else JobStatus.finished, record=record)


def settings_of(job: Any) -> dict[str, Setting]:
    """All settings of a job under dotted keys, lists whole, in the order of the dataclasses."""
    return {key: setting for key, setting in _settings(job, MISSING, "") if key not in _OWN}


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """The keys in which jobs differ, the values there by job, and by value of such a key the settings that go with it.

    A job that lacks a key, such as that of a source which only others read, has an empty text there.

    >>> Differences(keys=("epochs",), rows=({"epochs": "1"}, {"epochs": "2"}), with_them={}).rows[1]["epochs"]
    '2'
    """

    keys: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    with_them: Mapping[tuple[str, str], Mapping[str, str]]


def differences(jobs: Sequence[Any]) -> Differences:
    """In what the jobs differ."""
    found = [settings_of(job) for job in jobs]
    keys = list(dict.fromkeys(key for settings in found for key in settings))
    rows = [{key: text_of(settings[key].value) if key in settings else "" for key in keys} for settings in found]
    different = [key for key in keys if len({row[key] for row in rows}) > 1]
    told_by = {key: told for key in different if (told := _told_by(key, different, rows))}
    with_them: dict[tuple[str, str], dict[str, str]] = {}
    for settings, row in zip(found, rows, strict=True):
        for key, told in told_by.items():
            if key in settings and settings[key].value != settings[key].default:
                with_them.setdefault((told, row[told]), {})[key] = row[key]
    shown = [key for key in different if key not in told_by]
    return Differences(keys=tuple(shown), rows=tuple({key: row[key] for key in shown} for row in rows), with_them=with_them)


def common(jobs: Sequence[Any]) -> dict[str, str]:
    """The settings that are the same in all jobs and are not the defaults."""
    first, *others = (settings_of(job) for job in jobs)
    return {
        key: text_of(setting.value)
        for key, setting in first.items()
        if setting.value != setting.default and all(key in other and other[key].value == setting.value for other in others)
    }


def print_plan(name: str, jobs: Sequence[Launch], console: Console) -> None:
    """What a dry run says: a row per job with what sets it apart, then what the jobs have in common, then their number.

    Of a run with the same settings that lies in `runs_dir` it gives the folder and whether it is finished or torn. No input is
    read for that, so a run on inputs whose content has changed since counts as the same here.
    """
    found = differences(jobs)
    states = states_of(name, jobs)
    table = _table(["job", *found.keys, *(states[0] if states else ())])
    for number, row in enumerate(found.rows):
        table.add_row(*map(Text, [str(number + 1), *row.values(), *(states[number].values() if states else ())]))
    console.print(Text(f"jobs of rewardloop {name}"), table)
    if found.with_them:
        table = _table(["where", "also"])
        for (key, value), settings in sorted(found.with_them.items(), key=lambda item: found.keys.index(item[0][0])):
            table.add_row(Text(f"{key}={value}"), Text("\n".join(f"{key}={value}" for key, value in settings.items())))
        console.print(Text("what goes with these values"), table)
    if same := common(jobs):
        table = _table(["key", "value"])
        for key, value in same.items():
            table.add_row(Text(key), Text(value))
        console.print(Text("the same in all jobs, and not the default" if len(jobs) > 1 else "not the default"), table)
    console.print(Text(f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}; nothing was run or written (dry_run=true)"))


def states_of(name: str, jobs: Sequence[Launch]) -> list[dict[str, str]]:
    """Per job the `state` of its run and, where any job has one, the folder of the `run`; nothing for jobs without runs.

    A run is known by the settings in its config.yaml.
    """
    if name not in RUN_KINDS:
        return []
    kept = {place: _kept(name, place) for place in {_place(job) for job in jobs}}
    states: list[dict[str, str]] = []
    for job in jobs:
        ignored = unhashed_keys(job) - _IN_NAME
        settings = {key: setting for key, setting in settings_of(job).items() if not _is_under(key, ignored)}
        fits = [(state, folder) for state, folder, config in kept[_place(job)] if _is_same(settings, config, ignored)]
        state, folder = min(fits, default=("new", ""))  # "finished" before "torn"
        states.append({"state": state, "run": folder})
    return states if any(state["run"] for state in states) else [{"state": state["state"]} for state in states]


def print_outcomes(name: str, jobs: Sequence[Launch], outcomes: Sequence[Outcome], console: Console) -> None:
    """The table at the end of a sweep: what sets a job apart, what became of it, its best and last metrics, time and folder."""
    rows = outcome_rows(name, jobs, outcomes)
    headings = {key: _heading(key) for key in rows[0] if any(row[key] is not None for row in rows)}
    table = _table(list(headings.values()))
    for row in rows:
        table.add_row(*(Text(_cell(key, row[key])) for key in headings))
    console.print(Text(f"sweep of {len(rows)} jobs of rewardloop {name}"), table)


def write_outcomes(name: str, jobs: Sequence[Launch], outcomes: Sequence[Outcome]) -> list[Path]:
    """The same table as `<runs_dir>/<study>/sweep-<name>.csv`, one file per study of the sweep, each in one step.

    Times are in seconds. A later sweep of the study replaces the file.
    """
    rows = outcome_rows(name, jobs, outcomes)
    paths: list[Path] = []
    for place in dict.fromkeys(map(_place, jobs)):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row, job in zip(rows, jobs, strict=True) if _place(job) == place)
        paths.append(place / f"sweep-{name}.csv")
        _write(paths[-1], text.getvalue())
    return paths


def outcome_rows(name: str, jobs: Sequence[Launch], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row per job, with None for what a job has not.

    The best value of a metric is the highest over the run's checkpoints, the last one that of its last.
    """
    rows: list[dict[str, Any]] = []
    for number, (values, outcome) in enumerate(zip(differences(jobs).rows, outcomes, strict=True), 1):
        record = outcome.record or {}
        row: dict[str, Any] = {"job": number, **values, "status": outcome.status.value, "message": outcome.message or None}
        for metric in METRICS.get(name, ()):
            series = _series(record, metric)
            row |= {f"{metric} best": max(series, default=None), f"{metric} last": series[-1] if series else None}
        rows.append({**row, "wall_s": record.get("wall_s"), "dir": record.get("dir")})
    return rows


def text_of(value: Any) -> str:
    """A value as it is given on the command line, short.

    >>> text_of(1e-4), text_of(0.5), text_of(None), text_of([1, 16]), text_of("")
    ('1e-4', '0.5', 'null', '[1,16]', "''")
    """
    if isinstance(value, Enum):
        return text_of(value.value)
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        # Small numbers as people write learning rates.
        return f"{Decimal(repr(value)).normalize():e}" if 0 < abs(value) <= 1e-3 else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    return str(value) or "''"


def _settings(value: Any, default: Any, key: str) -> Iterator[tuple[str, Setting]]:
    if is_dataclass(value):
        for item in fields(value):
            known = getattr(default, item.name) if is_dataclass(default) else _default(item)
            yield from _settings(getattr(value, item.name), known, f"{key}.{item.name}" if key else item.name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _settings(item, default.get(name, MISSING) if isinstance(default, Mapping) else MISSING, f"{key}.{name}")
    else:
        yield key, Setting(value=value, default=default)


def _default(item: "Field[Any]") -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _told_by(key: str, different: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """The differing key whose value alone tells that of `key`; empty where there is none."""
    told = next((told for hidden, told in _GO_WITH.items() if key == hidden or key.startswith(f"{hidden}.")), "")
    alone = len({(row[told], row[key]) for row in rows}) == len({row[told] for row in rows}) if told in different else False
    return told if alone else ""


def _place(job: Launch) -> Path:
    return Path(job.runs_dir) / clean_name(job.study)


def _kept(name: str, place: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """State, folder and settings of the runs of a kind that lie in a study."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for file in sorted(place.glob(f"{name}-*/{CONFIG}")):
        if ".old-" in file.parent.name or not (file.parent / RECORD).is_file():
            continue
        state = "finished" if read_record(file.parent)["status"] == RunStatus.finished else "torn"
        try:
            # Without its schema, which takes most of the time of loading.
            config = OmegaConf.create(yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader))
            found.append((state, str(file.parent), dict(_flat(OmegaConf.to_container(config, resolve=True)))))
        except (yaml.YAMLError, OmegaConfBaseException):
            continue  # torn, or of an environment that is not here: then this run cannot be recognised
    return found


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings under dotted keys."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _is_under(key: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of `keys` or nested in one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def _is_same(settings: Mapping[str, Setting], config: Mapping[str, Any], ignored: Collection[str]) -> bool:
    """Whether a kept configuration, in which later keys may be missing, holds these settings; `ignored` keys may differ."""
    if any(key not in settings and not _is_under(key, ignored) and key not in _OWN for key in config):
        return False
    return all(
        config[key] == jsonable(setting.value) if key in config else setting.value == setting.default for key, setting in settings.items()
    )


def _series(record: Mapping[str, Any], metric: str) -> list[float]:
    """The values of a metric at the checkpoints of a run; without its file, the final one of its record."""
    steps = read_metrics(Path(record["dir"]) / "metrics.jsonl", axis="checkpoint/step") if "dir" in record else {}
    series = [values[metric] for values in steps.values() if metric in values]
    final = record.get("final", {}).get(metric)
    return series or ([float(final)] if final is not None else [])


def _heading(key: str) -> str:
    return {"wall_s": "time", "dir": "run"}.get(key, key)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "status" and value == JobStatus.skipped:
        return "skipped: finished before"
    if key == "wall_s":
        return str(timedelta(seconds=round(value)))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str]) -> Table:
    table = Table()
    for heading in headings:
        # Where a terminal is too narrow, a cell goes on in the next line: nothing is cut.
        table.add_column(Text(heading), overflow="fold")
    return table


def _write(path: Path, text: str) -> None:
    """Writes a file that readers see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
