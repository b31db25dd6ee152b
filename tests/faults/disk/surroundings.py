"""Odd surroundings: streams that take nothing, no home, few descriptors, signals of terminals, a second process at the same run."""

import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults.case import Case, Problems
from tests.faults.child import Ended, rewardloop
from tests.faults.jobs import JOBS
from tests.faults.kills.cases import Reference, begin
from tests.faults.kills.compare import differences
from tests.faults.kills.points import Counter
from tests.faults.kills.processes import fork_instead
from tests.faults.stage import Stage


def _streams(path: str | None, encoding: str = "utf-8") -> None:
    """Standard output goes to a file, or with None to a pipe that nobody reads."""
    if path is None:
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(writing, 1)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding=encoding, line_buffering=True)


def _ascii() -> None:
    """Streams of ASCII, as under LC_ALL=C."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="ascii", line_buffering=True))


def _few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))


ODD: Mapping[str, Callable[[], object]] = {
    "streams of ASCII": _ascii,
    "no home": lambda: os.environ.update(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent"),
    "one column": lambda: os.environ.update(COLUMNS="1", TERM="dumb"),
    "few descriptors": _few_descriptors,
    "a umask of 077": lambda: os.umask(0o077),
    "no standard input": lambda: os.close(0),
}
"""What must change nothing."""

DEAF: Mapping[str, Callable[[], object]] = {
    "standard output is full": lambda: _streams("/dev/full"),
    "standard output is a pipe that nobody reads": lambda: _streams(None),
}
"""What may end a command, but without a traceback, and so that the same command goes on."""

SIGNALS: Mapping[str, tuple[int, ...]] = {
    "SIGHUP": (signal.SIGHUP,),
    "SIGUSR1": (signal.SIGUSR1,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
    "SIGTERM and SIGINT": (signal.SIGTERM, signal.SIGINT),
    "SIGQUIT": (signal.SIGQUIT,),
}
"""Signals that come together in the middle of a run."""


def surrounding_cases(stage: Stage) -> list[Case]:
    """Each for a reward model, and what concerns output for a benchmark and best-of-n too."""
    references = {name: Reference(job=JOBS[name], stage=stage) for name in ("rm", "bench", "bon", "ppo")}
    cases = [
        Case(name=f"disk/surroundings/{job}, {what}", what="", run=_odd(references[job], change, deaf=what in DEAF))
        for job in ("rm", "bench", "bon")
        for what, change in {**ODD, **DEAF}.items()
    ]
    cases += [
        Case(name=f"disk/signals/{job}, {what} at {place:.0%}", what="", run=_signalled(references[job], numbers, place))
        for job, place in (("rm", 0.3), ("rm", 0.7), ("ppo", 0.5), ("bon", 0.4))
        for what, numbers in SIGNALS.items()
    ]
    return cases + [Case(name=f"disk/second process/{job}", what="", run=_second(references[job])) for job in ("rm", "ppo", "bench")]


def _again(reference: Reference, folder: Path) -> Problems:
    again = rewardloop(reference.job.arguments(reference.stage), folder, before=lambda: fork_instead(lambda: None))
    problems = [f"the second run ended with {again.code}: {again.tail()}"] if again.code else []
    return problems + differences(folder / "runs", reference.folder / "runs")


def _odd(reference: Reference, change: Callable[[], object], *, deaf: bool) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        reference.made()
        first = rewardloop(reference.job.arguments(reference.stage), folder, before=change)
        problems = _unkind(first)
        if first.code and not deaf:
            problems.append(f"ended with {first.code}: {first.tail()}")
        return problems + _again(reference, folder)

    return run


def _unkind(ended: Ended) -> Problems:
    problems = [f"printed a traceback: {ended.tail(500)}"] if "Traceback" in ended.said else []
    return problems + ([f"{ended.survivors} process(es) outlived it"] if ended.survivors else [])


def _signalled(reference: Reference, numbers: tuple[int, ...], place: float) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        at = 1 + int(place * len(reference.made().names["job"]))

        def send(what: str) -> None:
            for number in numbers:
                os.kill(os.getpid(), number)

        first = rewardloop(
            reference.job.arguments(reference.stage), folder, before=lambda: begin(folder, Counter(at=at, then=send), Counter())
        )
        return _unkind(first) + _again(reference, folder)

    return run


def _second(reference: Reference) -> Callable[[Path], Problems]:
    """A second process while the first one is in the middle of the run: refused, and the first one is not disturbed."""

    def run(folder: Path) -> Problems:
        at = len(reference.made().names["job"]) // 2
        arguments = reference.job.arguments(reference.stage)
        refused = folder / "refused.txt"

        def start_another(what: str) -> None:
            inner = rewardloop(arguments, folder, before=lambda: signal.alarm(60))
            refused.write_text(f"{inner.code}\n{inner.said}")

        first = rewardloop(arguments, folder, before=lambda: begin(folder, Counter(at=at, then=start_another), Counter()))
        problems = _unkind(first) + ([f"ended with {first.code}: {first.tail()}"] if first.code else [])
        code, _, said = refused.read_text().partition("\n")
        refused.unlink()
        if code not in ("1", "2") or "in use" not in said or "Traceback" in said:
            problems.append(f"the second process ended with {code}: {said[-300:]}")
        return problems + differences(folder / "runs", reference.folder / "runs")

    return run
