"""What of a job's inputs a dry run finds on this machine; what it does not find, or cannot read, becomes a note."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.config import ModelConfig
from core.disk import is_complete
from core.models.locate import CACHE, resolve
from core.runs.record import RECORD, is_finished, run_of
from launch.jobs.lifecycle import RunPlan
from launch.settings import RunSettings

CONVERTED = CACHE / "smollm2-135m"
"""The model from a package, which is converted the first time that it is used: no work for a dry run."""


def usable_model(config: ModelConfig, notes: list[str], key: str = "model.path") -> bool:
    """Whether a model is here and can be used; notes why not. One on a hub is not asked for."""
    if is_packaged(config.path):
        if not (there := is_complete(CONVERTED)):
            notes.append(
                f"{key}={config.path} is converted when it is first used; checkpoints' sizes and the run's folder are told from then on"
            )
        return there
    if Path(config.path).expanduser().exists():
        return readable(lambda: resolve(config, key), notes) is not None
    notes.append(f"{key}={config.path} {'does not exist here' if is_missing(config.path) else 'lies on a hub and was not looked at'}")
    return False


def is_packaged(path: str) -> bool:
    return path.startswith("pip:")


def all_here(paths: Sequence[str], notes: list[str]) -> bool:
    """Whether all are local; notes the others."""
    missing = [path for path in paths if not Path(path).expanduser().exists()]
    for path in missing:
        notes.append(
            f"{path} does not exist here" if is_missing(path) else f"{path} lies on a hub and was not looked at, nor were its rows"
        )
    return not missing


def is_missing(path: str) -> bool:
    """Whether a path that is not there can only be a file or folder: an id of a hub is `org/name`."""
    if Path(path).expanduser().exists():
        return False
    return path.count("/") != 1 or path.startswith((".", "/", "~")) or path.endswith((".jsonl", ".json", ".parquet"))


def readable(read: Callable[[], Any], notes: list[str]) -> Any:
    """What `read` returns; None, with a note, where it refuses."""
    try:
        return read()
    except (ValueError, OSError) as error:
        notes.append(f"this would not start: {error}")
        return None


def run_folder(job: RunSettings, plan: RunPlan) -> str:
    """The folder of a run, and what is there already."""
    run = run_of(runs_dir=Path(job.runs_dir), study=job.study, job=plan.kind, name=job.name or plan.name, identity=plan.identity)
    begun = "begun, and gone on with" if (run.dir / RECORD).is_file() else ""
    state = "finished, and not run again" if is_finished(run) else begun
    return f"folder: {run.dir}{state and f' ({state})'}"
