"""The parts of a study as jobs: reward models to train or trained already, pools and what reranks them, and PPO runs with a reward of
their own. Imports no torch."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from core.config import EngineKind
from core.disk import BrokenFileError
from core.progress import Progress
from core.runs.identity import clean_name
from core.runs.record import RECORD, RunStatus, read_record, read_records
from launch import bench, bon, rm
from launch.compose import Composed, composed, sweep
from launch.history.saved_config import saved_job
from launch.identity import unhashed_keys
from launch.inputs import check_inputs, read_alike
from launch.jobs.lifecycle import Record, finished_record
from launch.obstacles import task_obstacle
from launch.overrides.differences import settings_of
from launch.overrides.grammar import quoted, split_line
from launch.overrides.text_keys import as_typed
from launch.parallel.processes import run_in_processes
from launch.parallel.scheduler import Job, Results, Task
from launch.parallel.sweep_jobs import run_one
from launch.rewards.config import RewardConfig, RewardKind
from launch.rewards.locate import locate_reward, reward_path
from launch.schema import BenchJob, BoNJob, PPOJob, RMJob, StudyJob, reward_key
from launch.settings import Launch
from launch.studies.config import Part
from ppo.config import Algo, require_shares

JobT_co = TypeVar("JobT_co", bound=Launch, covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned(Generic[JobT_co]):
    """A job of a study whose configuration is known, the overrides that give it, and its work."""

    job: JobT_co
    overrides: tuple[str, ...]
    task: Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """The PPO runs of a study that name their reward, and the jobs that measure these rewards."""

    jobs: list[Job] = field(default_factory=list[Job])
    planned: list[PPOJob] = field(default_factory=list[PPOJob])


def constant(task: Task) -> Callable[[Results], Task]:
    """The task of a job that does not depend on others' results."""
    return lambda results: task


def models_of(study: StudyJob, folder: Path, common: Sequence[str]) -> dict[str, Planned[RMJob]]:
    """The reward models of a study by the key of their job, with sweeps expanded: those to train, or without that part those that are
    trained already. Raises `ValueError` if there are none."""
    lines = [as_typed(RMJob, split_line(text)) for text in study.reward_models]
    jobs = [job for line in lines for job in sweep(RMJob, [*common, f"seed={study.seed}", *line])]
    found = [_planned("rm", model, overrides, study.processes, partial(rm.run, model)) for overrides, model in jobs]
    planned = {_rm_key(number): one for number, one in enumerate(found, 1)}
    if Part.rm in study.parts:
        return planned
    models = _trained(folder, planned)
    on_others_alone = Part.ppo in study.parts and study.policies and not study.ppo
    if not models and (study.ppo or Part.bon in study.parts) and not on_others_alone:
        raise ValueError(
            f"parts={[str(part) for part in study.parts]} takes reward models that are trained already, and {folder} holds no finished "
            "one; add rm to the parts, or name the study that has them."
        )
    return models


def _trained(folder: Path, planned: Mapping[str, Planned[RMJob]]) -> dict[str, Planned[RMJob]]:
    """The finished reward models of a study: those of its lines under the keys that they are trained under, which policies may name, then
    others of the folder. Of several with the same settings, whose data has changed between them, the newest is that of the line."""
    records = [record for record in read_records(folder, "rm-*", print) if record["status"] == RunStatus.finished]
    records.sort(key=lambda record: str(record.get("finished", "")), reverse=True)
    lines = {key: _counting(one.job) for key, one in planned.items()}
    own: dict[str, Planned[RMJob]] = {}
    others: list[Planned[RMJob]] = []
    for record in (record for record in records if ".old-" not in record["dir"]):
        job = saved_job(Path(record["dir"]))
        assert isinstance(job, RMJob)
        one = Planned(job=job, overrides=(), task=partial(taken, record["dir"]))
        settings = _counting(job)
        if line := next((key for key, wanted in lines.items() if key not in own and wanted == settings), None):
            own[line] = one
        else:
            others.append(one)
    return {key: own[key] for key in planned if key in own} | {_rm_key(number): one for number, one in enumerate(others, len(planned) + 1)}


def _rm_key(number: int) -> str:
    return f"rm-{number:02d}"


def _counting(job: RMJob) -> dict[str, object]:
    """The settings of a job that can change its result, and where its inputs lie."""
    left_out = unhashed_keys(job)
    found = {key: setting.value for key, setting in settings_of(job).items()}
    return {key: value for key, value in found.items() if not any(key == other or key.startswith(f"{other}.") for other in left_out)}


def pools_of(study: StudyJob, folder: Path, common: Sequence[str], models: Sequence[RMJob]) -> Planned[BoNJob] | None:
    """The job that makes the pools; None where nothing reranks any."""
    if Part.bon not in study.parts and not (Part.rm in study.parts and any(model.hooks.pools for model in models)):
        return None
    overrides = (*common, *study.pools)
    found = composed(BoNJob, overrides)
    if not found.job.pools:
        overrides = (*overrides, f"pools={quoted(str(folder / 'pools'))}")
        found = composed(BoNJob, overrides)
    if found.job.rewards or found.job.scorers:
        raise ValueError("pools names rewards; the pools are given to the reward models of the study, so leave these out.")
    return _planned("bon", found, overrides, study.processes, partial(bon.run, found))


def rerank_job(pools: Planned[BoNJob], model: str, processes: int) -> Job:
    """The job that has the reward model of the job `model` choose from the pools."""

    def task(results: Results) -> Task:
        record = results[model]
        assert isinstance(record, dict)
        # Of a reward that was only benchmarked it is what that was called; of a run its folder.
        reward = record["dir"] if record["job"] == "rm" else record.get("reward")
        if not reward:
            raise BrokenFileError(f"{record['dir']}/{RECORD} lacks reward, what was benchmarked; remove that folder to benchmark it again.")
        return one_of("bon", (*pools.overrides, f"rewards=[{quoted(str(reward))}]"), processes)

    return Job(key=f"bon-{model}", task=task, after=(model, "pools"))


def policies_of(
    study: StudyJob, common: Sequence[str], models: Collection[str], pools: Planned[BoNJob] | None, makers: Callable[[str], tuple[str, ...]]
) -> Policies:
    """The PPO runs of `policies`, and for each reward model that they name, but those of the study's own jobs `models`, a job that
    benchmarks it and one that gives it the pools. `makers` has the jobs that make the model of this path, and what comes with it."""
    found = Policies()
    benched: dict[str, str] = {}
    for line in (as_typed(PPOJob, split_line(text)) for text in study.policies):
        for overrides, policy in sweep(PPOJob, [*common, f"seed={study.seed}", *line]):
            job = policy.job
            if missing := task_obstacle(job):
                raise ValueError(f"policies: {missing}")
            key = f"ppo-{clean_name(job.name) if job.name else f'{len(found.planned) + 1:02d}'}"
            found.planned.append(job)
            own: dict[str, str] = {}
            for name, term in job.terms.items():
                if term.kind != RewardKind.model:
                    continue
                if (place := _place(term)) in models:
                    own[f"{reward_key(name)}.path"] = place
                    continue
                _require_known(study, reward_key(name), term, models)
                benched.setdefault(place, f"bench-{clean_name(_name(place))}")
            after = (*makers(job.model.path), *own.values())
            task = _against(own, overrides, study.processes)
            found.jobs.append(Job(key=key, task=task, after=tuple(dict.fromkeys(after)), what=told_of(job), settings=job))
    measured = [job for place, key in benched.items() for job in _measured(study, place, key, pools, makers(""))]
    return replace(found, jobs=[*measured, *found.jobs])


def _require_known(study: StudyJob, key: str, reward: RewardConfig, models: Collection[str]) -> None:
    """Raises `ValueError` for a policy's reward model that is known only while the study runs, or looks like one of the study's."""
    if reward.among:
        raise ValueError(
            f"policies: {key}.among chooses when the run starts, and the study scores the reward models of policies before; name one by "
            f"{key}.path, or have the study choose among its own, as in ppo.NAME.reward.by=held_out."
        )
    if reward.path.startswith("rm-") and reward.path[3:].isdecimal() and not Path(reward.path).exists():
        remedies = [*(["choose one of these"] if models else []), *([] if Part.rm in study.parts else ["add rm to the parts"])]
        known = f"no reward model of the study, which has {_short_list(models)}"
        raise ValueError(f"policies: {key}.path={reward.path} is {known}; {', or '.join(remedies)}.")


def _short_list(models: Collection[str]) -> str:
    """The keys of all reward models: the first and the last of many."""
    keys = list(models)
    return f"{keys[0]} to {keys[-1]}, {len(keys)} in all" if len(keys) > 8 else ", ".join(keys) or "none"


def _against(own: Mapping[str, str], overrides: Sequence[str], processes: int) -> Callable[[Results], Task]:
    """The task of a PPO run, with its `own` settings that name jobs of the study filled in: the places of their reward models."""

    def task(results: Results) -> Task:
        places: dict[str, str] = {}
        for setting, model in own.items():
            record = results[model]
            assert isinstance(record, dict)
            places[setting] = str(record["dir"])
        return one_of("ppo", (*overrides, *(f"{setting}={quoted(place)}" for setting, place in places.items())), processes)

    return task


def _measured(study: StudyJob, place: str, key: str, pools: Planned[BoNJob] | None, before: Sequence[str]) -> list[Job]:
    """The jobs that benchmark a reward model which is not the study's, and give it the pools."""
    places = {"study": study.study, "runs_dir": study.runs_dir, "reward.path": place}
    overrides = (*study.bench, *(f"{name}={quoted(value)}" for name, value in places.items()))
    composed(BenchJob, overrides)
    jobs = [Job(key=key, task=constant(partial(benchmarked, overrides)), after=tuple(before), what=place)]
    return jobs if pools is None or Part.bon not in study.parts else [*jobs, rerank_job(pools, key, study.processes)]


def _name(place: str) -> str:
    """The end of a reward model's path, of a checkpoint with its run."""
    parts = place.replace("@", "-").split("/")
    return "-".join(parts[-3::2]) if parts[-2:-1] == ["checkpoints"] else parts[-1]


def _place(reward: RewardConfig) -> str:
    """A reward model's path, with its revision."""
    return f"{reward.path}@{reward.revision}" if reward.revision else reward.path


def told_of(job: Launch) -> str:
    """What a job is, in a few words."""
    match job:
        case RMJob():
            flipped = f", {job.data.flip:.0%} flipped" if job.data.flip else ""
            seed = f", seed {job.seed}" if job.seed else ""
            return f"{_short(job.model.path)} on {job.data.name}{flipped}, lr {job.optim.lr:g}, epochs {job.epochs:g}{seed}"
        case PPOJob():
            rewards = " and ".join(_short(_place(term)) or str(term.kind) for term in job.terms.values())
            return f"{_short(job.model.path)} by {rewards}, kl.beta {job.kl.beta:g}"
        case BoNJob():
            if job.takes_pools:
                return f"{job.pools}, taken as they are"
            return f"{job.pool.n} answers of {_short(job.model.path)} to {', '.join(job.tasks)}, in {job.pools}"
        case _:
            return ""


def _short(path: str) -> str:
    return path.rpartition("/")[2]


def require_engines(study: StudyJob, jobs: Sequence[Launch]) -> None:
    """Raises `ValueError` for an engine or batches that the number of processes does not do for: it would come to light when the job
    starts."""
    for job in jobs:
        if isinstance(job, PPOJob) and job.algo == Algo.ppo:
            require_shares(job, study.processes)
        if not isinstance(job, RMJob | PPOJob) or job.engine.kind == EngineKind.auto:
            continue
        if (job.engine.kind == EngineKind.single) != (study.processes == 1):
            remedy = "give processes=N, one for each GPU of a job" if study.processes == 1 else "leave it out, or choose fsdp2 or ddp"
            raise ValueError(f"engine={job.engine.kind} does not work with processes={study.processes} of the study; {remedy}.")


def check_all(jobs: Sequence[Launch]) -> None:
    """Looks at the inputs of jobs, once at those that several share. Raises `ValueError` as `check_inputs`, and for a missing reward."""
    seen: set[str] = set()
    for job in jobs:
        if (alike := read_alike(job)) not in seen:
            seen.add(alike)
            check_inputs(job)


def check_rewards(policies: Sequence[PPOJob], models: Collection[str]) -> None:
    """Raises `ValueError` for a reward of a PPO run that is not there; `models` are those of the study's own jobs."""
    for job in policies:
        for name, term in job.terms.items():
            if term.path in models:
                continue
            locate_reward(term, job.runs_dir, f"policies: the reward {name}", say=lambda line: None)


def one_of(name: str, overrides: Sequence[str], processes: int) -> Task:
    """The work of `rewardloop <name>` under `overrides`, which is composed when it starts."""
    return partial(in_processes, name, tuple(overrides), processes) if processes > 1 else partial(run_one, name, tuple(overrides))


def _planned(name: str, found: Composed[JobT_co], overrides: Sequence[str], processes: int, alone: Task) -> Planned[JobT_co]:
    """A composed job, which is the work `alone` where one process does it."""
    task = alone if processes == 1 else one_of(name, overrides, processes)
    return Planned(job=found.job, overrides=tuple(overrides), task=task)


# These run in processes of their own, which import them by name.


def in_processes(name: str, overrides: Sequence[str], processes: int, progress: Progress) -> Record:
    """Does a job in several processes, for which none is started where a reward model is finished already."""
    if name == "rm":
        job = composed(RMJob, overrides).job
        if (record := finished_record(job, rm.plan_of(job))) is not None:
            return record
    return run_in_processes(name, overrides, processes, progress)


def benchmarked(overrides: Sequence[str], progress: Progress) -> Record:
    """Scores a reward model and returns the record of the run, not what `rewardloop bench` prints of it.

    Of a run it is the last checkpoint, which policies are trained against, where `rewardloop bench` takes the best.
    """
    job = composed(BenchJob, overrides).job
    checkpoint = reward_path(job.reward.path, job.runs_dir)
    folder = bench.run(composed(BenchJob, (*overrides, f"reward.path={quoted(str(checkpoint))}")), progress)["dir"]
    return {**read_record(Path(folder)), "dir": folder}


def taken(folder: str, progress: Progress) -> Record:
    """The record of a run that is finished already."""
    return {**read_record(Path(folder)), "dir": folder}
