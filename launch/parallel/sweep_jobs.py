"""The jobs of a sweep several at a time, each in a process of its own, by the scheduler that studies use."""

import importlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from core.progress import Progress
from core.runs.identity import clean_name
from core.runs.record import settle_killed
from core.text import shown
from launch.compose import composed
from launch.parallel.display import display
from launch.parallel.scheduler import Failure, Job, run_jobs
from launch.parallel.slots import slots
from launch.schema import SCHEMAS
from launch.settings import RunSettings
from launch.sweep import JobOutcome, JobStatus, outcome_of

PRELOAD = ("launch.parallel.preload",)


def run_together(name: str, jobs: Sequence[RunSettings], overrides: Sequence[Sequence[str]]) -> list[JobOutcome]:
    """Runs all jobs of a sweep of `rewardloop <name>`, `parallel` at a time; returns what became of each, in their order.

    Their output goes to `<runs_dir>/<study>/logs/<name>-<number>.log`.
    """
    folder = Path(jobs[0].runs_dir) / clean_name(jobs[0].study)
    begun = datetime.now(UTC).isoformat(timespec="milliseconds")
    keys = [f"{name}-{number}" for number in range(1, len(jobs) + 1)]
    planned = [Job(key=key, task=lambda _, own=tuple(own): partial(run_one, name, own)) for key, own in zip(keys, overrides, strict=True)]
    bars = display(len(planned))
    count, threads, gpus = slots(jobs[0].parallel)
    try:
        results = run_jobs(planned, slots=count, threads=threads, gpus=gpus, logs=folder / "logs", display=bars, preload=PRELOAD)
    finally:
        bars.close()
    if any(isinstance(result, Failure) for result in results.values()):
        settle_killed(folder, "its process was killed")
    outcomes = [_outcome(results[key], begun) for key in keys]
    for line in warning_lines(outcomes):
        print(shown(line), file=sys.stderr)
    return outcomes


def warning_lines(outcomes: Sequence[JobOutcome]) -> list[str]:
    """What the jobs warned of, which is in their logs alone so far: each warning once, with the numbers of its jobs."""
    jobs: dict[str, list[int]] = {}
    for number, outcome in enumerate(outcomes, 1):
        for warning in (outcome.record or {}).get("warnings", []):
            jobs.setdefault(warning["text"], []).append(number)
    named = {text: f"job{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}" for text, numbers in jobs.items()}
    return [f"warning: {'' if len(jobs[text]) == len(outcomes) else f'{name}: '}{text}" for text, name in named.items()]


def run_one(name: str, overrides: Sequence[str], progress: Progress) -> Any:
    """Does one job in this process and returns the record of its run."""
    return importlib.import_module(f"launch.{name}").run(composed(SCHEMAS[name], overrides), progress)


def _outcome(result: object, begun: str) -> JobOutcome:
    if isinstance(result, Failure):
        return JobOutcome(status=JobStatus.failed, message=f"{result.message} (see {result.log})")
    return outcome_of(result if isinstance(result, dict) else None, begun=begun)
