"""The inputs of a job, read before its work starts, or a study's first: what is broken must not be found out after an hour."""

from collections.abc import Callable
from dataclasses import dataclass

from core.models.locate import resolve
from core.records import BenchmarkRow
from evalhooks.config import HooksConfig
from evalhooks.rewardbench.rows import load_rewardbench1, load_rewardbench2
from evalhooks.tasks.task import load_tasks
from launch.schema import BoNJob, Launch, PPOJob, RMJob
from ppo.prompts import read_prompts
from rmtrain.data import PreferenceData, load_preferences


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


def benchmark_rows(hooks: HooksConfig) -> BenchmarkRows:
    """Raises `ValueError` for a file that cannot be read."""
    return BenchmarkRows(
        rewardbench2=load_rewardbench2(hooks.rewardbench2, limit=hooks.limit) if hooks.rewardbench2 else [],
        rewardbench1=load_rewardbench1(hooks.rewardbench1, limit=hooks.limit) if hooks.rewardbench1 else [],
    )


def preferences_of(job: RMJob, benchmarks: BenchmarkRows, say: Callable[[str], None] = print) -> PreferenceData:
    """The job's pairs; raises `ValueError` that lists broken rows."""
    return load_preferences(job.data, seed=job.seed, benchmark_prompts=benchmarks.prompts(), say=say)


def check_inputs(job: Launch) -> None:
    """Raises `ValueError` for a file of the job that cannot be read, or a model that is not there. Loads no model."""
    benchmarks = benchmark_rows(job.hooks)
    if isinstance(job, RMJob):
        preferences_of(job, benchmarks, say=lambda _: None)
    if isinstance(job, PPOJob):
        read_prompts(job.prompts)
    if isinstance(job, (RMJob, PPOJob, BoNJob)):
        resolve(job.model)
    load_tasks(job.tasks)
