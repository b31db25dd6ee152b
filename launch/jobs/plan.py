"""The jobs of a study, each checked before the first one starts. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.progress import Progress
from launch import bon, ppo, rm
from launch.compose import combinations, composed
from launch.inputs import check_inputs
from launch.jobs.lifecycle import Record
from launch.parallel.scheduler import Failure, Job
from launch.schema import BoNJob, Launch, Lineage, Pick, PPOPlan, RewardChoice, RMJob, StudyJob
from microworld.config import LINEAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOArgument:
    """What the process of a PPO run needs: its configuration, complete once its reward model is known."""

    overrides: tuple[str, ...]


def plan(study: StudyJob, folder: Path) -> list[Job]:
    """All jobs of a study, in the order in which they should be taken up."""
    common = [f"study={study.study}", f"runs_dir={study.runs_dir}", f"world={world_folder(study, folder)}", *study.common]
    jobs: list[Job] = []
    before: list[str] = []
    if study.embedded:
        jobs.append(Job(key="world", run=make_world, argument=lambda _: (study, folder)))
        for lineage in LINEAGES:
            policy = (study, folder, lineage)
            jobs.append(Job(key=f"policy-{lineage}", run=make_policy, argument=lambda _, policy=policy: policy, after=("world",)))
        before = [job.key for job in jobs]
    pools = composed("bon", [*common, *study.pools])
    assert isinstance(pools.job, BoNJob)
    needed = tuple(key for key in before if key in ("world", f"policy-{Path(pools.job.model.path).name}"))
    jobs.append(Job(key="pools", run=bon.run, argument=lambda _: pools, after=needed))
    models = {f"rm-{i:02d}": composed("rm", line) for i, line in enumerate(_lines(study, common), 1)}
    checked: list[Launch] = [pools.job, *(model.job for model in models.values())]
    # PPO runs stand before the reward models, since they take longest: each starts as soon as those it chooses from are done.
    for name, planned in study.ppo.items():
        overrides = [*common, f"seed={study.seed}", f"name={name}", *planned.overrides]
        policy = composed("ppo", [*overrides, "reward.path=unknown-yet"]).job
        checked.append(policy)
        after = tuple(key for key, model in models.items() if _could_be(planned.reward, model.job, policy.model.path))
        if not after:
            raise ValueError(f"ppo.{name}.reward fits none of the study's reward models; change its lineage or control.")
        argument = _ppo_argument(planned, overrides, after)
        jobs.append(Job(key=f"ppo-{name}", run=run_ppo, argument=argument, after=after, any_of=True))
    for key, model in models.items():
        waits = tuple(k for k in before if k == f"policy-{Path(model.job.model.path).name}")
        jobs.append(Job(key=key, run=rm.run, argument=lambda _, model=model: model, after=(*waits, "pools")))
    if not study.embedded:  # what an embedded world brings is not there yet
        for job in checked:
            check_inputs(job)
    return jobs


def _ppo_argument(planned: PPOPlan, overrides: Sequence[str], after: Sequence[str]) -> Callable[[Mapping[str, Any]], PPOArgument]:
    def argument(results: Mapping[str, Any]) -> PPOArgument:
        chosen = choose([results[key] for key in after if not isinstance(results[key], Failure)], planned.reward.pick)
        return PPOArgument(overrides=(*overrides, f"reward.path={chosen['dir']}"))

    return argument


def choose(records: Sequence[Mapping[str, Any]], pick: Pick) -> Mapping[str, Any]:
    """The record with the best or worst benchmark score: RewardBench 2 overall, or the mean of the domains where one is missing."""

    def score(record: Mapping[str, Any]) -> float:
        final = record["final"]
        domains = [value for key, value in final.items() if key.startswith("rewardbench2/")]
        return final.get("rewardbench2/overall", sum(domains) / max(1, len(domains)))

    return max(records, key=score) if pick == Pick.best else min(records, key=score)


def _could_be(choice: RewardChoice, model: RMJob, policy: str) -> bool:
    """Whether a reward model is among those that a PPO run chooses from."""
    same = model.model.path == policy
    fits = {Lineage.any: True, Lineage.same: same, Lineage.other: not same}[choice.lineage]
    return fits and choice.control == (model.data.flip > 0)


def _lines(study: StudyJob, common: Sequence[str]) -> list[list[str]]:
    """The override lists of all reward models, sweeps expanded."""
    return [[*common, f"seed={study.seed}", *line] for text in study.reward_models for line in combinations(text.split())]


def world_folder(study: StudyJob, folder: Path) -> Path:
    """Where the microworld of an embedded study lies."""
    return folder / f"world-{study.world.seed}"


# What runs in a process of its own: functions of this module, found there by name.


def make_world(argument: tuple[StudyJob, Path], progress: Progress) -> str:
    """Makes the microworld of an embedded study and returns its folder."""
    from microworld.world import build_world  # transformers, for this process alone

    study, folder = argument
    progress.start("building the world", 1)
    return str(build_world(study.world, world_folder(study, folder)))


def make_policy(argument: tuple[StudyJob, Path, str], progress: Progress) -> str:
    """Trains the policy of one lineage of the microworld and returns its folder."""
    from microworld.policy import train_policy  # torch, for this process alone

    study, folder, lineage = argument
    world = world_folder(study, folder)
    progress.start("SFT", study.world.corpus_size)
    return str(train_policy(world, lineage, study.policy, world / "policies" / lineage, progress.advance))


def run_ppo(argument: PPOArgument, progress: Progress) -> Record:
    """Trains a policy once its reward model is known."""
    return ppo.run(composed("ppo", argument.overrides), progress)
