"""One case, what came of it, and many of them in a row."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

Problems = list[str]
"""What does not hold, in words; empty where all does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A name such as `kills/rm/07`, whose first two parts are a line of the page, and what is tried in an empty folder.

    >>> Case(name="kills/rm/07", what="", run=lambda folder: []).group
    'kills/rm'
    """

    name: str
    what: str
    run: Callable[[Path], Problems]

    @property
    def group(self) -> str:
        """The line of the page that counts it."""
        return "/".join(self.name.split("/")[:2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A case that was tried.

    >>> Outcome(case=Case(name="a/b/0", what="", run=lambda folder: []), problems=[], seconds=0.1).held
    True
    """

    case: Case
    problems: Problems
    seconds: float

    @property
    def held(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


def chosen(cases: Sequence[Case], *, only: Sequence[str], sample: int, seed: int) -> list[Case]:
    """The cases whose name holds one of `only` (all, if that is empty); with `sample`, so many of them, evenly over the groups."""
    found = [case for case in cases if not only or any(part in case.name for part in only)]
    if not sample or sample >= len(found):
        return found
    groups: dict[str, list[Case]] = {}
    for case in found:
        groups.setdefault(case.group, []).append(case)
    for name, members in groups.items():
        random.Random(f"{seed} {name}").shuffle(members)
    if sample < len(groups):  # from groups that stand far apart, since neighbours are alike
        names = [*groups]
        groups = {name: groups[name] for name in (names[number * len(names) // sample] for number in range(sample))}
    turns = (case for turn in zip_longest(*groups.values()) for case in turn if case is not None)
    picked = {case.name for case in islice(turns, sample)}
    return [case for case in found if case.name in picked]


def try_all(cases: Iterable[Case], scratch: Path, say: Callable[[str], None]) -> list[Outcome]:
    """Tries the cases one after another, each in an empty folder below `scratch`, and says at once what does not hold."""
    outcomes: list[Outcome] = []
    for case in cases:
        folder = Path(tempfile.mkdtemp(prefix=f"{case.name.replace('/', '-')[:60]}-", dir=scratch))
        started = time.monotonic()
        problems = case.run(folder)
        outcomes.append(Outcome(case=case, problems=problems, seconds=time.monotonic() - started))
        if problems:
            say(f"FAILED {case.name} ({case.what}):\n    " + "\n    ".join(problems))
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes
