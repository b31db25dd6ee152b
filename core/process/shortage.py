"""Running out of disk or memory: recognised in the dozen ways that libraries report it, and told with what to do."""

import errno
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = (
    *("no space left on device", "os error 28"),
    *("disk quota exceeded", "os error 122"),
    *("file too large", "os error 27"),
    *("iostream error", "pytorchstreamwriter failed writing"),  # all that torch says when its file cannot grow
)
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed")


class ShortageError(RuntimeError):
    """Disk or memory ran out; the message says where, while writing what, and what to free or to lower."""


def shortage(error: BaseException, folder: Path, *, smaller: str = "use a smaller model or smaller batches") -> str | None:
    """What to do about an error if its cause is a full disk or exhausted memory; None for any other error.

    `folder` is where the failed work writes, `smaller` says which settings take less memory.
    """
    for cause in _causes(error):
        text = str(cause).lower()
        if (isinstance(cause, OSError) and cause.errno in _FULL) or any(words in text for words in _FULL_WORDS):
            return _disk_message(error, folder)
        if (
            isinstance(cause, MemoryError)
            or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
            or (isinstance(cause, RuntimeError) and any(words in text for words in _MEMORY_WORDS))
        ):
            said = str(cause).strip().splitlines()[:1] or ["no details"]
            return (
                f"memory ran out{_while(error)} ({type(cause).__name__}: {said[0]:.300}). To need less, {smaller}; to free some, end other "
                "processes on this device. What is saved is kept."
            )
    return None


def told(error: BaseException) -> str:
    """An error with its type and, where it came up in `core.disk.writing`, the file or folder that was being written."""
    return f"{type(error).__name__}: {error}" + (f" ({said.strip()})" if (said := _while(error)) else "")


def killed(code: int, smaller: str) -> str:
    """What a process's negative exit code says; the kernel ends what exhausts memory by SIGKILL. `smaller` as in `shortage`."""
    name = signal.Signals(-code).name
    return f"killed by {name}" + (f", as the system does when memory runs out: {smaller}" if name == "SIGKILL" else "")


def _disk_message(error: BaseException, folder: Path) -> str:
    usage = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists()))
    room = f"{usage.free / 1e9:.2f} of {usage.total / 1e9:.0f} GB are free now"
    return (
        f"the disk of {folder} is full{_while(error)}, or a quota or ulimit is reached ({room}). Free space there, above all checkpoints "
        "of runs that nobody needs, or name a folder on another disk. What is saved is kept, and the same command goes on from there."
    )


def _while(error: BaseException) -> str:
    """The innermost of the notes of `core.disk.writing`."""
    notes = [note for cause in _causes(error) for note in getattr(cause, "__notes__", ())]
    return f" {notes[0]}" if notes else ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
