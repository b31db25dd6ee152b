"""Runs on disk: `<runs_dir>/<study>/<job>-<name>-<hash8>/`, where the hash covers everything that determines the result.

The same settings therefore lead to the same folder: a repeated sweep skips finished runs and resumes torn ones.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from core.disk import BrokenFileError, jsonable, read_json, remove, write_json
from core.runs.identity import clean_name, identity_hash
from core.runs.lock import BusyError, release_lock, take_lock
from core.runs.warnings import RunWarning
from core.text import redacted, redacted_values

RECORD = "record.json"
CONFIG = "config.yaml"
LOCK = "run.lock"

_RESERVED = {
    "id",
    "job",
    "name",
    "identity",
    "status",
    "date",
    "started",
    "session_started",
    "finished",
    "wall_s",
    "versions",
    "git",
    "warnings",
}
_REQUIRED = {"id", "job", "identity", "status"}
_OBJECTS = ("identity", "lineage", "final", "best", "at_best", "start", "data", "versions")
"""Fields that are JSON objects where a record has them; one that was edited, or written by something else, may lack the rest of them."""
_MEND = "the command that made the run mends it, going on from the newest checkpoint"
_PACKAGES = ("torch", "transformers", "trl", "rewardloop")

# Descriptors of the locks that this process holds, by run folder.
_held_locks: dict[Path, int] = {}


class RunStatus(StrEnum):
    """The `status` in a run's record. A killed run stays `running`, since nobody is left to change it."""

    running = "running"
    finished = "finished"
    failed = "failed"
    stopped = "stopped"
    """By a signal, to be resumed later."""


class RunState(StrEnum):
    """What `open_run` found: no run, one that did not reach its end, or a finished one."""

    new = "new"
    torn = "torn"
    finished = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's folder and its id, the hash of its identity.

    >>> Run(dir=Path("runs/demo/rm-tulu-1c27a5e0"), id="1c27a5e0").id
    '1c27a5e0'
    """

    dir: Path
    id: str


class RunBusyError(RuntimeError):
    """Another process is working on the run."""


def open_run(
    *,
    runs_dir: Path,
    study: str,
    job: str,
    name: str,
    identity: Mapping[str, Any],
    config_yaml: str,
    resume: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> tuple[Run, RunState]:
    """Finds or creates a run's folder, locks it for this process and records that the run is running.

    `identity` holds everything that determines the result, with inputs represented by their `fingerprint`; `config_yaml`
    should be unresolved, so that no secrets from the environment end up in it; `extra` (for instance "lineage") is added to
    the record. A finished run is returned untouched. With `resume=False`, a torn run is moved aside to `<dir>.old-N` and the
    run starts over.

    Call it on the main process only. Raises `RunBusyError` if another process is working on the run, and `ValueError` for a
    name without letters or digits, a link to nowhere, or an `extra` that would replace a field of the record.
    """
    _refuse_reserved(extra or {})
    run = run_of(runs_dir=runs_dir, study=study, job=job, name=name, identity=identity)
    folder, run_id = run.dir, run.id
    if is_finished(run):
        return run, RunState.finished
    _require_no_loose_link(folder)
    _lock(run)
    previous = _previous_record(folder)
    if previous.get("status") == RunStatus.finished:  # by the process that has just released the lock
        _release(run)
        return run, RunState.finished
    if previous and not resume:
        _move_aside(run)
        previous = {}
    _clear_leftovers(folder)
    (folder / CONFIG).write_text(redacted(config_yaml), encoding="utf-8")
    now = _now()
    record = {
        "id": run_id,
        "job": job,
        "name": name,
        "identity": identity,
        "status": RunStatus.running,
        # The day for chat templates that write it; a resumed run keeps it, and what is rendered with it.
        "date": date_of(previous).isoformat(),
        "started": previous.get("started", now),
        "session_started": now,
        "wall_s": previous.get("wall_s", 0.0),
        "seed": identity.get("seed"),
        "versions": _versions(),
        "git": _git(),
        "warnings": previous.get("warnings", []),
    }
    write_json(folder / RECORD, redacted_values(jsonable({**record, **(extra or {})})))
    return run, RunState.torn if previous else RunState.new


def run_of(*, runs_dir: Path, study: str, job: str, name: str, identity: Mapping[str, Any]) -> Run:
    """The run with these settings, whether or not it exists. Raises `ValueError` for a name without letters or digits."""
    run_id = identity_hash(identity)
    return Run(dir=runs_dir / clean_name(study) / f"{clean_name(job)}-{clean_name(name)}-{run_id}", id=run_id)


def is_finished(run: Run) -> bool:
    """Whether the run's record says that it is finished; a record that cannot be read says nothing."""
    try:
        return (run.dir / RECORD).is_file() and read_record(run.dir)["status"] == RunStatus.finished
    except BrokenFileError:
        return False


def finish_run(run: Run, **results: Any) -> None:
    """Records that the run is finished, with its results (for instance `final={...}`), and unlocks it."""
    _close(run, RunStatus.finished, results)


def fail_run(run: Run, message: str) -> None:
    """Records that the run failed, and why, and unlocks it; the next `open_run` finds it torn."""
    _close(run, RunStatus.failed, {"error": message})


def stop_run(run: Run, message: str) -> None:
    """Records that the run was stopped by a signal and can be resumed, and unlocks it."""
    _close(run, RunStatus.stopped, {"error": message})


def add_warning(run_dir: Path, warning: RunWarning) -> bool:
    """Adds a warning to a run's record; returns whether it is new to it. True where the folder has no record."""
    if not (run_dir / RECORD).is_file():
        return True
    record = _as_written(run_dir)
    told = record.get("warnings", [])
    if any((entry.get("what"), entry.get("key")) == warning.identity for entry in told):
        return False
    write_json(run_dir / RECORD, redacted_values(jsonable({**record, "warnings": [*told, warning.entry()]})))
    return True


def settle_killed(folder: Path, why: str) -> None:
    """Records as failed what still counts as running in a study's folder although its process is dead."""
    for record in read_records(folder, "*", lambda line: None):
        run = Run(dir=Path(record["dir"]), id=record["id"])
        if record["status"] != RunStatus.running:
            continue
        try:
            _lock(run)
        except RunBusyError:
            continue
        if read_record(run.dir)["status"] == RunStatus.running:  # not ended by a process that has just released the lock
            fail_run(run, why)
        else:
            _release(run)


def read_record(run_dir: Path) -> dict[str, Any]:
    """A run's record; non-finite numbers are text, as `write_json` writes them, and `lineage` and `final` are empty where it has none.

    Raises `FileNotFoundError` if there is none, and `BrokenFileError` naming the file, and the key if it is one, if it cannot be read.
    """
    return {"lineage": {}, "final": {}, **_as_written(run_dir)}


def value_at(record: Mapping[str, Any], key: str) -> Any | None:
    """What a record has under a dotted key; None where it has nothing, as one that was edited or written by something else may.

    >>> value_at({"identity": {"optim": {"lr": 1e-5}}}, "identity.optim.lr"), value_at({"identity": {}}, "identity.data.flip")
    (1e-05, None)
    """
    found: Any = record
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def read_records(folder: Path, pattern: str, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The records of the runs in `folder` whose names match `pattern`, by name, each with its folder as `dir`.

    `say` gets a line for each record that is skipped because it cannot be read.
    """
    for file in sorted(folder.glob(f"{pattern}/{RECORD}")):
        try:
            yield {**read_record(file.parent), "dir": str(file.parent)}
        except BrokenFileError as error:
            say(f"skipping {file.parent.name}: {error}")


def _as_written(run_dir: Path) -> dict[str, Any]:
    """The record with the fields that the file has, but for objects that are null. Raises as `read_record`."""
    file = run_dir / RECORD
    record = read_json(file, remedy=_MEND)
    if missing := sorted(key for key in _REQUIRED if record.get(key) is None):
        raise BrokenFileError(f"{file} lacks {', '.join(missing)}; {_MEND}.")
    if wrong := [key for key in _OBJECTS if not isinstance(record.get(key, {}), dict | None)]:
        raise BrokenFileError(f"{file} has {wrong[0]}={record[wrong[0]]!r:.60}, which is no JSON object; {_MEND}.")
    return {key: value for key, value in record.items() if value is not None or key not in _OBJECTS}


def _require_no_loose_link(folder: Path) -> None:
    """Raises `ValueError` for a link to nowhere on the way to a run's folder or in it, as to a disk that is not mounted."""
    for path in (*reversed(folder.parents), folder, *(folder / name for name in ("checkpoints", "evals", "samples"))):
        if path.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a link to {path.readlink()}, which is not there; mount or make that folder, or remove the link.")


def _previous_record(folder: Path) -> dict[str, Any]:
    """The record that a run has so far; one that cannot be read is replaced, with a line, so that the run can go on."""
    if not (folder / RECORD).is_file():
        return {}
    try:
        return read_record(folder)
    except BrokenFileError as error:
        print(f"{error} It gets a new one now, and goes on from its checkpoints.", file=sys.stderr)
        return {"status": RunStatus.running}


def _clear_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written; nobody else writes here, since this process holds the lock."""
    for pattern in (".tmp-*", "evals/.tmp-*", "evals/*.tmp", "scores/.tmp-*"):
        for leftover in folder.glob(pattern):
            remove(leftover)


def date_of(record: Mapping[str, Any]) -> date:
    """The date of a run, for chat templates that write it: that of its first start, today if the record does not tell."""
    try:
        return date.fromisoformat(str(record.get("date") or record.get("started"))[:10])
    except ValueError:  # an empty record, or a damaged one
        return _today()


def _lock(run: Run) -> None:
    """Takes the run's lock. Raises `RunBusyError` if another process holds it."""
    try:
        _held_locks[run.dir.absolute()] = take_lock(run.dir / LOCK)
    except BusyError as error:
        raise RunBusyError(f"The run {run.dir} is in use by {error.holder}; wait for it or stop it first.") from None


def _release(run: Run) -> None:
    descriptor = _held_locks.pop(run.dir.absolute(), None)
    if descriptor is not None:
        release_lock(descriptor)


def _move_aside(run: Run) -> None:
    """Renames the folder of a torn run to the first free `<dir>.old-N` and puts an empty, locked one in its place."""
    old = next(path for n in count(1) if not (path := run.dir.with_name(f"{run.dir.name}.old-{n}")).exists())
    run.dir.rename(old)
    # The lock file moved along. Its lock is kept, for a process that opened the file before the rename.
    _held_locks[old.absolute()] = _held_locks.pop(run.dir.absolute())
    _lock(run)


def _close(run: Run, status: RunStatus, fields: Mapping[str, Any]) -> None:
    _refuse_reserved(fields)
    record = _as_written(run.dir)
    now = _now()
    session_s = (datetime.fromisoformat(now) - datetime.fromisoformat(record.get("session_started", now))).total_seconds()
    wall_s = record.get("wall_s", 0.0) + session_s
    closed = {**record, **fields, "status": status, "finished": now, "wall_s": wall_s}
    try:
        write_json(run.dir / RECORD, redacted_values(jsonable(closed)))
    except OSError:
        if status == RunStatus.finished:
            raise
        _overwrite_status(run.dir / RECORD, status)
    _release(run)


def _overwrite_status(file: Path, status: RunStatus) -> None:
    """Changes the status in place: a full disk still has room for a word that is no longer than the one there."""
    old = file.read_bytes()
    new = old.replace(b'"status": "running"', f'"status": "{status}"'.encode(), 1)
    with file.open("r+b") as record:
        record.write(new.ljust(len(old)))
        os.fsync(record.fileno())


def _refuse_reserved(fields: Mapping[str, Any]) -> None:
    if clash := sorted(_RESERVED & fields.keys()):
        raise ValueError(f"A run's record already has {', '.join(clash)}; give the results or extras other names.")


def _now() -> str:
    """The time in UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _today() -> date:
    """Today where this process runs, as chat templates write it."""
    return date.today()


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


def _git() -> dict[str, Any] | None:
    """The revision of the repository that holds this code, and whether tracked files differ from it; None outside a repository."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*here, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return {"revision": revision.stdout.strip(), "dirty": bool(changes.stdout)}
