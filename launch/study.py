"""`rewardloop study`: reward models, best-of-N and PPO side by side, and what the benchmark says of them."""

from pathlib import Path

from launch.entry import Composed, start
from launch.jobs.plan import plan
from launch.schema import StudyJob


def _command(composed: Composed) -> None:
    study = composed.job
    assert isinstance(study, StudyJob)
    folder = Path(study.runs_dir) / study.study
    jobs = plan(study, folder)  # composes, and so checks, every configuration before the first job starts

    from launch.jobs import report
    from launch.jobs import study as job  # torch, which takes seconds: what is likely to be wrong has been found by now

    report.show(*job.run(study, jobs, folder))


def main() -> None:
    """Entry point."""
    start("study", _command)


if __name__ == "__main__":
    main()
