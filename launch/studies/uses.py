"""The uses of a study: runs of PPO and of best-of-N, whose reward models are chosen while the study runs.

Uses of equal settings that choose the same reward model share one run. Imports no torch.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from core.runs.identity import clean_name
from evalhooks.rewardbench import v1
from launch import bon
from launch.compose import composed
from launch.inputs import benchmark_rows
from launch.jobs.lifecycle import Record
from launch.obstacles import task_obstacle
from launch.overrides.grammar import quoted
from launch.parallel.scheduler import Job, Results, Same, Task
from launch.rewards.choice import By, choose, label_of, remedy_of
from launch.schema import BoNJob, PPOJob, RMJob, StudyJob
from launch.studies.config import Lineage, Part, RewardChoice, UsePlan
from launch.studies.parts import Planned, one_of
from launch.studies.superseded import supersede

RECIPES = "rm-for-"
"""Before the key of a use, the key of the job that trains its reward model by the recipe of another."""
Models: TypeAlias = Mapping[str, Planned[RMJob]]
"""The reward models of a study by the key of their job."""
_OF_THE_RECIPE = ("model.dtype", "model.quantize")
"""Settings of a model that are not the model's own."""

_CHOSEN = ("reward.path", "reward.among", "reward.by", "reward.seed", "rewards")
"""Settings of a use that its choice decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """A run that is planned but for its reward model: `key` is that of its job, `candidates` are those it chooses from.

    `setting` is where the user wrote it, `job` its configuration so far, and `seed` that of a draw.
    """

    key: str
    setting: str
    choice: RewardChoice
    candidates: tuple[str, ...]
    overrides: tuple[str, ...]
    job: PPOJob | BoNJob
    seed: int

    @property
    def trained_for(self) -> tuple[str, ...]:
        """The jobs whose results say which reward model it takes."""
        return (RECIPES + self.key,) if self.choice.recipe else self.candidates

    @property
    def by(self) -> str:
        """How it chooses, in words."""
        drawn = f" (seed {self.seed})" if self.choice.by == By.random else ""
        return f"by {label_of(self.choice.by)}{drawn}{', its recipe' if self.choice.recipe else ''}"

    def shares(self, other: "Use") -> bool:
        """Whether both would be one run if they chose the same reward model."""
        return type(self.job) is type(other.job) and replace(self.job, name="") == replace(other.job, name="")


def uses_of(study: StudyJob, common: Sequence[str], models: Models, pools: Planned[BoNJob] | None) -> list[Use]:
    """The uses of a study, PPO first, which takes longest. Raises `ValueError` for one that cannot run."""
    planned = [("ppo", name, plan) for name, plan in study.ppo.items() if Part.ppo in study.parts]
    planned += [("bon", name, plan) for name, plan in study.bon.items() if Part.bon in study.parts]
    found: list[Use] = []
    for kind, name, plan in planned:
        use = _use(study, kind, name, plan, pools.overrides if kind == "bon" and pools else common, models)
        if any(other.key == use.key for other in found):
            raise ValueError(f"{use.setting} differs from another run of {kind} only in how it is spelt; give it another name.")
        found.append(use)
    return found


def _use(study: StudyJob, kind: str, name: str, plan: UsePlan, common: Sequence[str], models: Models) -> Use:
    setting, named = f"{kind}.{name}", f"name={quoted(name)}"
    if own := [text for text in plan.overrides if text.lstrip("+").partition("=")[0] in _CHOSEN]:
        raise ValueError(f"{setting}.overrides holds {own[0]}, and the study chooses the reward model; say how under {setting}.reward.")
    if kind == "ppo":
        overrides = (*common, f"seed={study.seed}", named, *plan.overrides)
        job: PPOJob | BoNJob = composed(PPOJob, [*overrides, "reward.path=unknown-yet"]).job
    else:
        overrides = (*common, named, *plan.overrides)
        job = composed(BoNJob, overrides).job
    if missing := task_obstacle(job):
        raise ValueError(f"{setting}: {missing}")
    fits = tuple(key for key, line in models.items() if _could_be(plan.reward, line.job, job.model.path))
    if not fits:
        raise ValueError(f"{setting}.reward fits none of the study's reward models; change its lineage or control.")
    seed = study.seed if plan.reward.seed is None else plan.reward.seed
    key = f"{kind}-{clean_name(name)}"
    use = Use(key=key, setting=setting, choice=plan.reward, candidates=fits, overrides=overrides, job=job, seed=seed)
    if plan.reward.recipe and Part.rm not in study.parts:
        raise ValueError(f"{setting}.reward.recipe trains a reward model anew, and without rm among the parts none is.")
    _require_scores(use, {key: models[key].job for key in fits}, are_new=Part.rm in study.parts)
    return use


def _could_be(choice: RewardChoice, model: RMJob, policy: str) -> bool:
    """Whether a use chooses from this reward model among others."""
    same = model.model.path == policy
    fits = {Lineage.any: True, Lineage.same: same, Lineage.other: not same}[choice.lineage]
    return fits and choice.control == (model.data.flip > 0)


def _require_scores(use: Use, models: Mapping[str, RMJob], *, are_new: bool) -> None:
    """Raises `ValueError` where reward models do not have the score by which they are chosen, with the key to set. Of those that are
    trained already, which are taken as they are, some may lack it."""
    by = use.choice.by
    lack = [key for key, job in models.items() if not _measures(by, job)]
    if lack and (len(lack) == len(models) or (are_new and by != By.rewardbench2)):
        needs = f"{use.setting}.reward.by={by} needs {label_of(by)} of every reward model it chooses from, and {', '.join(lack)}"
        have, remedy = ("will have none", "") if are_new else ("have none", " and rm to the parts")
        raise ValueError(
            f"{needs} {have}; add {remedy_of(by)} to their lines in reward_models{remedy}, or leave them out by lineage or control."
        )


def check_scores(uses: Sequence[Use], models: Models) -> None:
    """Raises `ValueError` for benchmark rows that give no score to choose by; reads them."""
    for use in uses:
        if use.choice.by == By.rewardbench1:
            _require_sections(use, [models[key].job for key in use.candidates])


def _require_sections(use: Use, models: Sequence[RMJob]) -> None:
    for path, own in {job.hooks.rewardbench1: job.hooks for job in models if job.hooks.rewardbench1}.items():
        rows = {v1.canonical(row.subset) for row in benchmark_rows(replace(own, rewardbench2="")).rewardbench1}
        if empty := [section for section, subsets in v1.COUNTS.items() if not rows & subsets.keys()]:
            raise ValueError(
                f"{use.setting}.reward.by=rewardbench1 needs an overall score, and hooks.rewardbench1={path} has no rows of "
                f"{', '.join(empty)}; add some, or choose by something else."
            )


def _measures(by: By, job: RMJob) -> bool:
    """Whether a reward model will have the score by which it may be chosen."""
    match by:
        case By.rewardbench2:
            return bool(job.hooks.rewardbench2)
        case By.rewardbench1:
            return bool(job.hooks.rewardbench1)
        case By.held_out:
            return job.data.held_out > 0 or bool(job.data.validation)
        case By.random:
            return True


def use_jobs(uses: Sequence[Use], models: Models, folder: Path, processes: int, makers: Callable[[str], tuple[str, ...]]) -> list[Job]:
    """The jobs of the uses of a study in `folder`, and of the reward models that are trained for them.

    `makers` has the jobs that make the model of this path, and what comes with it; `pools` is the job of the pools.
    """
    jobs: list[Job] = []
    for place, use in enumerate(uses):
        made = makers(use.job.model.path)
        if use.choice.recipe:
            others = [other for other in uses[:place] if other.choice.recipe]
            pools = ("pools",) if any(models[key].job.hooks.pools for key in use.candidates) else ()
            task = partial(_recipe_task, use, others, models, processes)
            candidates = _of_all(*(one.candidates for one in (*others, use)))
            jobs.append(Job(key=RECIPES + use.key, task=task, after=(*made, *pools), any_of=candidates))
        # Only those that may choose the same reward model are waited for.
        rivals = [other for other in uses[:place] if use.shares(other) and _may_agree(use, other)]
        after = ("pools",) if isinstance(use.job, BoNJob) else made
        task = partial(_use_task, use, rivals, folder, processes)
        jobs.append(Job(key=use.key, task=task, after=after, any_of=_of_all(*(one.trained_for for one in (*rivals, use)))))
    return jobs


def _of_all(*keys: Sequence[str]) -> tuple[str, ...]:
    """The keys of several lists, each once."""
    return tuple(dict.fromkeys(key for own in keys for key in own))


def _may_agree(use: Use, other: Use) -> bool:
    return use.choice.recipe or other.choice.recipe or bool(set(use.candidates) & set(other.candidates))


def _use_task(use: Use, rivals: Sequence[Use], folder: Path, processes: int, results: Results) -> Task | Same:
    taken = chosen(use, results, say=_say)
    for other in rivals:
        if _chosen_id(other, results) == taken["id"]:
            if isinstance(use.job, PPOJob):
                supersede(folder, clean_name(use.job.name), taken["id"])
            _say(f"{use.setting}: {taken['dir']}, {use.by}, as {other.setting}, whose run it shares")
            return Same(key=other.key)
    _say(f"{use.setting}: {taken['dir']}, {use.by}")
    if isinstance(use.job, BoNJob):
        return one_of("bon", (*use.overrides, f"rewards=[{quoted(taken['dir'])}]"), processes)
    overrides = (*use.overrides, f"reward.path={quoted(taken['dir'])}")
    supersede(folder, clean_name(use.job.name), taken["id"])
    return one_of("ppo", overrides, processes)


def chosen(use: Use, results: Results, say: Callable[[str], None] = lambda line: None) -> Record:
    """The record of the reward model that a use takes. Raises `ValueError` if none of those it chooses from has a score."""
    if use.choice.recipe:
        [trained] = _records(use.trained_for, results) or [None]
        if trained is None:
            raise ValueError(f"not run because {RECIPES}{use.key} failed")
        return trained
    return _picked(use, results, say)


def _picked(use: Use, results: Results, say: Callable[[str], None]) -> Record:
    if not (records := _records(use.candidates, results)):
        raise ValueError(f"not run because all of {', '.join(use.candidates)} failed")
    return choose(records, use.choice.by, pick=use.choice.pick, seed=use.seed, say=say)


def _chosen_id(use: Use, results: Results) -> str | None:
    """What a use takes; None where it takes nothing, and fails for it."""
    try:
        return str(chosen(use, results)["id"])
    except ValueError:
        return None


def _records(keys: Sequence[str], results: Results) -> list[dict[str, Any]]:
    return [record for key in keys if isinstance(record := results.get(key), dict)]


def _recipe_task(use: Use, others: Sequence[Use], models: Models, processes: int, results: Results) -> Task | Same:
    overrides = _retrained(use, models, results, _say)
    job = composed(RMJob, overrides).job
    if planned := next((key for key, line in models.items() if line.job == job), None):
        return Same(key=planned)
    for other in others:
        try:
            theirs = _retrained(other, models, results, lambda line: None)
        except ValueError:
            continue
        if composed(RMJob, theirs).job == job:
            return Same(key=RECIPES + other.key)
    return one_of("rm", overrides, processes)


def _retrained(use: Use, models: Models, results: Results, say: Callable[[str], None]) -> tuple[str, ...]:
    """The overrides that train the picked reward model's recipe from the policy's own model."""
    taken = _picked(use, results, say)["id"]
    won = next(key for key in use.candidates if isinstance(record := results[key], dict) and record["id"] == taken)
    return (
        *(text for text in models[won].overrides if not _is_of_the_model(text)),
        *(text for text in use.overrides if _is_of_the_model(text)),
    )


def _is_of_the_model(override: str) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    return key.partition(".")[0] in ("model", "embedded_model", "preset") and key not in _OF_THE_RECIPE


def notes(uses: Sequence[Use], results: Results) -> Iterator[str]:
    """What a study's report says of its uses: which share a run, and how best-of-N went, which has a folder of its own."""
    runs: dict[str, Use] = {}
    for use in uses:
        if not isinstance(record := results.get(use.key), dict):
            continue
        if first := runs.get(record["dir"]):
            yield f"{use.setting} takes {use.by} the same reward model as {first.setting}, and shares its run."
            continue
        runs[record["dir"]] = use
        if isinstance(use.job, BoNJob):
            result = bon.result_of(record)
            size = f"bon/average@{result.n}"
            known = {name: found[size] for name, found in result.rewards.items() if size in found}
            shown = [f"{name}, best of {result.n}: {100 * value:.1f}" for name, value in known.items()]
            yield f"{use.setting}, {use.by}: {'; '.join(shown)} ({record['dir']})."


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
