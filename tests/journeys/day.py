"""A day with rewardloop: the commands of the page one after the other, in processes of their own, as a user types them."""

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.journeys.page import commands, filled

LEARNS_NOTHING = "1e30"
"""A learning rate with which a training ends in numbers that are not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One form of the day: what the page's words stand for, and by step the settings that bound it.

    >>> Form(words={"MODEL": "org/name"}, sizes={}, minutes=1).words["MODEL"]
    'org/name'
    """

    words: Mapping[str, str]
    sizes: Mapping[str, Sequence[str]]
    minutes: float
    """After which a command is taken for hung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A command that has ended: its exit code and what it printed.

    >>> Said(code=0, out="done\\n", err="").text
    'done\\n'
    """

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err

    def value(self, label: str) -> str:
        """What stands behind a label in one of the lines."""
        return next(line.removeprefix(label).strip() for line in self.out.splitlines() if line.startswith(label))

    def warnings(self) -> list[str]:
        """The warnings that it printed."""
        return [line.removeprefix("warning: ") for line in self.text.splitlines() if line.startswith("warning: ")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """What each command said, by its step, and the folder in which all were given."""

    folder: Path
    said: Mapping[str, Said]

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.folder / "runs" / "day"

    @property
    def reward_model(self) -> Path:
        """The run of the first training."""
        return self.folder / self.said["train"].value("reward model:")

    @property
    def policy(self) -> Path:
        """The run of the policy."""
        return self.folder / self.said["policy resumed"].value("policy:")

    def sweep(self) -> list[dict[str, str]]:
        """The table of the sweep, as its file has it."""
        [file] = self.runs.glob("sweep-rm*.csv")
        return rows_of(file)

    def benchmarks(self) -> list[dict[str, str]]:
        """The table of the benchmarks."""
        [file] = self.runs.glob("sweep-bench*.csv")
        return rows_of(file)


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


STEPS = ("plan", "train", "sweep", "bench", "compare", "policy", "runs", "show", "rerun", "report", "publish")
"""What the commands of the page are for, in their order."""


def walk(form: Form, folder: Path) -> Day:
    """Gives all commands of the page, that for the policy twice: the first time it is stopped by Ctrl-C.

    Everything typed and printed stands in `transcript.txt` in the folder, to be read.
    """
    typed: dict[str, list[str]] = dict(zip(STEPS, commands(), strict=True))
    words = {**form.words, "1e-4": LEARNS_NOTHING}
    said: dict[str, Said] = {}
    day = Day(folder=folder, said=said)

    def give(step: str) -> Said:
        return _run(_line(typed[step], words, form.sizes.get(step, ())), folder, form.minutes)

    said["plan"] = give("plan")
    assert not (folder / "runs").exists()
    said["train"] = give("train")
    said["sweep"] = give("sweep")
    others = [row["dir"] for row in day.sweep() if row["status"] == "finished"]
    words |= {"RM": said["train"].value("reward model:"), "OTHER": others[-1]}
    said["bench"] = give("bench")
    words |= dict(zip(("RESULT", "OTHER_RESULT"), (row["dir"] for row in day.benchmarks()), strict=True))
    said["compare"] = give("compare")
    said["policy stopped"] = _interrupted(_line(typed["policy"], words, form.sizes["policy"]), folder, form.minutes)
    said["runs meanwhile"] = give("runs")
    said["policy resumed"] = give("policy")
    for step in ("runs", "show", "rerun", "report", "publish"):
        said[step] = give(step)
    return day


def _line(arguments: list[str], words: Mapping[str, str], sizes: Sequence[str]) -> list[str]:
    return [str(Path(sys.executable).with_name("rewardloop")), *filled(arguments, words), *sizes]


def _environment() -> dict[str, str]:
    """That of this process, without what tests set for themselves."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "REWARDLOOP_TRACE")}


def _run(line: Sequence[str], folder: Path, minutes: float) -> Said:
    began = time.monotonic()
    ended = subprocess.run(line, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=60 * minutes, check=False)
    said = Said(code=ended.returncode, out=ended.stdout, err=ended.stderr)
    _write_down(line, said, time.monotonic() - began, folder)
    return said


def _interrupted(line: Sequence[str], folder: Path, minutes: float) -> Said:
    """The command, with Ctrl-C once it has logged its second step of training."""
    began = time.monotonic()
    process = subprocess.Popen(line, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60 * minutes
        while process.poll() is None and not _has_trained(folder) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60 * minutes)
    finally:
        process.kill()
    said = Said(code=process.returncode, out=out, err=err)
    _write_down(line, said, time.monotonic() - began, folder)
    return said


def _write_down(line: Sequence[str], said: Said, seconds: float, folder: Path) -> None:
    with (folder / "transcript.txt").open("a", encoding="utf-8") as transcript:
        transcript.write(f"$ {shlex.join(['rewardloop', *line[1:]])}\n{said.err}{said.out}[exit {said.code}, {seconds:.0f} s]\n\n")


def _has_trained(folder: Path) -> bool:
    logs = (folder / "runs" / "day").glob("ppo-*/metrics.jsonl")
    return any(log.read_text(encoding="utf-8").count('"axis": "train/step"') > 1 for log in logs)
