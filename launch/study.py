"""`rewardloop study`: reward models, best-of-N and PPO side by side, and how well the benchmark predicts their use."""

from pathlib import Path

from launch.entry import Composed, start
from launch.jobs.plan import plan
from launch.schema import StudyJob


def _command(composed: Composed[StudyJob]) -> None:
    study = composed.job
    folder = Path(study.runs_dir) / study.study
    jobs = plan(study, folder)  # composes and thereby validates every configuration before the first job starts

    from launch.jobs import report
    from launch.jobs import study as job  # imports torch, which takes seconds: after the checks

    report.show(*job.run(study, jobs, folder))


def main() -> None:
    """Entry point."""
    start(StudyJob, _command)


if __name__ == "__main__":
    main()
