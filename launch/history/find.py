"""Runs by folder, id, name, study or pattern. Imports neither torch nor Hydra."""

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError
from core.runs.lock import is_held
from core.runs.record import LOCK, RECORD, RunStatus, read_record

Record = dict[str, Any]
"""The record of a run, with its folder as `dir`."""

KILLED = "killed"
"""What a run is that counts as running although no process holds its lock."""


def all_runs(runs_dir: Path) -> list[Record]:
    """The records of all runs of all studies by folder; those that cannot be read, and runs that were moved aside, are left out.

    A line says which cannot be read.
    """
    return list(_readable(sorted(folder.parent for folder in runs_dir.glob(f"*/*/{RECORD}"))))


def find_runs(terms: Sequence[str], runs_dir: Path) -> list[Record]:
    """The records of the runs that any of `terms` names, each once, in that order.

    A term is the folder of a run or of a study, a run's id or name, a study's name, or a pattern of one of these with `*`, `?` and
    `[...]`. Raises `ValueError` for a term that names no run.
    """
    known: list[Record] | None = None
    found: dict[Path, Record] = {}
    for term in terms:
        path = Path(term).expanduser()
        if (path / RECORD).is_file():
            chosen = [{"dir": str(path), **read_record(path)}]
        elif path.is_dir() and (inside := list(_readable(sorted(file.parent for file in path.glob(f"*/{RECORD}"))))):
            chosen = inside
        else:
            known = all_runs(runs_dir) if known is None else known
            chosen = [record for record in known if is_named(record, term)]
        if not chosen:
            known_by = f"`rewardloop runs runs_dir={runs_dir}` lists those there are" if runs_dir.is_dir() else "there is no such folder"
            raise ValueError(f"{term} is the folder, id, name or study of no run under {runs_dir}; {known_by}.")
        for record in chosen:
            found.setdefault(Path(record["dir"]).resolve(), record)
    return list(found.values())


def one_run(term: str, runs_dir: Path) -> Record:
    """The record of the one run that a term names. Raises `ValueError` if it names none or several."""
    found = find_runs([term], runs_dir)
    if len(found) > 1:
        some = ", ".join(Path(record["dir"]).name for record in found[:3])
        raise ValueError(f"{term} names {len(found)} runs ({some}{', ...' if len(found) > 3 else ''}); give the id of one.")
    return found[0]


def is_named(record: Record, term: str) -> bool:
    """Whether a term names a run: by id, name, study or both, as a pattern or as it stands.

    >>> run = {"dir": "runs/demo/rm-tulu-lr1e-3-1c27a5e0", "id": "1c27a5e0"}
    >>> [is_named(run, term) for term in ("1c27a5e0", "demo", "rm-tulu*", "demo/*1e-3*", "demo/rm-tulu-lr1e-3", "1c27")]
    [True, True, True, True, True, False]
    """
    folder, study = Path(record["dir"]), study_of(record)
    own = (folder.name, folder.name.rpartition("-")[0])  # the second is how runs are listed
    return any(fnmatchcase(name, term) for name in (record["id"], study, *own, *(f"{study}/{name}" for name in own)))


def study_of(record: Record) -> str:
    """The study that a run belongs to."""
    return Path(record["dir"]).absolute().parent.name


def status_of(record: Record) -> str:
    """The status of a run: that of its record, or `KILLED`."""
    killed = record["status"] == RunStatus.running and not is_held(Path(record["dir"]) / LOCK)
    return KILLED if killed else str(record["status"])


def _readable(folders: Sequence[Path]) -> Iterator[Record]:
    for folder in folders:
        if ".old-" in folder.name:
            continue
        try:
            yield {"dir": str(folder), **read_record(folder)}
        except BrokenFileError as error:
            print(f"skipping {folder.name}: {error}")


def near_studies(folder: Path) -> str:
    """A question after the studies whose names are like that of a study's folder which is not there; nothing where none is."""
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    found = difflib.get_close_matches(folder.name, there, n=3)
    return f"; did you mean {' or '.join(f'study={name}' for name in found)}?" if found else ""
