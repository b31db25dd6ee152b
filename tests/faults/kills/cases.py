"""Every job, killed at operations that a seed chooses, run again, and compared with the same job left in peace."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.case import Case, Problems
from tests.faults.child import TIMED_OUT, Ended, rewardloop
from tests.faults.jobs import JOBS, Job
from tests.faults.kills.compare import differences
from tests.faults.kills.points import Counter, Kill, Target, count_operations, end_by
from tests.faults.kills.processes import fork_instead
from tests.faults.kills.starts import start_cases
from tests.faults.stage import Stage

NUMBERS: Mapping[str, int] = {
    "rm": 20,
    "rm saving often": 14,
    "rm separate hooks": 20,
    "rm held out": 6,
    "ppo": 16,
    "ppo saving often": 10,
    "rloo": 12,
    "grpo": 8,
    "bon": 8,
    "bench": 8,
    "sweep": 10,
    "study": 8,
}
"""Kills of each job."""

ENDINGS = (Kill.kill, Kill.kill, Kill.term, Kill.kill, Kill.interrupt)
"""Ends in turn: most often the one that nothing can be done about."""

TARGETS = {
    Kill.kill: (Target.process, Target.group),
    Kill.term: (Target.leader, Target.process),
    Kill.interrupt: (Target.group, Target.leader),
}
"""Whom a study's signals are sent to in turn: one of its jobs, itself, or all."""

CODES = {Kill.kill: {-9}, Kill.term: {75, 0}, Kill.interrupt: {130, 75, 0}}
"""Exit codes that each may have; a study outlives its jobs, and fails if one of them was killed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How and where a command is ended; `torn` leaves half a line in a log."""

    kill: Kill
    to: Target
    torn: bool

    of_study: bool

    @property
    def codes(self) -> set[int]:
        """The exit codes that the command may have."""
        return CODES[self.kill] | ({0, 1} if self.of_study and self.to is Target.process else set())


@dataclass(kw_only=True)
class Reference:
    """A job left in peace: made when the first kill of it is tried, and kept. `names` are its operations."""

    job: Job
    stage: Stage
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.stage.folder / "references" / self.job.name.replace(" ", "-")

    def made(self) -> "Reference":
        """This, after the job has run. The hooks' process counts for itself, under `hooks`."""
        if self.names:
            return self
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.job.prepare(self.stage, self.folder)
        counts = {process: self.folder / f"{process}.txt" for process in ("job", "hooks")}
        ended = rewardloop(
            self.job.arguments(self.stage),
            self.folder,
            before=lambda: begin(self.folder, *(Counter(names=_Lines(file)) for file in counts.values())),
        )
        assert ended.code == 0, f"{self.job.name} fails on its own: {ended.said}"
        self.names = {process: file.read_text().splitlines() if file.exists() else [] for process, file in counts.items()}
        for process, expected in (("job", True), ("hooks", self.job.separate)):
            assert bool(self.names[process]) == expected, f"{self.job.name}: {len(self.names[process])} operations counted under {process}"
        for file in counts.values():
            file.unlink(missing_ok=True)
        return self


class _Lines(list[str]):
    """Writes what is appended to a file, which outlives the process."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file.open("a", buffering=1)

    def append(self, item: str) -> None:
        self._file.write(f"{item}\n")


def begin(folder: Path, job: Counter, hooks: Counter) -> None:
    """Counts in this process, and in those of the hooks."""
    fork_instead(lambda: job.become(hooks))  # the process of the hooks has inherited what counts for the trainer
    count_operations(job, folder)


def kill_cases(stage: Stage, seed: int) -> list[Case]:
    """All kills; the same seed gives the same."""
    cases = start_cases(stage)
    for name, number in NUMBERS.items():
        reference = Reference(job=JOBS[name], stage=stage)
        draw = random.Random(f"{seed} {name}")
        for index in range(number):
            kill = ENDINGS[index % len(ENDINGS)]
            place = (index + draw.random()) / number  # spread over the whole job
            in_hooks = JOBS[name].separate and index % 3 == 2
            study = name == "study"
            to = TARGETS[kill][index // 2 % 2] if study else Target.process
            end = End(kill=kill, to=to, torn=index % 10 == 3, of_study=study)
            cases.append(
                Case(
                    name=f"kills/{name}/{index:02d}",
                    what=f"{kill.value.name} at {place:.1%} of {'its hooks' if in_hooks else 'its'} operations",
                    run=_killed(reference, end, place, in_hooks=in_hooks),
                )
            )
    return cases


def _killed(reference: Reference, end: End, place: float, *, in_hooks: bool) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        names = reference.made().names["hooks" if in_hooks else "job"]
        at = 1 + int(place * len(names))
        where = f"{end.kill.value.name} to the {end.to.value} at operation {at} of {len(names)} ({names[at - 1]})"
        reference.job.prepare(reference.stage, folder)
        counters = [Counter(at=at, then=end_by(end.kill, to=end.to, torn=end.torn)), Counter()]
        arguments = reference.job.arguments(reference.stage)
        # A study's server of processes notices its end once it has imported what the jobs need.
        grace = 30.0 if end.of_study else 5.0
        first = rewardloop(arguments, folder, before=lambda: begin(folder, *(counters[::-1] if in_hooks else counters)), grace=grace)
        problems = _problems_of_end(first, end, in_hooks=in_hooks)
        again = rewardloop(arguments, folder, before=lambda: fork_instead(lambda: None))
        if again.code:
            problems.append(f"the second run ended with {again.code}: {again.tail()}")
        problems += differences(folder / "runs", reference.folder / "runs")
        return [f"{where}: {problem}" for problem in problems]

    return run


def _problems_of_end(ended: Ended, end: End, *, in_hooks: bool) -> Problems:
    problems: Problems = []
    if ended.code == TIMED_OUT:
        problems.append(f"did not end: {ended.tail()}")
    elif not in_hooks and ended.code not in end.codes:
        problems.append(f"ended with {ended.code}: {ended.tail()}")
    if "Traceback" in ended.said:
        problems.append(f"printed a traceback: {ended.tail(600)}")
    if ended.survivors:
        problems.append(f"{ended.survivors} process(es) outlived it")
    return problems
