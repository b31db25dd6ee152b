"""Locks on files, which the kernel releases when the process that holds them ends, however it ends."""

import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_TRIES, _BETWEEN_S = 4, 0.02
"""Whoever asks whether a lock is held holds it for a moment, as a page that follows the runs does every few seconds."""


class BusyError(RuntimeError):
    """Another process holds the lock; `holder` says which."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}; wait for it or stop it first.")
        self.holder = holder


def take_lock(path: Path) -> int:
    """Locks the file at `path`, made if absent, and writes this process into it; returns the descriptor that holds the lock.

    Raises `BusyError` if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for remaining in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if remaining:
                time.sleep(_BETWEEN_S)
                continue
            holder = os.pread(descriptor, 200, 0).decode() or "a process that has just started"
            os.close(descriptor)
            raise BusyError(path, holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def release_lock(descriptor: int) -> None:
    """Releases the lock. Closing is not enough: workers forked from this process share the descriptor and would keep it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Context in which this process holds the lock on the file at `path`. Raises `BusyError` if another one does."""
    descriptor = take_lock(path)
    try:
        yield
    finally:
        release_lock(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on the file at `path`; False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
