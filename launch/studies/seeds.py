"""One study over several seeds: a study for each, all of them planned and run together. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.compose import Composed, changed
from launch.parallel.scheduler import Job, Results, Same, Task
from launch.schema import StudyJob
from launch.studies.plan import Plan, plan


def folder_of(study: StudyJob) -> Path:
    """The folder of a study."""
    return Path(study.runs_dir) / study.study


def at_seeds(composed: Composed[StudyJob]) -> dict[int, StudyJob]:
    """The study at each of its seeds, named after it; whatever its configuration derives from seed or name follows."""
    name, seeds = composed.job.study, composed.job.seeds
    return {seed: changed(StudyJob, composed, {"seed": seed, "study": f"{name}-seed{seed}", "seeds": []}).job for seed in seeds}


def key_at(key: str, seed: int) -> str:
    """The key of a job among those of all seeds.

    >>> key_at("rm-01", 3)
    'rm-01@3'
    """
    return f"{key}@{seed}"


def plan_seeds(studies: Mapping[int, StudyJob], *, check: bool = True) -> dict[int, Plan]:
    """The plan of each seed, its jobs under keys that tell the seeds apart. Raises `ValueError` for a job that cannot run."""
    found: dict[int, Plan] = {}
    for seed, study in studies.items():
        own = plan(study, folder_of(study), check=check)
        found[seed] = replace(own, jobs=[_at(job, seed) for job in own.jobs])
    return found


def _at(job: Job, seed: int) -> Job:
    def task(results: Results) -> Task | Same:
        made = job.task(at(results, seed))
        return Same(key=key_at(made.key, seed)) if isinstance(made, Same) else made

    after, any_of = (tuple(key_at(key, seed) for key in keys) for keys in (job.after, job.any_of))
    return replace(job, key=key_at(job.key, seed), after=after, any_of=any_of, task=task)


def at(results: Results, seed: int) -> dict[str, object]:
    """The results of one seed, by the keys that they have in its own plan."""
    mark = key_at("", seed)
    return {key.removesuffix(mark): result for key, result in results.items() if key.endswith(mark)}
