"""Commands that compose sweeps without running them, and runs that stand for theirs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.runs.record import Run, open_run
from launch.entry import Composed, start

OWN = ["model=custom", "model.path=org/base", "data=custom", "data.paths=[pairs.jsonl]"]
"""A job that reads nothing of a microworld, so that none needs to be there."""

Job = Callable[[Composed], Mapping[str, Any] | None]


def never(_: Composed) -> None:
    raise AssertionError("no job may run")


def code_of(run: Job, arguments: Sequence[str], name: str = "rm") -> int:
    """The exit code of a command."""
    ended = 0
    try:
        start(name, run, arguments)
    except SystemExit as error:
        ended = error.code
    assert isinstance(ended, int)
    return ended


def settings(jobs: Sequence[Any]) -> list[tuple[float, int]]:
    return [(job.optim.lr, job.epochs) for job in jobs]


def opened(job: Composed, **identity: Any) -> Run:
    """The run of a job, with an identity that stands for what the real one hashes."""
    run, _ = open_run(
        runs_dir=Path(job.job.runs_dir),
        study=job.job.study,
        job="rm",
        name="base",
        identity={"lr": job.job.optim.lr, "epochs": job.job.epochs, **identity},
        config_yaml=job.yaml,
    )
    return run


def record(run: Run) -> dict[str, Any]:
    return {"dir": str(run.dir), **json.loads((run.dir / "record.json").read_text())}
