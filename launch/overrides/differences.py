"""The settings of jobs by dotted key, as one writes them on the command line: which are not the defaults, and in which jobs differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

from core.text import shown
from launch.schema import PPOJob, RMJob
from launch.settings import TrackerMode

OWN = {"dry_run", "embedded_model"}
"""Settings that say only that the jobs are listed, and what follows from a model's path."""

# Settings that follow from another one: no column of their own where that one alone tells the jobs apart.
_GO_WITH = {"model.lineage": "model.path", "data.paths": "data.name", "data.sources": "data.name"}

CHOSEN = {"tracker.mode": TrackerMode.auto}
"""Defaults that the files of conf/ choose for trainers, and not the dataclasses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The value of a key and its default (`MISSING` if it has none)."""

    value: object
    default: object


def settings_of(job: object) -> dict[str, Setting]:
    """All settings of a job by dotted key, in the order of the dataclasses; a list is one setting."""
    return {key: setting for key, setting in _settings(job, MISSING, "") if key not in OWN}


@dataclass(frozen=True, kw_only=True, slots=True)
class Differences:
    """How jobs differ: the keys, the value of each key by job, and by key and value the settings that follow from it.

    A job without a key, such as that of a data source that only the others read, has an empty text there.

    >>> Differences(keys=("epochs",), rows=({"epochs": "1"}, {"epochs": "2"}), with_them={}).rows[1]["epochs"]
    '2'
    """

    keys: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    with_them: Mapping[tuple[str, str], Mapping[str, str]]


def differences(jobs: Sequence[object]) -> Differences:
    """The settings in which the jobs differ."""
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


def common(jobs: Sequence[object]) -> dict[str, str]:
    """The settings that all jobs share and that are not the defaults."""
    first, *others = (settings_of(job) for job in jobs)
    chosen = CHOSEN if isinstance(jobs[0], RMJob | PPOJob) else {}
    return {
        key: text_of(setting.value)
        for key, setting in first.items()
        if setting.value != chosen.get(key, setting.default) and all(key in other and other[key].value == setting.value for other in others)
    }


def text_of(value: object) -> str:
    """A value as one would write it on the command line.

    >>> text_of(1e-4), text_of(0.5), text_of(None), text_of([1, 16]), text_of("")
    ('1e-4', '0.5', 'null', '[1,16]', "''")
    """
    if isinstance(value, Enum):
        return text_of(value.value)
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        # Small numbers the way learning rates are written.
        return f"{Decimal(repr(value)).normalize():e}" if 0 < abs(value) <= 1e-3 else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    return shown(str(value)) or "''"


def is_under(key: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of `keys` or nested in one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def _settings(value: object, default: object, key: str) -> Iterator[tuple[str, Setting]]:
    if is_dataclass(value):
        for item in fields(value):
            known = getattr(default, item.name) if is_dataclass(default) else _default(item)
            yield from _settings(getattr(value, item.name), known, f"{key}.{item.name}" if key else item.name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _settings(item, default.get(name, MISSING) if isinstance(default, Mapping) else MISSING, f"{key}.{name}")
    else:
        yield key, Setting(value=value, default=default)


def _default(item: "Field[Any]") -> object:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _told_by(key: str, different: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str | None:
    """The differing key whose value determines that of `key`, if there is one."""
    told = next((told for hidden, told in _GO_WITH.items() if is_under(key, [hidden])), None)
    if told is None or told not in different:
        return None
    return told if len({(row[told], row[key]) for row in rows}) == len({row[told] for row in rows}) else None
