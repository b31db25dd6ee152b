"""Files and folders that are either complete or visibly incomplete.

A process may be killed between any two instructions, so everything that another process will read is written under a
temporary name, flushed to disk and renamed. A folder is complete if it holds the marker `COMPLETE`, which is written last.

Disks and people change files afterwards, so the marker lists the size and hash of every file, and readers check them.
"""

import dataclasses
import json
import math
import os
import shutil
import socket
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import xxhash

MARKER = "COMPLETE"
_HASH = "xxh3_128"  # reads at memory speed, where SHA-256 would add a third to the time of a save; accidents are all it must detect

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""What `json` reads and writes."""


class BrokenFileError(ValueError):
    """A file cannot be read as what it should be; the message names it, the place in it, and what to do."""


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
    try:
        with writing(path):
            temporary.mkdir()
            yield temporary
            mark_complete(temporary)
            _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Context in which any error gets a note of what was being written."""
    try:
        yield
    except Exception as error:  # of any kind: each library has its own for a full disk
        error.add_note(f"while writing {path}")
        raise


def mark_complete(path: Path) -> None:
    """Flushes everything in the folder `path` to disk, then writes its marker; for folders that another library wrote in place."""
    walked = list(os.walk(path, topdown=False))
    files = sorted(Path(folder, name) for folder, _, names in walked for name in names)
    with ThreadPoolExecutor(max_workers=1) as flusher:  # it waits for the disk, and hashing for the processor
        flushed = flusher.map(_fsync, [*files, *(Path(folder) for folder, *_ in walked)])
        listed = {file.relative_to(path).as_posix(): {"size": file.stat().st_size, _HASH: _hash_of(file)} for file in files}
        for _ in flushed:  # raises what failed
            pass
    write_json(path / MARKER, {"files": listed})


def is_complete(path: Path) -> bool:
    """Whether the folder `path` holds the marker."""
    return (path / MARKER).is_file()


def damage(path: Path, *, without: Collection[str] = (), hashes: bool = True) -> str | None:
    """What has changed in the complete folder `path` since it was written, for instance "state.pt has 3 bytes instead of 9".

    None if nothing has. Subfolders in `without` may have been removed since. Files that were added do not count, and nothing
    is known of folders from before markers listed their files: those are empty. Without `hashes` only sizes are compared.
    """
    if not (path / MARKER).stat().st_size:
        return None
    try:
        files = read_json(path / MARKER, remedy="empty it to do without the check")["files"]
        for name, written in files.items():
            if name.partition("/")[0] in without:
                continue
            if not (path / name).is_file():
                return f"{name} is missing"
            if (size := (path / name).stat().st_size) != written["size"]:
                return f"{name} has {size} bytes instead of {written['size']}"
            if hashes and _hash_of(path / name) != written.get(_HASH, ""):
                return f"the content of {name} has changed"
    except BrokenFileError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{MARKER} does not list the files"
    return None


def require_undamaged(path: Path, what: str, *, without: Collection[str] = (), hashes: bool = True) -> None:
    """Raises `BrokenFileError` beginning with `what`, which names the folder, if a complete folder was damaged (see `damage`)."""
    if is_complete(path) and (found := damage(path, without=without, hashes=hashes)):
        raise BrokenFileError(f"{what} is damaged: {found}. Restore that file; if the change is meant, empty {path / MARKER}.")


def remove(path: Path) -> None:
    """Removes a file, a folder with everything in it, or a link, but never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; non-finite numbers are text, as `write_json` writes them.

    Raises `FileNotFoundError`, and `BrokenFileError` ending in `remedy` for a file that holds no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"{path} is not UTF-8 ({error}); {remedy}.") from error
    if not text.strip():
        raise BrokenFileError(f"{path} is empty; {remedy}.")
    found = parse_json(text, str(path), remedy=remedy)
    if not isinstance(found, dict):
        raise BrokenFileError(f"{path} holds no JSON object but {_kind(found)}; {remedy}.")
    return found


def parse_json(text: str, where: str, *, remedy: str) -> Any:
    """The value of a JSON text; raises `BrokenFileError` beginning with `where` and ending in `remedy` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits and brackets nested as deep raise them too
        raise BrokenFileError(f"{where} is no JSON ({error}); {remedy}.") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbers, counted from 1, and texts of a file's terminated lines that are not blank.

    A last line without its line feed is left out: it is still being written, or was when its writer died. Only line feeds end
    a line, and bytes that are not UTF-8 are replaced.
    """
    whole, _, _ = path.read_bytes().decode("utf-8", errors="replace").rpartition("\n")
    yield from ((number, line) for number, line in enumerate(whole.split("\n"), 1) if line.strip())


def write_json(path: Path, value: object) -> None:
    """Writes `value` as indented JSON to `path` atomically: a reader sees the old file or the new one, never part of one.

    Non-finite floats become the strings "NaN", "Infinity" and "-Infinity", since JSON has no numbers for them; `float`
    reads them back. Raises `TypeError` for a value that `jsonable` cannot convert, and then leaves the old file alone.
    """
    text = json.dumps(jsonable(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Yields a temporary sibling that becomes the file `path`, flushed to disk, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with writing(path):
            yield temporary
            _fsync(temporary)
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
    remove(path)
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


def _hash_of(path: Path) -> str:
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def _kind(value: object) -> str:
    return {list: "a list", str: "text", type(None): "null"}.get(type(value), "a number or truth value")


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
