"""A study as a job: runs the planned jobs side by side and puts their results into one report."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.runs.record import settle_killed
from launch.jobs import report
from launch.jobs.report import Summary
from launch.parallel.display import display
from launch.parallel.scheduler import Failure, Job, run_jobs
from launch.parallel.slots import slots
from launch.schema import StudyJob
from launch.studies.plan import Plan
from launch.studies.time_spent import Timed, TimeSpent
from launch.studies.uses import notes

PRELOAD = ("launch.parallel.preload",)


def run(study: StudyJob, plan: Plan, folder: Path) -> tuple[Summary, Path]:
    """Runs whatever is not finished yet; returns the summary and the path of its report.

    If jobs failed, raises `RuntimeError` at the end; the report then covers the others.
    """
    spent, begun = TimeSpent(folder), datetime.now(UTC).isoformat(timespec="milliseconds")
    results = run_all(plan.jobs, study, folder, spent)
    failures = failures_of(results)
    if failures:
        settle_killed(folder, "its process was killed")
    pools = results.get("pools")
    found = {str(result["dir"]): result for result in results.values() if isinstance(result, dict)}  # some share a run
    records = [record for record in found.values() if record is not pools]
    if not any(record["job"] != "bon" for record in records):
        raise RuntimeError("; ".join(failures))
    worked = bool(failures) or not all(record.get("finished", begun) < begun for record in records)
    summary, path = report.build(
        study=study.study,
        folder=folder,
        records=records,
        pools=Path(pools["pools"]) if isinstance(pools, dict) else None,
        wall_s=spent.total(worked=worked),
        notes=[*study.notes, *notes(plan.uses, results)],
    )
    require_none(failures, len(plan.jobs), path)
    return summary, path


def run_all(jobs: Sequence[Job], study: StudyJob, folder: Path, spent: TimeSpent) -> dict[str, object]:
    """The results of all jobs by key, whose output goes to the study's folder. What they take is noted in `spent`, also if they do not
    get to their end."""
    count, threads, gpus = slots(study.parallel, study.processes)
    shown = display(len(jobs))
    try:
        return run_jobs(jobs, slots=count, threads=threads, gpus=gpus, logs=folder / "logs", display=Timed(shown, spent), preload=PRELOAD)
    finally:
        shown.close()
        spent.note()


def require_none(failures: Sequence[str], num_jobs: int, report: Path) -> None:
    """Raises `RuntimeError` if jobs failed."""
    if failures:
        message = f"{len(failures)} of {num_jobs} jobs failed; the report at {report} covers the others"
        raise RuntimeError("\n  ".join([message, *failures]))


def failures_of(results: Mapping[str, object]) -> list[str]:
    """A line for every job that failed."""
    return [f"{key}: {result.message} (see {result.log})" for key, result in results.items() if isinstance(result, Failure)]
