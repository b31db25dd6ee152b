"""One command with one wrong or unusual input, and what must come of it."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from tests.faults.case import Case, Problems
from tests.faults.child import Ended, rewardloop

BEGAN = 99
"""The code of a command that was ended when it began its run: everything it had been given was accepted."""

SECONDS = 20.0
"""Within which a refusal must come, with room for a busy machine."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Expected(Enum):
    """What must come of an input."""

    refused = auto()
    """A message that names it, and an exit code other than 0, before anything is written."""
    accepted = auto()
    """The run begins."""
    clean = auto()
    """Either of the two: a matter of taste."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """`arguments` make a command whose input is wrong; `words` must all stand in the message of a refusal.

    >>> Trial(name="a", arguments=lambda folder: ["rm"]).expected
    <Expected.refused: 1>
    """

    name: str
    arguments: Callable[[Path], Sequence[str]]
    expected: Expected = Expected.refused
    words: tuple[str, ...] = ()
    late: bool = False
    """Whether it may be found after the run began, when a model is loaded; the run must then not be left as running."""

    def case(self) -> Case:
        """The case of it."""
        return Case(name=f"inputs/{self.name}", what=f"expected: {self.expected.name}", run=self._tried)

    def _tried(self, folder: Path) -> Problems:
        arguments = list(self.arguments(folder))
        before = _files(folder)
        ended = rewardloop(arguments, folder, before=_shared_cache if self.late else lambda: _end_when_it_begins(folder), timeout=60)
        problems = problems_of(ended, self.expected, self.words)
        if self.late:
            problems += [f"{file} says it is running" for file in folder.rglob("record.json") if '"running"' in file.read_text()]
        elif ended.code not in (0, BEGAN) and (new := _files(folder) - before):
            problems.append(f"left {', '.join(sorted(new)[:3])}")
        return [f"{problem} [rewardloop {' '.join(arguments)[:300]}]" for problem in problems]


def problems_of(ended: Ended, expected: Expected, words: Sequence[str]) -> Problems:
    """What is wrong with how a command ended."""
    if "Traceback" in ended.said:
        return [f"printed a traceback: {ended.tail(500)}"]
    problems: Problems = []
    if "\x1b" in ended.said:
        problems.append(f"sent control characters to the terminal: {ended.tail()!r}")
    began = ended.code in (0, BEGAN)
    if began:
        return [*problems, "was accepted in silence"] if expected is Expected.refused else problems
    if ended.code not in (1, 2):
        return [*problems, f"ended with {ended.code}: {ended.tail()}"]
    if expected is Expected.accepted:
        return [*problems, f"was refused: {ended.tail()}"]
    if missing := [word for word in words if word not in ended.said]:
        problems.append(f"the message lacks {', '.join(map(repr, missing))}: {ended.tail(500)}")
    if ended.seconds > SECONDS:
        problems.append(f"was refused only after {ended.seconds:.0f} s")
    return problems


def _shared_cache() -> None:
    """Has a job prepare its data outside its folder, where nothing may be written before all that it was given is accepted."""
    os.environ.pop("REWARDLOOP_CACHE", None)


def _end_when_it_begins(folder: Path) -> None:
    """Ends this process as soon as it makes a folder or opens a file for writing below `folder`."""
    _shared_cache()

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.mkdir" or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            path = arguments[0]
            if isinstance(path, (str, os.PathLike)) and folder in Path(os.path.abspath(path)).parents:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(BEGAN)

    sys.addaudithook(heard)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
