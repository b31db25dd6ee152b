"""The inputs of a job, read before its work starts, or a study's first: what is broken must not be found out after an hour."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bon.given import read_given
from bon.pools import load_pools
from bon.rows import Pools
from core.data.rows import read_rows
from core.disk import is_complete
from core.models.locate import resolve
from core.records import BenchmarkRow, Prompt
from core.runs.samples import text_of
from evalhooks.config import HooksConfig
from evalhooks.judges.config import require_usable
from evalhooks.rewardbench.rows import load_rewardbench1, load_rewardbench2
from evalhooks.tasks.task import Task, load_drawn_tasks, load_tasks
from launch.entry import print_on_main
from launch.rewards.config import RewardKind
from launch.rewards.locate import LocatedReward, locate_terms
from launch.schema import BenchJob, Benchmark, BoNJob, PPOJob, RMJob
from launch.settings import Launch
from ppo.prompts import read_prompts
from rmtrain.config import SourceConfig
from rmtrain.data import PreferenceData, load_preferences
from rmtrain.rows import read_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRows:
    """The rows that the hooks score, empty where a benchmark is left out.

    >>> BenchmarkRows(rewardbench2=[], rewardbench1=[]).prompts()
    {}
    """

    rewardbench2: list[BenchmarkRow]
    rewardbench1: list[BenchmarkRow]

    def prompts(self) -> dict[str, list[str]]:
        """Their prompts, by benchmark."""
        found = {"rewardbench2": [row.prompt for row in self.rewardbench2], "rewardbench1": [row.prompt for row in self.rewardbench1]}
        return {name: prompts for name, prompts in found.items() if prompts}


@dataclass(frozen=True, kw_only=True, slots=True)
class RMInputs:
    """What the training of a reward model reads."""

    benchmarks: BenchmarkRows
    preferences: PreferenceData


@dataclass(frozen=True, kw_only=True, slots=True)
class PPOInputs:
    """What the training of a policy reads, with its rewards found and not yet loaded."""

    prompts: Sequence[Prompt]
    rewards: Mapping[str, LocatedReward]
    tasks: Mapping[str, Task]
    rewardbench2: Sequence[BenchmarkRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchInputs:
    """What scoring a benchmark reads; the reward is found and not yet loaded."""

    rows: Sequence[BenchmarkRow]
    reward: LocatedReward
    prior_sets: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoNInputs:
    """What best-of-N reads: the tasks, or the pools that are taken as they are; the rewards by name, not yet loaded; and the identity of
    the pools."""

    tasks: Mapping[str, Task]
    given: Pools
    rewards: Mapping[str, LocatedReward]
    identity: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoNResult:
    """The folder of the pools, completions per prompt, what chance and a perfect reward give, and each reward's accuracies by name of the
    reward: `bon/<task>@<n>`. `run` is the folder of the run.

    >>> BoNResult(dir="runs/demo/pools", run="", n=16, bounds={}, rewards={"rm-a": {"bon/average@16": 0.5}}).n
    16
    """

    dir: str
    run: str
    n: int
    bounds: Mapping[str, Mapping[str, float]]
    rewards: Mapping[str, Mapping[str, float]]


def rm_inputs(job: RMJob, say: Callable[[str], None] = print) -> RMInputs:
    """Raises `ValueError` for a file that cannot be read, with the broken rows, and for a model that is not there. Loads no model."""
    benchmarks = benchmark_rows(job.hooks)
    if job.hooks.pools and not is_complete(Path(job.hooks.pools)):
        raise ValueError(
            f"hooks.pools={job.hooks.pools} holds no complete pools; make them with `rewardloop bon pools={job.hooks.pools} ...`, name "
            "others, or leave them out (hooks.pools='')."
        )
    preferences = preferences_of(job, benchmarks, say=say)
    resolve(job.model)
    return RMInputs(benchmarks=benchmarks, preferences=preferences)


def ppo_inputs(job: PPOJob) -> PPOInputs:
    """Raises `ValueError` for a file that cannot be read, and for a model or program that is not there. Loads no model."""
    prompts = read_prompts(job.prompts)
    resolve(job.model)
    for term in job.terms.values():
        if term.kind == RewardKind.judge:
            require_usable(term.judge)
    rewards = locate_terms(job, prompts, print_on_main)
    tasks = load_tasks(job.tasks)
    return PPOInputs(prompts=prompts, rewards=rewards, tasks=tasks, rewardbench2=benchmark_rows(job.hooks).rewardbench2)


def benchmark_rows(hooks: HooksConfig) -> BenchmarkRows:
    """Raises `ValueError` for a file that cannot be read."""
    return BenchmarkRows(
        rewardbench2=load_rewardbench2(hooks.rewardbench2, limit=hooks.limit) if hooks.rewardbench2 else [],
        rewardbench1=load_rewardbench1(hooks.rewardbench1, limit=hooks.limit) if hooks.rewardbench1 else [],
    )


def bench_rows(job: BenchJob) -> list[BenchmarkRow]:
    """The rows that `rewardloop bench` scores; raises `ValueError` for a file that cannot be read."""
    if job.benchmark == Benchmark.pairs:
        return _pair_rows(job)
    _require_no_pairs(job)
    load = load_rewardbench1 if job.benchmark == Benchmark.rewardbench1 else load_rewardbench2
    return load(job.source, limit=job.limit, seed=job.seed)


def _require_no_pairs(job: BenchJob) -> None:
    """Raises `ValueError` for a file of plain preference pairs where a benchmark's rows are wanted."""
    if not Path(job.rows).expanduser().is_file() or job.rows.endswith(".parquet"):
        return
    try:
        first = next((row for _, row in read_rows(Path(job.rows).expanduser())), None)
    except ValueError:
        return  # whoever reads all rows says what is wrong
    if isinstance(first, dict) and "subset" not in first and all(isinstance(first.get(key), str) for key in ("chosen", "rejected")):
        raise ValueError(f"rows={job.rows} holds preference pairs rather than rows of {job.benchmark}; add benchmark=pairs.")


def _pair_rows(job: BenchJob) -> list[BenchmarkRow]:
    """Preference pairs as rows of two completions, with their source as subset; of these the share `limit`, drawn by the seed."""
    pairs = read_pairs(SourceConfig(path=job.rows), "pairs", key="rows", say=print).pairs
    drawn = sorted(random.Random(f"limit {job.seed}").sample(range(len(pairs)), max(1, round(job.limit * len(pairs)))))
    return [
        BenchmarkRow(
            id=str(place),
            prompt=pair.prompt[-1].content,
            completions=(text_of(pair.chosen), text_of(pair.rejected)),
            num_correct=1,
            subset=pair.source,
            turns=pair.prompt,
            where=pair.where,
        )
        for place, pair in ((place, pairs[place]) for place in drawn)
    ]


def preferences_of(job: RMJob, benchmarks: BenchmarkRows, say: Callable[[str], None] = print) -> PreferenceData:
    """The job's pairs; raises `ValueError` that lists broken rows."""
    return load_preferences(job.data, seed=job.seed, benchmark_prompts=benchmarks.prompts(), say=say)


def read_pools(place: str) -> Pools:
    """Pools that were drawn into a folder, or those of others' files. Raises `ValueError` if they are not there or cannot be read."""
    path = Path(place).expanduser()
    if not path.exists():
        raise ValueError(f"pools={place} does not exist; name a file of prompts and completions, or a folder of parquet files.")
    return load_pools(path) if is_complete(path) else read_given(place)


def read_alike(job: Launch) -> str:
    """A mark that jobs share of which `check_inputs` reads the same."""
    own: object = None
    match job:
        case RMJob():
            own = replace(job.data, flip=0.0)
        case PPOJob():
            own = job.prompts
        case BoNJob():
            own = job.pools
        case _:
            pass
    model = job.model if isinstance(job, RMJob | PPOJob | BoNJob) else None
    return repr((type(job).__name__, own, model, job.hooks.rewardbench2, job.hooks.rewardbench1, job.hooks.limit, job.tasks))


def check_inputs(job: Launch) -> None:
    """Raises `ValueError` for a file of the job that cannot be read, or a model that is not there. Loads no model."""
    if isinstance(job, BoNJob) and job.takes_pools:
        read_pools(job.pools)
        return
    benchmarks = benchmark_rows(job.hooks)
    if isinstance(job, RMJob):
        preferences_of(job, benchmarks, say=lambda _: None)
    if isinstance(job, PPOJob):
        read_prompts(job.prompts)
    if isinstance(job, (RMJob, PPOJob, BoNJob)):
        resolve(job.model)
    if isinstance(job, BoNJob):
        load_drawn_tasks(job.tasks)
    else:
        load_tasks(job.tasks)
