"""What would stop a job on this machine, as far as it can be told before any work, and what did. Imports no torch."""

from importlib.util import find_spec
from pathlib import Path

from core.process.shortage import ShortageError, shortage, told
from core.runs.record import RunBusyError
from launch.overrides.differences import settings_of
from launch.schema import AnyJob, BoNJob, PPOJob
from launch.settings import Launch, RunSettings


def obstacle(job: AnyJob) -> str | None:
    """Why a job cannot run, with the remedy; None if nothing speaks against it."""
    if missing := tracker_obstacle(job):
        return missing
    if isinstance(job, BoNJob) and job.takes_pools:  # it reads neither tasks nor a world
        return None
    return world_obstacle(job) or task_obstacle(job)


def tracker_obstacle(job: object) -> str | None:
    """Why a job cannot run if the package of its tracker is not installed; else None."""
    if not isinstance(job, RunSettings):
        return None
    for extra, modules in job.tracker.packages.items():
        if missing := [module for module in modules if find_spec(module) is None]:
            return (
                f"tracker={extra} needs {' and '.join(missing)}, which is not installed; install it with "
                f"`pip install 'rewardloop[{extra}]'`, or choose another tracker (tracker=files)."
            )
    return None


def world_obstacle(job: AnyJob) -> str | None:
    """Why a job cannot run if it reads from a microworld that does not exist; else None."""
    if not isinstance(job, Launch) or Path(job.world).is_dir():
        return None
    read = [text for setting in settings_of(job).values() for text in _texts(setting.value)]
    if not any(text.startswith(f"{job.world}/") for text in read):
        return None
    return (
        f"world={job.world} does not exist; make it with `rewardloop study experiment=demo`, name another folder, or give "
        "your own models and data (model=custom data=custom)."
    )


def task_obstacle(job: AnyJob) -> str | None:
    """Why a job cannot run without a task: best-of-N, or PPO whose best checkpoint is chosen by one that it does not have; else None."""
    if isinstance(job, BoNJob) and not job.tasks:
        return (
            "tasks is empty; choose some, for instance tasks=microworld or tasks=gsm8k tasks.gsm8k.path=FILE, or name completions that are "
            "there already (pools=FILE.jsonl)."
        )
    if not isinstance(job, PPOJob):
        return None
    group, _, name = job.best_metric.partition("/")
    if group != "downstream" or name in job.tasks or (job.tasks and name == "average"):
        return None
    if not job.tasks:
        return (
            f"best_metric={job.best_metric} needs a task, and there is none; add one (tasks=gsm8k tasks.gsm8k.path=FILE), or choose the "
            "checkpoint by the reward itself (best_metric=rm_score)."
        )
    known = ", ".join(f"downstream/{name}" for name in ("average", *job.tasks))
    return f"best_metric={job.best_metric} is not measured; choose one of {known}, or rm_score."


def _texts(value: object) -> list[str]:
    """The texts in a setting: itself, or those of a list."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def reason(error: Exception, place: Path) -> str:
    """Why a job ended, as the user is told; `place` is what may be full. Of errors that are meant for the user only the text."""
    if isinstance(error, (ValueError, RunBusyError, ShortageError)):
        return str(error)
    return shortage(error, place) or told(error)
