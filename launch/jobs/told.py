"""What runs tell of the texts that they have read: which prompts benchmark and tasks share, and whose completions reward models prefer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bon.pools import load_pools
from bon.rows import Pools
from core.data.fingerprint import fingerprint
from core.records import Dialogue
from core.runs.identity import clean_name
from core.runs.record import value_at
from evalhooks.analysis.overlap import overlap
from evalhooks.analysis.self_preference import Judgement, self_preference
from evalhooks.report.joined import reward_models_of
from evalhooks.rewardbench.rows import load_rewardbench2
from evalhooks.tasks.task import load_tasks
from launch.history.saved_config import saved_job
from launch.inputs import read_pools
from launch.jobs.bon_result import SCORES, read_scores
from launch.schema import AnyJob, BenchJob, Benchmark, PPOJob, RMJob

Record = Mapping[str, Any]
Told = tuple[dict[str, Any], list[str]]
"""Findings to add to those of the reward models, and what could not be found and why."""


def told_by(records: Sequence[Record]) -> Told:
    """`self_preference` and `overlap` as far as the runs know the texts, which must lie where they lay then, unchanged."""
    pools, notes = _pools(records)
    found: dict[str, Any] = {}
    if judged := _judged(records, pools, notes):
        try:
            found["self_preference"] = self_preference(judged)
        except ValueError as error:
            notes.append(f"No self-preference: {error}")
    jobs = list(_jobs(records, notes))
    benchmarks, tasks = _benchmarks(jobs, notes), _tasks(jobs, pools, notes)
    if benchmarks and tasks:
        found["overlap"] = overlap(benchmarks, tasks)
    return found, list(dict.fromkeys(notes))


def _pools(records: Sequence[Record]) -> tuple[dict[str, Pools], list[str]]:
    """All pools that runs have read, by their place."""
    found: dict[str, Pools] = {}
    notes: list[str] = []
    for place in dict.fromkeys(str(record["pools"]) for record in records if record["job"] == "bon" and record.get("pools")):
        try:
            found[place] = read_pools(place)
        except (ValueError, OSError) as error:
            notes.append(f"The pools {place} could not be read, so nothing is told of their texts: {error}")
    return found, notes


def _judged(records: Sequence[Record], pools: Mapping[str, Pools], notes: list[str]) -> list[Judgement]:
    """The scores of reward models for the completions of several models, of the pools that most reward models have scored."""
    by_pools: dict[str, dict[str, list[Judgement]]] = {}
    marks: dict[str, str] = {}
    for record in (record for record in records if record["job"] == "bon" and str(record.get("pools")) in pools):
        place = str(record["pools"])
        if len({model for rows in pools[place].values() for row in rows for model in row.models}) < 2:
            continue
        for name, model in reward_models_of(record).items():
            mark = value_at(record, "identity.pools.given")
            if mark is not None and place not in marks:
                marks[place] = fingerprint(place)
            is_same = mark is None or mark == marks[place]
            file = Path(record["dir"]) / SCORES / f"{clean_name(name)}.parquet"
            scores = read_scores(file, pools[place]) if is_same else None
            if scores is None:
                notes.append(f"Self-preference lacks {name} on {place}: its scores are gone, or the pools have changed.")
                continue
            by_pools.setdefault(place, {}).setdefault(model["run"], list(_judgements(model, pools[place], scores)))
    chosen = max(by_pools, key=lambda place: len(by_pools[place]), default=None)
    notes += [f"Self-preference is that on {chosen}; {place} was scored by other reward models." for place in by_pools if place != chosen]
    return [] if chosen is None else [judgement for own in by_pools[chosen].values() for judgement in own]


def _judgements(model: Mapping[str, str], pools: Pools, scores: Mapping[str, Sequence[Sequence[float]]]) -> Iterator[Judgement]:
    """One for each prompt and each model that answered it: the mean score of its completions. Scores that are not finite give none."""
    for task, rows in pools.items():
        for row, own in zip(rows, scores[task], strict=True):
            for writer in dict.fromkeys(row.models):
                score = fmean(score for score, name in zip(own, row.models, strict=True) if name == writer)
                if abs(score) < float("inf"):
                    yield Judgement(
                        prompt=f"{task}/{row.id}", model=writer, rm=model["run"], base=model["base"], data=model["data"], score=score
                    )


def _jobs(records: Sequence[Record], notes: list[str]) -> Iterator[tuple[Record, AnyJob]]:
    """The settings of runs that read a benchmark or tasks, of those that read the same only one's."""
    seen: set[str] = set()
    for record in (record for record in records if record["job"] in ("rm", "ppo", "bench")):
        identity = record["identity"]
        known = identity.get("inputs") or {}
        inputs = {key: mark for key, mark in known.items() if key == "rows" or key.startswith(("hooks.", "tasks."))}
        read = repr((record["job"], inputs, identity.get("tasks")))
        if read in seen:
            continue
        seen.add(read)
        try:
            yield record, saved_job(Path(record["dir"]))
        except ValueError as error:
            notes.append(f"The settings of {record['dir']} could not be read, so nothing is told of its prompts: {error}")


def _benchmarks(jobs: Sequence[tuple[Record, AnyJob]], notes: list[str]) -> dict[str, list[Dialogue]]:
    """The prompts of RewardBench 2 that the runs have scored, by the place of its rows."""
    found: dict[str, list[Dialogue]] = {}
    for place, mark in dict.fromkeys(_sources(jobs)):
        if place in found:
            continue
        try:
            if fingerprint(place) != mark:
                notes.append(f"The rows of {place} have changed since runs scored them, so its prompts are not compared with the tasks'.")
                continue
            found[place] = [row.dialogue for row in load_rewardbench2(place)]
        except (ValueError, OSError) as error:
            notes.append(f"The prompts of {place} could not be read, so they are not compared with the tasks': {error}")
    return found


def _sources(jobs: Sequence[tuple[Record, AnyJob]]) -> Iterator[tuple[str, str]]:
    """Where the rows of RewardBench 2 lay, and the hash of their content."""
    for record, job in jobs:
        inputs = record["identity"].get("inputs") or {}
        if isinstance(job, RMJob) and job.hooks.rewardbench2:
            yield job.hooks.rewardbench2, str(inputs.get("hooks.rewardbench2"))
        elif isinstance(job, BenchJob) and job.benchmark == Benchmark.rewardbench2 and not job.from_scores:
            yield job.source, str(inputs.get("rows"))


def _tasks(jobs: Sequence[tuple[Record, AnyJob]], pools: Mapping[str, Pools], notes: list[str]) -> dict[str, list[Dialogue]]:
    """The prompts of the tasks by name: those of pools, and those that policies were measured on."""
    found = {task: [row.prompt for row in rows] for own in pools.values() for task, rows in own.items()}
    known = set(pools)
    for record, job in jobs:
        if isinstance(job, RMJob) and job.hooks.pools and job.hooks.pools not in known:
            known.add(job.hooks.pools)
            try:
                found = {task: [row.prompt for row in rows] for task, rows in load_pools(Path(job.hooks.pools)).items()} | found
            except (ValueError, OSError) as error:
                notes.append(f"The pools {job.hooks.pools} could not be read, so nothing is told of their texts: {error}")
        if isinstance(job, PPOJob) and (mark := repr(job.tasks)) not in known:
            known.add(mark)
            try:
                for name, task in load_tasks({name: task for name, task in job.tasks.items() if name not in found}).items():
                    found[name] = [prompt.dialogue for prompt in task.prompts]
            except (ValueError, OSError) as error:
                notes.append(f"The tasks of {record['dir']} could not be read, so their prompts are not compared: {error}")
    return found
