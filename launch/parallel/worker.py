"""One of the processes of a job: `python -m launch.parallel.worker PIPE JOB OVERRIDES...`, started by `launch.parallel.processes`."""

# First, so that a study that is killed takes its jobs along.
import launch.parallel.end_with_parent  # noqa: F401, I001  # pyright: ignore[reportUnusedImport]

import json
import os
import sys
import traceback
from pathlib import Path

from core.process.exit import exit_without_teardown
from core.process.memory import keep_freed_memory
from core.process.quiet import quieten_libraries
from core.process.signals import raise_on_signal
from core.progress import NoProgress, Progress
from core.text import redacted
from launch.entry import rank
from launch.obstacles import reason
from launch.parallel.sweep_jobs import run_one


class _Sender:
    """Sends a job's progress to the process that started it."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def start(self, description: str, total: int, *, unit: str = "", done: int = 0) -> None:
        tell(self._pipe, "start", description, total, unit, done)

    def advance(self, n: int = 1) -> None:
        tell(self._pipe, "advance", n)

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        tell(self._pipe, "finish")


def tell(pipe: int, *message: str | int) -> None:
    """Writes a message; lines this short are never mixed with those of other processes."""
    os.write(pipe, f"{json.dumps(message, ensure_ascii=False)}\n".encode(errors="replace"))


def main(pipe: int, name: str, overrides: list[str]) -> None:
    """Does the job. Exits with 1 if it fails, and with the code of `Preempted` if it was told to stop."""
    keep_freed_memory()
    quieten_libraries()
    progress: Progress = _Sender(pipe) if rank() == 0 else NoProgress()
    with exit_without_teardown(), raise_on_signal():
        try:
            record = run_one(name, overrides, progress)
        except Exception as error:  # of any kind: the process that started this one tells it
            print(redacted(traceback.format_exc()), file=sys.stderr)
            tell(pipe, "failed", reason(error, Path.cwd())[:900])
            raise SystemExit(1) from error
        if rank() == 0:
            tell(pipe, "run", str(record["dir"]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
