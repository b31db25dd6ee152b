"""`rewardloop study`: reward models, best-of-N and PPO side by side, and how well the benchmark predicts their use."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.process.signals import stopping_at_once
from core.runs.lock import BusyError, locked
from core.runs.record import RunBusyError
from launch.entry import Composed, num_processes, start
from launch.schema import StudyJob
from launch.studies.plan import plan
from launch.studies.seeds import at_seeds, folder_of, plan_seeds

LOCK = "study.lock"
"""The file in a study's folder that holds its lock."""


def _command(composed: Composed[StudyJob]) -> None:
    study = composed.job
    if num_processes() > 1:
        raise ValueError("a study starts the processes of its jobs itself; leave torchrun out and give processes=N.")
    if study.seeds:
        _over_seeds(composed)
        return
    folder = folder_of(study)
    planned = plan(study, folder)  # composes and thereby validates every configuration before the first job starts

    with _alone(folder):
        with stopping_at_once():
            from launch.jobs import report
            from launch.studies import study as job  # imports torch, which takes seconds: after the checks

        report.show(*job.run(study, planned, folder))


def _over_seeds(composed: Composed[StudyJob]) -> None:
    """The study at each of its seeds, and what they say together."""
    studies = at_seeds(composed)
    plans = plan_seeds(studies)
    with ExitStack() as locks:
        for study in (composed.job, *studies.values()):
            locks.enter_context(_alone(folder_of(study)))
        with stopping_at_once():
            from launch.studies import settled  # imports torch

        settled.show(*settled.run(composed.job, studies, plans))


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Context in which no other process can run the study in `folder`; raises `RunBusyError` if one does."""
    try:
        with locked(folder / LOCK):
            yield
    except BusyError as error:
        raise RunBusyError(f"The study {folder} is in use by {error.holder}; wait for it or stop it first.") from None


def main() -> None:
    """Entry point."""
    start(StudyJob, _command)


if __name__ == "__main__":
    main()
