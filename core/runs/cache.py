"""What is made once and read by many processes: folders on disk, named after what they are made from.

One process makes a folder, under a lock; those that need it meanwhile wait. A folder is checked whenever it is opened, and made
again if it was damaged. Readers open its files before they do anything else, so a folder may be removed while it is in use.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from core.disk import MARKER, atomic_folder, damage, is_complete, jsonable
from core.runs.lock import BusyError, locked

LARGE = 64 * 2**20
"""Bytes from which on a folder is worth a line to the user."""
_POLL_S, _PATIENCE_S = 0.2, 2.0
_ABANDONED_S = 24 * 3600.0
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """Folders in `home`, of at most `max_gb` GB together: the ones least recently used make room. `setting` names the key of `home`."""

    home: Path
    max_gb: float
    setting: str
    say: Callable[[str], None] = field(default=print, compare=False, repr=False)

    def open(self, name: str, build: Callable[[Path], None], read: Callable[[Path], T], *, what: str) -> T:
        """What `read` makes of the folder `name` (see `name_of`), filled by `build` if it is not there.

        `read` must open all files that it needs. `what` names the content in messages ("the tokens of pairs.jsonl"). Where `home`
        cannot be written to, the folder is made for this process alone, and `say` is told.
        """
        path = self.home.expanduser() / name
        found, _ = self._read(path, read)
        if found is not None:
            return found
        try:
            return self._made(path, build, read, what)
        except OSError as error:
            if error.errno not in _FULL | _NO_PLACE | _NO_LOCKS:
                raise
            self.say(f"{what} cannot be kept in {self.home} ({error.strerror}) and will be made again by every run; set {self.setting}")
        return private(build, read)

    def holds(self, name: str) -> bool:
        """Whether the folder `name` is there."""
        return is_complete(self.home.expanduser() / name)

    def _made(self, path: Path, build: Callable[[Path], None], read: Callable[[Path], T], what: str) -> T:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone(path, what):
            found, damaged = self._read(path, read)  # another process may have made it while this one waited
            if found is not None:
                return found
            if damaged:
                self.say(f"{what} in {path} are damaged ({damaged}) and are made again")
                shutil.rmtree(path)
            with atomic_folder(path) as folder:
                build(folder)
            size = _size(path)
            if size > LARGE:
                self.say(f"{what} are kept in {path} ({size / 1e6:.0f} MB) for other runs; {self.setting} names another place")
            with suppress(FileNotFoundError):  # another process makes room too
                self._make_room(path)
            return read(path)

    def _read(self, path: Path, read: Callable[[Path], T]) -> tuple[T | None, str | None]:
        """What is there, marked as used, and what is damaged of it; None if nothing is there or usable."""
        try:
            if not is_complete(path):
                return None, None
            if damaged := damage(path):
                return None, damaged
            opened = read(path)
        except FileNotFoundError:  # removed in between to make room
            return None, None
        with suppress(OSError):  # somebody else's cache
            os.utime(path / MARKER)
        return opened, None

    @contextmanager
    def _alone(self, path: Path, what: str) -> Generator[None]:
        """Context in which no other process makes `path`; waits for one that does."""
        waiting_since = time.monotonic()
        told = False
        while True:
            try:
                with locked(path.with_name(f"{path.name}.lock")):
                    yield
                return
            except BusyError as error:
                if not told and time.monotonic() - waiting_since > _PATIENCE_S:
                    self.say(f"waiting for {what}, which {error.holder} is making")
                    told = True
                time.sleep(_POLL_S)

    def _make_room(self, kept: Path) -> None:
        """Removes the folders least recently used while all of them together are above the limit, and says so."""
        found = [(marker.stat().st_mtime, marker.parent) for marker in kept.parent.glob(f"*/{MARKER}")]
        sizes = {folder: _size(folder) for _, folder in found}
        total, removed = sum(sizes.values()), list[Path]()
        for _, folder in sorted(found):
            if total <= self.max_gb * 1e9:
                break
            if folder != kept:
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
                total -= sizes[folder]
                removed.append(folder)
        if removed:
            size = sum(sizes[folder] for folder in removed) / 1e6
            self.say(
                f"removed {len(removed)} folder(s) of {kept.parent} that were not used for longest ({size:.0f} MB), to stay within "
                f"{self.setting}_gb={self.max_gb:g}"
            )
        for left in kept.parent.glob(".tmp-*"):  # of processes that were killed
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def name_of(kind: str, identity: Mapping[str, Any]) -> str:
    """The name of a folder: its kind, and a hash of all that decides its content."""
    text = json.dumps(jsonable(identity), sort_keys=True, allow_nan=False)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def private(build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of a folder filled by `build`, for this process alone: its files are gone when the process is."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-") as folder:
        build(Path(folder))
        return read(Path(folder))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
