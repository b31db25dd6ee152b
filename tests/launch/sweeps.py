"""Commands that compose sweeps without running them, and runs that stand for theirs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.runs.record import Run, open_run
from launch.entry import Composed, start
from launch.schema import AnyJob, RMJob

OWN = ["model=custom", "model.path=org/base", "data=custom", "data.paths=[pairs.jsonl]"]
"""A job that reads nothing of a microworld, so that none needs to be there."""


def never(_: object) -> None:
    raise AssertionError("no job may run")


def code_of(run: Callable[[Composed[Any]], Mapping[str, Any] | None], arguments: Sequence[str], schema: type[AnyJob] = RMJob) -> int:
    """The exit code of a command."""
    ended = 0
    try:
        start(schema, run, arguments)
    except SystemExit as error:
        ended = error.code
    assert isinstance(ended, int)
    return ended


def settings(jobs: Sequence[RMJob]) -> list[tuple[float, int]]:
    return [(job.optim.lr, job.epochs) for job in jobs]


def opened(job: Composed[RMJob], **identity: Any) -> Run:
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
