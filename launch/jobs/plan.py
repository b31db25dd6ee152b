"""The jobs of a study, all validated before the first one starts. Imports no torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.progress import Progress
from launch import bon, ppo, rm
from launch.compose import combinations, composed
from launch.inputs import check_inputs
from launch.jobs.lifecycle import Record
from launch.obstacles import task_obstacle
from launch.parallel.scheduler import Job, Results, Task
from launch.schema import BoNJob, Launch, Lineage, Pick, PPOJob, PPOPlan, RewardChoice, RMJob, StudyJob
from microworld.config import LINEAGES


def plan(study: StudyJob, folder: Path) -> list[Job]:
    """All jobs of a study, in the order in which they should start. Raises `ValueError` for a job that cannot run."""
    common = [f"study={study.study}", f"runs_dir={study.runs_dir}", f"world={world_folder(study, folder)}", *study.common]
    jobs: list[Job] = []
    before: list[str] = []
    if study.embedded:
        jobs.append(Job(key="world", task=lambda _: partial(make_world, study, folder)))
        for lineage in LINEAGES:
            make = partial(make_policy, study, folder, lineage)
            jobs.append(Job(key=f"policy-{lineage}", task=lambda _, make=make: make, after=("world",)))
        before = [job.key for job in jobs]
    pools = composed(BoNJob, [*common, *study.pools])
    needed = tuple(key for key in before if key in ("world", f"policy-{Path(pools.job.model.path).name}"))
    jobs.append(Job(key="pools", task=lambda _: partial(bon.run, pools), after=needed))
    models = {f"rm-{i:02d}": composed(RMJob, line) for i, line in enumerate(_lines(study, common), 1)}
    checked: list[Launch] = [pools.job, *(model.job for model in models.values())]
    # PPO runs take longest, so they come before the reward models: each starts as soon as those it chooses from are done.
    for name, planned in study.ppo.items():
        overrides = [*common, f"seed={study.seed}", f"name={name}", *planned.overrides]
        policy = composed(PPOJob, [*overrides, "reward.path=unknown-yet"]).job
        if missing := task_obstacle(policy):
            raise ValueError(f"ppo.{name}: {missing}")
        checked.append(policy)
        after = tuple(key for key, model in models.items() if _could_be(planned.reward, model.job, policy.model.path))
        if not after:
            raise ValueError(f"ppo.{name}.reward fits none of the study's reward models; change its lineage or control.")
        jobs.append(Job(key=f"ppo-{name}", task=_ppo_task(planned, overrides, after), after=after, any_of=True))
    for key, model in models.items():
        waits = tuple(k for k in before if k == f"policy-{Path(model.job.model.path).name}")
        jobs.append(Job(key=key, task=lambda _, model=model: partial(rm.run, model), after=(*waits, "pools")))
    if not study.embedded:  # the files of an embedded world do not exist yet
        for job in checked:
            check_inputs(job)
    return jobs


def _ppo_task(planned: PPOPlan, overrides: Sequence[str], after: Sequence[str]) -> Callable[[Results], Task]:
    """The task of a PPO run, whose configuration is complete once the reward model is chosen."""

    def task(results: Results) -> Task:
        chosen = choose([record for key in after if isinstance(record := results[key], dict)], planned.reward.pick)
        return partial(run_ppo, (*overrides, f"reward.path={chosen['dir']}"))

    return task


def choose(records: Sequence[Mapping[str, Any]], pick: Pick) -> Mapping[str, Any]:
    """The record with the best or worst score: RewardBench 2 overall, or the mean of the domains if overall is missing.

    A model without a finite score is neither. Raises `ValueError` if there is no other.
    """
    scored = [(score, record) for record in records if (score := _score(record["final"])) is not None]
    if not scored:
        names = ", ".join(str(record["dir"]) for record in records)
        raise ValueError(f"no reward model to choose: none of {names} has a finite score on RewardBench 2.")
    best = max if pick == Pick.best else min
    return best(scored, key=lambda pair: pair[0])[1]


def _score(final: Mapping[str, Any]) -> float | None:
    # Records hold numbers that are not finite as text.
    values = {key: float(value) for key, value in final.items() if key.startswith("rewardbench2/")}
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    if "rewardbench2/overall" in finite:
        return finite["rewardbench2/overall"]
    return sum(finite.values()) / len(finite) if finite else None


def _could_be(choice: RewardChoice, model: RMJob, policy: str) -> bool:
    """Whether a PPO run chooses from this reward model among others."""
    same = model.model.path == policy
    fits = {Lineage.any: True, Lineage.same: same, Lineage.other: not same}[choice.lineage]
    return fits and choice.control == (model.data.flip > 0)


def _lines(study: StudyJob, common: Sequence[str]) -> list[list[str]]:
    """The override lists of all reward models, with sweeps expanded."""
    return [[*common, f"seed={study.seed}", *line] for text in study.reward_models for line in combinations(text.split())]


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


def run_ppo(overrides: Sequence[str], progress: Progress) -> Record:
    """Trains the policy of a configuration that was completed while the study ran."""
    return ppo.run(composed(PPOJob, overrides), progress)
