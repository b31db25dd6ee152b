"""Files and folders that are either complete or visibly incomplete.

A process may be killed between any two instructions, so everything that another process will read is written under a
temporary name, flushed to disk and renamed. A folder is complete if it holds the marker `COMPLETE`, which is written last.
"""

import dataclasses
import json
import math
import os
import shutil
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePath
from typing import TypeAlias

MARKER = "COMPLETE"

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What `json` reads and writes."""


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """Yields a temporary sibling folder that becomes `path`, complete, when the block ends without an error.

    All files are flushed to disk and the marker is written before the rename, so `path` never holds part of the work. An
    error in the block removes the temporary folder; the leftovers of a killed process are removed by the next one that writes
    the same `path` on this machine. A torn `path` (one without the marker) is replaced. If another process completed `path`
    in the meantime, its folder stays and ours is dropped.

    Raises `FileExistsError` right away if `path` is already complete.
    """
    if is_complete(path):
        raise FileExistsError(f"{path} is already complete; remove it to rewrite it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        mark_complete(temporary)
        _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def mark_complete(path: Path) -> None:
    """Flushes everything in the folder `path` to disk, then writes its marker; for folders that another library wrote in place."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            _fsync(Path(folder, name))
        _fsync(Path(folder))
    marker = path / MARKER
    marker.touch()
    _fsync(marker)
    _fsync(path)


def is_complete(path: Path) -> bool:
    """Whether the folder `path` holds the marker."""
    return (path / MARKER).is_file()


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON to `path` atomically: a reader sees the old file or the new one, never part of one.

    Non-finite floats become the strings "NaN", "Infinity" and "-Infinity", since JSON has no numbers for them; `float`
    reads them back. Raises `TypeError` for a value that `jsonable` cannot convert, and then leaves the old file alone.
    """
    text = json.dumps(jsonable(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def jsonable(value: object) -> Json:
    """`value` in JSON's types: dataclasses and mappings become dicts, enums their values, paths text.

    >>> jsonable({"lr": 3e-6, "out": Path("runs/rm"), "kl": float("inf")})
    {'lr': 3e-06, 'out': 'runs/rm', 'kl': 'Infinity'}

    Raises `TypeError` for any other type, a tensor for instance: convert it first, with `.item()` or `.tolist()`.
    """
    # Enums come first, because the members of a StrEnum or an IntEnum are also text or numbers.
    if isinstance(value, Enum):
        return jsonable(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return json_float(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [jsonable(item) for item in value]
    raise TypeError(f"Cannot write a {type(value).__name__} as JSON: {value!r}. Turn it into numbers, text, lists or mappings first.")


def json_float(value: float) -> float | str:
    """`value`, or JavaScript's name for it if it is not finite."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _move_into_place(temporary: Path, path: Path) -> None:
    if is_complete(path):
        return
    if path.is_dir():
        shutil.rmtree(path)
    temporary.rename(path)
    _fsync(path.parent)


def _temporary(path: Path) -> Path:
    """A sibling of `path` that no other process on any machine will pick."""
    return path.with_name(f".tmp-{path.name}-{socket.gethostname()}-{os.getpid()}")


def _remove_abandoned(path: Path) -> None:
    """Removes temporary folders of `path` left behind by killed processes on this machine."""
    prefix = f".tmp-{path.name}-{socket.gethostname()}-"
    for folder in path.parent.iterdir():
        pid = folder.name.removeprefix(prefix)
        if folder.name.startswith(prefix) and pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it exists and belongs to another user
    else:
        return True


def _fsync(path: Path) -> None:
    """Flushes a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
