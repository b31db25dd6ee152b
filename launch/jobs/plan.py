"""The jobs of a study, all validated before the first one starts. Imports no torch."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.progress import Progress
from core.runs.identity import clean_name
from core.runs.lock import BusyError, locked
from core.runs.record import LOCK, read_records
from evalhooks.rewardbench.domains import score_key, scores_of
from launch.compose import composed
from launch.jobs.parts import (
    Planned,
    Policies,
    check_all,
    check_rewards,
    constant,
    models_of,
    one_of,
    policies_of,
    pools_of,
    require_engines,
    rerank_job,
    told_of,
)
from launch.obstacles import task_obstacle, tracker_obstacle
from launch.overrides.grammar import quoted
from launch.parallel.scheduler import Job, Results, Task
from launch.schema import Lineage, Part, Pick, PPOJob, PPOPlan, RewardChoice, RMJob, StudyJob
from microworld.config import LINEAGES

SUPERSEDED = "superseded"
"""The folder of a study for runs that a rerun replaced by others."""


def plan(study: StudyJob, folder: Path, *, check: bool = True) -> list[Job]:
    """All jobs of a study, in the order in which they should start. Raises `ValueError` for a job that cannot run.

    With `check` their inputs are looked at, where they do not wait for an embedded world.
    """
    common = _common(study, folder)
    worlds = _worlds(study, folder)
    made = tuple(job.key for job in worlds)
    models = models_of(study, folder, common)
    pools = pools_of(study, folder, common, [model.job for model in models.values()])
    chosen, policies = _chosen(study, folder, common, models) if Part.ppo in study.parts else ([], [])
    named = policies_of(study, common, models, pools, made) if Part.ppo in study.parts else Policies()
    jobs = list(worlds)
    if pools is not None:
        needed = tuple(key for key in made if key in ("world", f"policy-{Path(pools.job.model.path).name}"))
        jobs.append(Job(key="pools", task=constant(pools.task), after=needed, what=told_of(pools.job), settings=pools.job))
    # PPO runs take longest, so they come before the reward models: each starts as soon as those it chooses from are done.
    jobs += chosen
    for key, model in models.items():
        is_new = Part.rm in study.parts
        waits = (*(k for k in made if k == f"policy-{Path(model.job.model.path).name}"), *(["pools"] if model.job.hooks.pools else []))
        what = told_of(model.job) if is_new else f"{told_of(model.job)}, trained already"
        jobs.append(Job(key=key, task=constant(model.task), after=waits if is_new else (), what=what, settings=model.job))
        if pools is not None and Part.bon in study.parts and not model.job.hooks.pools:
            jobs.append(rerank_job(pools, key, study.processes))
    jobs += named.jobs
    if twice := [key for key, count in Counter(job.key for job in jobs).items() if count > 1]:
        raise ValueError(f"two jobs of the study would be called {twice[0]}: their names differ only in how they are spelt; change one.")
    trained = [model.job for model in models.values()] if Part.rm in study.parts else []
    planned = [*([] if pools is None else [pools.job]), *trained, *policies, *named.planned]
    require_engines(study, planned)
    if missing := next(filter(None, map(tracker_obstacle, planned)), None):
        raise ValueError(missing)
    if check and not study.embedded:  # the files of an embedded world do not exist yet
        check_all(planned)
        check_rewards(named.planned, models)
    return jobs


def _worlds(study: StudyJob, folder: Path) -> list[Job]:
    """The jobs that make an embedded study's microworld and its policies; none of another study."""
    if not study.embedded:
        return []
    makers = {f"policy-{lineage}": partial(make_policy, study, folder, lineage) for lineage in LINEAGES}
    world = Job(key="world", task=constant(partial(make_world, study, folder)))
    return [world, *(Job(key=key, task=constant(make), after=(world.key,)) for key, make in makers.items())]


def _chosen(study: StudyJob, folder: Path, common: Sequence[str], models: Mapping[str, Planned[RMJob]]) -> tuple[list[Job], list[PPOJob]]:
    """The PPO runs against reward models of the study, and their configurations without these."""
    jobs: list[Job] = []
    policies: list[PPOJob] = []
    for name, planned in study.ppo.items():
        overrides = [*common, f"seed={study.seed}", f"name={quoted(name)}", *planned.overrides]
        policy = composed(PPOJob, [*overrides, "reward.path=unknown-yet"]).job
        if missing := task_obstacle(policy):
            raise ValueError(f"ppo.{name}: {missing}")
        policies.append(policy)
        after = tuple(key for key, model in models.items() if _could_be(planned.reward, model.job, policy.model.path))
        if not after:
            raise ValueError(f"ppo.{name}.reward fits none of the study's reward models; change its lineage or control.")
        task = _ppo_task(planned, overrides, after, folder, study.processes)
        jobs.append(Job(key=f"ppo-{clean_name(name)}", task=task, after=after, any_of=True))
    return jobs, policies


def _common(study: StudyJob, folder: Path) -> list[str]:
    """The overrides that all jobs of a study share."""
    if broken := [text for text in study.common if "=" not in text and not text.startswith("~")]:
        raise ValueError(f"common holds {broken[0]!r}, which is no override; give a list such as common=[max_length=1024,batch_size=32].")
    places = {"study": study.study, "runs_dir": study.runs_dir, "world": world_folder(study, folder)}
    return [*(f"{key}={quoted(place)}" for key, place in places.items()), *study.common]


def _ppo_task(planned: PPOPlan, overrides: Sequence[str], after: Sequence[str], folder: Path, processes: int) -> Callable[[Results], Task]:
    """The task of a PPO run in the study's `folder`, whose configuration is complete once the reward model is chosen."""

    def task(results: Results) -> Task:
        chosen = choose([record for key in after if isinstance(record := results[key], dict)], planned.reward.pick)
        complete = (*overrides, f"reward.path={quoted(chosen['dir'])}")
        supersede(folder, clean_name(composed(PPOJob, complete).job.name), chosen["id"])
        return one_of("ppo", complete, processes)

    return task


def supersede(folder: Path, name: str, reward_run: str) -> None:
    """Leaves one PPO run of this name in a study: those against other reward models than `reward_run` go to `superseded/`.

    There are some if that reward model had failed when the study ran before. One against it comes back from there.
    """
    aside = folder / SUPERSEDED
    for run, reward in _runs_of(folder, name):
        if reward != reward_run and _moved(run, aside):
            print(f"{run} was trained against another reward model than {reward_run}, chosen now; it moved to {aside}", file=sys.stderr)
    for run, reward in _runs_of(aside, name):
        if reward == reward_run:
            _moved(run, folder)


def _runs_of(folder: Path, name: str) -> list[tuple[Path, str]]:
    """The PPO runs of this name, each with the reward model that it was trained against."""
    records = read_records(folder, f"ppo-{name}-*", lambda line: None)
    return [(Path(record["dir"]), record["lineage"]["reward_run"]) for record in records if clean_name(record["name"]) == name]


def _moved(run: Path, folder: Path) -> bool:
    """Moves a run to another folder, unless one of its name is there or somebody is working on it; returns whether it did."""
    folder.mkdir(exist_ok=True)
    if (folder / run.name).exists():
        return False
    try:
        with locked(run / LOCK):
            run.rename(folder / run.name)
    except BusyError:
        return False
    return True


def choose(records: Sequence[Mapping[str, Any]], pick: Pick) -> Mapping[str, Any]:
    """The record with the best or worst score: RewardBench 2 overall, or where none has it the mean that most have.

    A model without that score, or with one that is not finite, is neither. Raises `ValueError` if there is no other.
    """
    found = [scores_of(record["final"]) for record in records]
    key = score_key(found)
    scored = [(scores[key], record) for scores, record in zip(found, records, strict=True) if key in scores]
    if not scored:
        names = ", ".join(str(record["dir"]) for record in records)
        raise ValueError(f"no reward model to choose: none of {names} has a finite score on RewardBench 2.")
    best = max if pick == Pick.best else min
    return best(scored, key=lambda pair: pair[0])[1]


def _could_be(choice: RewardChoice, model: RMJob, policy: str) -> bool:
    """Whether a PPO run chooses from this reward model among others."""
    same = model.model.path == policy
    fits = {Lineage.any: True, Lineage.same: same, Lineage.other: not same}[choice.lineage]
    return fits and choice.control == (model.data.flip > 0)


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
