"""`rewardloop report`: the report of a study's finished runs, or of any others; PPO runs take part while they still train."""

from importlib.util import find_spec
from pathlib import Path

from core.process.signals import stopping_at_once
from launch.entry import Composed, start
from launch.history.find import find_runs, near_studies
from launch.schema import ReportJob


def _command(composed: Composed[ReportJob]) -> None:
    job = composed.job
    if job.scores:
        with stopping_at_once():
            from launch.jobs import scores

        scores.draw(job)
        return
    runs_dir = Path(job.runs_dir)
    records = find_runs(job.runs, runs_dir) if job.runs else []
    if job.serve:
        with stopping_at_once():
            from launch.jobs import serve

        serve.serve(runs_dir / job.study, job.port)
        return
    if not job.runs and not (folder := runs_dir / job.study).is_dir():
        raise ValueError(
            f"{folder} does not exist{near_studies(folder)}; name a study by study=NAME, or runs by runs=[...] (`rewardloop runs`)."
        )

    if job.wandb:
        if find_spec("wandb_workspaces") is None:
            raise ValueError("wandb=... needs wandb-workspaces, which is not installed: `pip install 'rewardloop[workspaces]'`.")
        with stopping_at_once():
            from launch.jobs import workspace

        print(workspace.build(job))
        return
    with stopping_at_once():
        from launch.jobs import report  # matplotlib, which takes seconds

    report.draw(job, records)


def main() -> None:
    """Entry point."""
    start(ReportJob, _command)


if __name__ == "__main__":
    main()
