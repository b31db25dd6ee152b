"""Commands that are interrupted while they start: at counted imports, long before there is anything to resume."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.case import Case, Problems
from tests.faults.jobs import JOBS
from tests.faults.stage import Stage

SCRIPT = """
import os, sys
number, at, sys.argv = int(sys.argv[1]), int(sys.argv[2]), ["rewardloop", *sys.argv[3:]]
from launch.cli import main
count = 0
def heard(event, arguments):
    global count
    if event == "import":
        count += 1
        if count == at:
            os.kill(os.getpid(), number)
sys.addaudithook(heard)
sys.exit(main())
"""
"""What the console script does, but for a signal to itself as a module is imported."""

IMPORTS = (1, 20, 100, 300, 600, 1000, 1500, 2500)
"""Modules after which a signal comes; the last ones are torch's and transformers'."""

CODES = {2: {130}, 15: {75, -15, 143}}
"""By signal, the exit codes."""


def start_cases(stage: Stage) -> list[Case]:
    """Ctrl-C at each place, in several jobs in turn; SIGTERM at two."""
    jobs = ("rm", "ppo", "bench", "bon")
    return [
        Case(name=f"kills/start/{name} signal {number} at import {at}", what="", run=_tried(JOBS[name].arguments(stage), number, at))
        for index, at in enumerate(IMPORTS)
        for number, name in ((2, jobs[index % 4]), *(((15, "rm"),) if index in (2, 5) else ()))
    ]


def _tried(arguments: Sequence[str], number: int, at: int) -> Callable[[Path], Problems]:
    def run(folder: Path) -> Problems:
        command = [sys.executable, "-c", SCRIPT, str(number), str(at), *arguments]
        # In a group of its own, and with Ctrl-C as a terminal's process has it.
        ended = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=120, process_group=0)
        problems: Problems = []
        if "Traceback" in ended.stderr:
            problems.append(f"printed a traceback: {' | '.join(ended.stderr.splitlines()[-4:])}")
        if ended.returncode not in CODES[number]:
            problems.append(f"ended with {ended.returncode}: {ended.stderr[-300:]}")
        return problems + [f"{file} says it is running" for file in folder.rglob("record.json") if '"running"' in file.read_text()]

    return run
