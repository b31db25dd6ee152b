"""Whether what a killed and resumed job has left is what the same job leaves in peace."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from launch.studies.superseded import SUPERSEDED
from tests.faults.case import Problems

TIMES = {"started", "session_started", "finished", "wall_s", "train_s", "hooks_s", "time", "git", "versions"}
"""Keys of records and results that depend on when, and how long, a job ran."""

_BY_CLOCK = ("seconds", "step_time", "per_second", "tokens_per_s", "pairs_per_s", "tflops", "mfu", "/time", "memory")
"""Parts of the names of metrics that are measured with a clock."""

_UNREAD = {"run.lock", "study.lock", ".pools.lock", "sweep-rm.csv", "multirun.yaml", "COMPLETE"}
"""Files that hold a process, a time or a place, or the hashes of such files."""

_PICTURES = {".png", ".html", ".md", ".csv", ".log"}
"""Files that are only looked for: they hold times, or are drawn from the other ones."""


def differences(torn: Path, whole: Path) -> Problems:
    """How the files below `torn` differ from those below `whole`, times aside."""
    ours, theirs = _files(torn), _files(whole)
    problems = [f"left over: {name}" for name in sorted(ours - theirs)] + [f"missing: {name}" for name in sorted(theirs - ours)]
    for name in sorted(ours & theirs):
        if found := _difference(torn / name, whole / name):
            problems.append(f"{name}: {found}")
    return problems[:8]


def _files(folder: Path) -> set[str]:
    """What lies there, but for PPO runs on other reward models, chosen while the best one had failed, which a study moves aside."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if not name.startswith("wandb") and SUPERSEDED not in name.split("/")}


def _difference(ours: Path, theirs: Path) -> str:
    if ours.is_symlink() or theirs.is_symlink():
        return "" if ours.is_symlink() == theirs.is_symlink() and ours.readlink() == theirs.readlink() else "is another link"
    if ours.is_dir() or ours.name in _UNREAD or ours.suffix in _PICTURES:
        return ""
    if ours.name == "metrics.jsonl":
        return "; ".join(_metrics_differences(ours, theirs))
    if ours.suffix == ".json":
        try:
            mine, other = (_timeless(json.loads(file.read_bytes())) for file in (ours, theirs))
        except ValueError as error:
            return f"is no JSON ({error})"
        return "" if mine == other else _first_difference(mine, other)
    if ours.suffix == ".safetensors":
        return _weight_difference(ours, theirs)
    return "" if ours.read_bytes() == theirs.read_bytes() else "differs"


def _metrics_differences(ours: Path, theirs: Path) -> Problems:
    """How two logs differ, each step and metric of which must stand there once."""
    mine, other = (list(_lines(file)) for file in (ours, theirs))
    problems: Problems = []
    for key, number in (Counter(_places(mine)) - Counter(_places(other))).items():
        problems.append(f"{key} stands there {number} time(s) more than it should")
    for key, number in (Counter(_places(other)) - Counter(_places(mine))).items():
        problems.append(f"{key} stands there {number} time(s) less than it should")
    values, wanted = _values(mine), _values(other)
    for key in sorted(values.keys() & wanted.keys()):
        if values[key] != wanted[key]:
            problems.append(f"{key} is {values[key]} instead of {wanted[key]}")
    return problems[:3]


def _lines(file: Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are JSON; where a case puts in others, they may stay."""
    for line in file.read_text(errors="replace").split("\n"):
        with suppress(ValueError):
            yield json.loads(line)


def _places(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where each metric stands that is not measured with a clock: those need not survive."""
    return [f"{name} at {line['axis']} {line[line['axis']]}" for line in lines for name in line if _is_metric(name, line)]


def _is_metric(name: str, line: Mapping[str, Any]) -> bool:
    return name not in ("axis", "time", line["axis"]) and not any(part in name for part in _BY_CLOCK)


def _values(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{name} at {line['axis']} {line[line['axis']]}": value for line in lines for name, value in line.items() if _is_metric(name, line)
    }


def _weight_difference(ours: Path, theirs: Path) -> str:
    try:
        mine, other = load_file(ours), load_file(theirs)
    except SafetensorError as error:
        return f"holds no weights ({error})"
    if mine.keys() != other.keys():
        return "holds other weights"
    unlike = [name for name in other if mine[name].tobytes() != other[name].tobytes()]
    return f"{len(unlike)} of {len(other)} weights differ, such as {unlike[0]}" if unlike else ""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES and not any(part in str(key) for part in _BY_CLOCK)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _first_difference(ours: Any, theirs: Any, key: str = "") -> str:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}, key=str):
            if ours.get(name) != theirs.get(name):
                return _first_difference(ours.get(name), theirs.get(name), f"{key}.{name}" if key else str(name))
    return f"{key} is {str(ours)[:80]} instead of {str(theirs)[:80]}"
