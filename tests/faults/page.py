"""The page that says what was tried and what held: docs/reliability.md."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tests.faults.case import Problems

HEAD = """# Reliability

What happens when a run is killed, a file is damaged, a neighbour fails or an input is wrong. `make faults` tries all of it and writes this
page; nothing here is written by hand. CI tries a sample of each part. The cases are in `tests/faults`; `python -m tests.faults --only NAME`
tries one, and `--list` names them.
"""

PARTS: Mapping[str, tuple[str, str]] = {
    "kills": (
        "Kills",
        """A job is ended by SIGKILL, SIGTERM or SIGINT at one of its operations: a file opened for writing, renamed, removed or flushed,
an optimiser step, a forward pass. A seed chooses which. Then the same command is run again. A kill has held if the second run leaves
what a run in peace leaves: the same weights bit for bit, the same metrics with each step once, the same records but for times, and no
other file; if no process outlived the killed one; and if nobody saw a traceback.""",
    ),
    "disk": (
        "Damage, full disks, neighbours",
        """Files of killed and of finished runs are cut, emptied, replaced, removed, or get a flipped bit; the disk is full, read-only or
failing from some operation on; W&B, a vLLM server or a judge's endpoint refuses, hangs or answers with garbage. A case has held if the
command ends as if nothing had happened (and says which file it passed over), or ends with a message that names the file or the address;
if no run is left as running; and if the same command works once the fault is gone.""",
    ),
    "inputs": (
        "Inputs",
        """Every key of every job with wrong kinds of values, every field of every kind of row with values that it cannot have, files that
are something else, broken model folders, functions that fail, studies and command lines that cannot work. A case has held if the command
ends with a code other than 0 and a message that names the file and row, or the key, without a traceback and before it makes a run's
folder (a model's weights may be read first); and, for inputs that are unusual and right, if the run begins.""",
    ),
}
"""The sections of the page: a title, and what was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The name of a case and what does not hold of it.

    >>> Result(name="kills/rm/07", problems=[]).group
    'rm'
    """

    name: str
    problems: Problems

    @property
    def group(self) -> str:
        """The line of a table that counts it."""
        return self.name.split("/")[1]


def write_page(path: Path, results: Sequence[Result], *, seed: int) -> None:
    """Writes the page of these results."""
    path.write_text(page(results, seed=seed, tried=_commit()), encoding="utf-8")


def page(results: Sequence[Result], *, seed: int, tried: str) -> str:
    """The page in Markdown; `tried` says what was, and when."""
    lines = [HEAD, f"**{_held(results)} of {len(results)} held** (seed {seed}, {tried}).", ""]
    for part, (title, text) in PARTS.items():
        own = [result for result in results if result.name.startswith(f"{part}/")]
        if own:
            lines += [f"## {title}: {_held(own)} of {len(own)}", "", text, "", *_table(own), ""]
    failed = [result for result in results if result.problems]
    lines += ["## What does not hold", "", *([_failure(result) for result in failed] or ["Of what was tried, everything held."]), ""]
    return "\n".join(lines)


def _commit() -> str:
    """The date, and the commit that was tried if it is one."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return f"{date.today().isoformat()}, commit {git.stdout.strip()}" if git.returncode == 0 else date.today().isoformat()


def _held(results: Sequence[Result]) -> int:
    return sum(not result.problems for result in results)


def _table(results: Sequence[Result]) -> list[str]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return ["| | tried | held |", "|---|---:|---:|", *(f"| {name} | {len(own)} | {_held(own)} |" for name, own in groups.items())]


def _failure(result: Result) -> str:
    problem = " ".join(result.problems[0].split()).replace("|", "/").replace("`", "'")
    return f"- `{result.name}`: {problem[:240]}"
