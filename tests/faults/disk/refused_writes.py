"""A disk that is full, read-only or failing, from a chosen operation on: a message, no run left as running, and the same end later."""

import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.case import Case, Problems
from tests.faults.child import rewardloop
from tests.faults.jobs import JOBS
from tests.faults.kills.cases import Reference
from tests.faults.kills.compare import differences
from tests.faults.kills.processes import fork_instead
from tests.faults.stage import Stage

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

ERRORS = {errno.ENOSPC: "full disk", errno.EROFS: "read-only disk", errno.EDQUOT: "used-up quota", errno.EIO: "failing disk"}

WHERE: dict[str, tuple[float, ...]] = {
    "rm": (0.0, 0.1, 0.3, 0.45, 0.6, 0.9),
    "rm separate hooks": (0.5, 0.8),
    "ppo": (0.0, 0.3, 0.6, 0.9),
    "rloo": (0.4, 0.8),
    "bon": (0.0, 0.5),
    "bench": (0.0, 0.6, 0.9),
    "sweep": (0.5,),
    "study": (0.0, 0.5),
}
"""By job, the shares of its openings of files after which nothing can be written any more."""

SIZES = {"rm": (3_000, 20_000), "ppo": (20_000,), "rloo": (20_000,)}
"""Bytes that a file may have at most, which stops libraries that open files without Python's knowing."""


def write_cases(stage: Stage) -> list[Case]:
    """Each job on each kind of disk."""
    cases: list[Case] = []
    for name, places in WHERE.items():
        reference = Reference(job=JOBS[name], stage=stage)
        for index, place in enumerate(places):
            number = list(ERRORS)[index % len(ERRORS)] if index else errno.ENOSPC
            cases.append(Case(name=f"disk/writes {name}/{ERRORS[number]} at {place:.0%}", what="", run=_tried(reference, number, place)))
        if name == "rm":
            cases.append(Case(name="disk/writes rm/read-only from the start", what="", run=_tried(reference, errno.EROFS, 0.0)))
        for size in SIZES.get(name, ()):
            cases.append(Case(name=f"disk/writes {name}/files of {size} bytes at most", what="", run=_limited(reference, size)))
    return cases


def _tried(reference: Reference, number: int, place: float) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        opened = sum(name.startswith("open ") for name in reference.made().names["job"])
        return _compared(reference, folder, lambda: _refuse_writes(folder, number, after=int(place * opened)))

    return run


def _limited(reference: Reference, size: int) -> Callable[[Path], Problems]:
    return lambda folder: _compared(reference.made(), folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


def _compared(reference: Reference, folder: Path, refuse: Callable[[], object]) -> Problems:
    reference.job.prepare(reference.stage, folder)
    arguments = reference.job.arguments(reference.stage)
    first = rewardloop(arguments, folder, before=lambda: (fork_instead(lambda: None), refuse()))
    problems = [f"printed a traceback: {first.tail(600)}"] if "Traceback" in first.said else []
    if first.code not in (1, 2):
        problems.append(f"ended with {first.code}: {first.tail()}")
    elif not any(word in first.said for word in ("runs/", f"{folder}/runs", "runs:")) and "runs" not in first.said:
        problems.append(f"named no folder: {first.tail(400)}")
    # Where nothing can be written, a record cannot be changed either: only a disk that takes a small file shows what is recorded.
    again = rewardloop(arguments, folder, before=lambda: fork_instead(lambda: None))
    if again.code:
        problems.append(f"the second run ended with {again.code}: {again.tail()}")
    return problems + differences(folder / "runs", reference.folder / "runs")


def _refuse_writes(folder: Path, number: int, *, after: int) -> None:
    """From now on, all openings for writing and all new folders below `folder` fail after so many."""
    count = 0

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "os.mkdir" or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
        if writes and isinstance(arguments[0], (str, os.PathLike)) and folder in Path(os.path.abspath(arguments[0])).parents:
            count += 1
            if count > after:
                raise OSError(number, os.strerror(number), os.fspath(arguments[0]))

    sys.addaudithook(heard)
