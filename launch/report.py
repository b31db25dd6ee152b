"""`rewardloop report`: a study's report, drawn anew from its runs on disk; PPO runs take part while they still train."""

from pathlib import Path

from core.process.signals import stopping_at_once
from launch.entry import Composed, start
from launch.schema import ReportJob


def _command(composed: Composed[ReportJob]) -> None:
    job = composed.job
    folder = Path(job.runs_dir) / job.study
    if not (folder / "report" / "summary.json").is_file():
        raise ValueError(f"{folder} has no report yet; run `rewardloop study` for study={job.study} first.")

    with stopping_at_once():
        from launch.jobs import report  # matplotlib, which takes seconds

    report.redraw(job, folder)


def main() -> None:
    """Entry point."""
    start(ReportJob, _command)


if __name__ == "__main__":
    main()
