"""The configuration that a run keeps, read back: which settings were not the defaults, and a file to start another run from."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from core.disk import BrokenFileError
from core.runs.record import CONFIG, read_record
from launch.compose import register_schemas
from launch.overrides.differences import common
from launch.schema import SCHEMAS, AnyJob


def saved_config(run_dir: Path) -> DictConfig:
    """The configuration of a run as it was written, with interpolations unresolved. Raises `BrokenFileError` if it cannot be read."""
    file = run_dir / CONFIG
    try:
        found = OmegaConf.load(file)
    except FileNotFoundError as error:
        raise BrokenFileError(f"{file} is missing; without it nobody knows the run's settings.") from error
    except (UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise BrokenFileError(f"{file} is no YAML ({' '.join(str(error).split()):.200}); restore it from a copy.") from error
    if not isinstance(found, DictConfig):
        raise BrokenFileError(f"{file} holds no settings; restore it from a copy.")
    return found


def schema_of(run_dir: Path) -> type[AnyJob]:
    """The schema of a run's job. Raises `ValueError` for a job that leaves no runs."""
    job = read_record(run_dir)["job"]
    if job not in SCHEMAS:
        raise ValueError(f"{run_dir} is a run of {job!r}, which is no job of rewardloop.")
    return SCHEMAS[job]


def saved_job(run_dir: Path) -> AnyJob:
    """The job of a run, as its configuration has it. Raises `ValueError` if it cannot be read."""
    register_schemas()
    schema, config = schema_of(run_dir), saved_config(run_dir)
    try:
        structured = OmegaConf.structured(schema)
        OmegaConf.set_struct(structured, False)
        job = OmegaConf.to_object(OmegaConf.merge(structured, config))
    except OmegaConfBaseException as error:
        raise ValueError(f"the settings are those of another version ({str(error).splitlines()[0]})") from error
    assert isinstance(job, schema)
    return job


def changed_settings(run_dir: Path) -> dict[str, str]:
    """The settings of a run that are not the defaults of the dataclasses, by key. Raises `ValueError` if they cannot be read."""
    return common([saved_job(run_dir)])
