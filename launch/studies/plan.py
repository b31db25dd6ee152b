"""The jobs of a study, all validated before the first one starts. Imports no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.progress import Progress
from launch.obstacles import tracker_obstacle
from launch.overrides.grammar import quoted
from launch.parallel.scheduler import Job
from launch.schema import StudyJob
from launch.studies.config import Part
from launch.studies.parts import (
    Policies,
    check_all,
    check_rewards,
    constant,
    models_of,
    policies_of,
    pools_of,
    require_engines,
    rerank_job,
    told_of,
)
from launch.studies.uses import Use, check_scores, use_jobs, uses_of
from microworld.config import LINEAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The jobs of a study in the order in which they should start, and what its reward models are used for.

    >>> Plan(jobs=[], uses=[]).uses
    []
    """

    jobs: Sequence[Job]
    uses: Sequence[Use]


def plan(study: StudyJob, folder: Path, *, check: bool = True) -> Plan:
    """All jobs of a study. Raises `ValueError` for a job that cannot run.

    With `check` their inputs are looked at, where they do not wait for an embedded world.
    """
    common = _common(study, folder)
    worlds = _worlds(study, folder)
    makers = partial(_makers, tuple(job.key for job in worlds))
    models = models_of(study, folder, common)
    pools = pools_of(study, folder, common, [model.job for model in models.values()])
    uses = uses_of(study, common, models, pools)
    named = policies_of(study, common, models, pools, makers) if Part.ppo in study.parts else Policies()
    jobs = list(worlds)
    if pools is not None:
        after = makers(pools.job.model.path)
        jobs.append(Job(key="pools", task=constant(pools.task), after=after, what=told_of(pools.job), settings=pools.job))
    # PPO runs take longest, so they come before the reward models: each starts as soon as those it chooses from are done.
    jobs += use_jobs(uses, models, folder, study.processes, makers)
    for key, model in models.items():
        is_new = Part.rm in study.parts
        waits = (*makers(model.job.model.path), *(["pools"] if model.job.hooks.pools else []))
        what = told_of(model.job) if is_new else f"{told_of(model.job)}, trained already"
        jobs.append(Job(key=key, task=constant(model.task), after=waits if is_new else (), what=what, settings=model.job))
        if pools is not None and Part.bon in study.parts and not model.job.hooks.pools:
            jobs.append(rerank_job(pools, key, study.processes))
    jobs += named.jobs
    if twice := [key for key, count in Counter(job.key for job in jobs).items() if count > 1]:
        raise ValueError(f"two jobs of the study would be called {twice[0]}: their names differ only in how they are spelt; change one.")
    trained = [model.job for model in models.values()] if Part.rm in study.parts else []
    planned = [*([] if pools is None else [pools.job]), *trained, *(use.job for use in uses), *named.planned]
    require_engines(study, planned)
    if missing := next(filter(None, map(tracker_obstacle, planned)), None):
        raise ValueError(missing)
    if check and not study.embedded:  # the files of an embedded world do not exist yet
        check_scores(uses, models)
        check_all(planned)
        check_rewards(named.planned, models)
    return Plan(jobs=jobs, uses=uses)


def _makers(made: Sequence[str], model: str) -> tuple[str, ...]:
    """Of the jobs that make an embedded world, the one that makes the model of this path, after the world; else that of the world alone."""
    policy = f"policy-{Path(model).name}"
    return (policy,) if policy in made else tuple(made[:1])


def _worlds(study: StudyJob, folder: Path) -> list[Job]:
    """The jobs that make an embedded study's microworld and its policies; none of another study."""
    if not study.embedded:
        return []
    makers = {f"policy-{lineage}": partial(make_policy, study, folder, lineage) for lineage in LINEAGES}
    world = Job(key="world", task=constant(partial(make_world, study, folder)))
    return [world, *(Job(key=key, task=constant(make), after=(world.key,)) for key, make in makers.items())]


def _common(study: StudyJob, folder: Path) -> list[str]:
    """The overrides that all jobs of a study share."""
    if broken := [text for text in study.common if "=" not in text and not text.startswith("~")]:
        raise ValueError(f"common holds {broken[0]!r}, which is no override; give a list such as common=[max_length=1024,batch_size=32].")
    places = {"study": study.study, "runs_dir": study.runs_dir, "world": world_folder(study, folder)}
    return [*(f"{key}={quoted(place)}" for key, place in places.items()), *study.common]


def world_folder(study: StudyJob, folder: Path) -> Path:
    """The folder of an embedded study's microworld."""
    return folder / f"world-{study.world.seed}"


# These run in processes of their own, which import them by name.


def make_world(study: StudyJob, folder: Path, progress: Progress) -> str:
    """Makes the microworld of an embedded study and returns its folder."""
    from microworld.world import build_world  # transformers, which only this process needs

    progress.start("building the world", 1)
    return str(build_world(study.world, world_folder(study, folder)))


def make_policy(study: StudyJob, folder: Path, lineage: str, progress: Progress) -> str:
    """Trains the policy of one lineage of the microworld and returns its folder."""
    from microworld.policy import train_policy  # torch, which only this process needs

    world = world_folder(study, folder)
    progress.start("SFT", study.world.corpus_size)
    return str(train_policy(world, lineage, study.policy, world / "policies" / lineage, progress.advance))
