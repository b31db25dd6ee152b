"""Warnings of what a run measures on too few rows to tell small differences."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bon.rows import Pools
from core.records import BenchmarkRow
from core.runs.warnings import RunWarning, few_rows
from evalhooks.config import HooksConfig, TaskConfig
from evalhooks.rewardbench import v1, v2
from evalhooks.tasks.task import Task

PAIRS = "a set of pairs"
"""What plain preference pairs are called, whose accuracy is over all of them."""


def of_benchmark(rows: Sequence[BenchmarkRow], name: str, *, limit: float, keys: tuple[str, str]) -> RunWarning | None:
    """Of a benchmark of which a share `limit` is scored; `keys` are those of the share and of the rows."""
    parts = {"RewardBench 1": _section, PAIRS: lambda subset: "all"}.get(name, v2.canonical)
    sizes = Counter(parts(row.subset) for row in rows)
    key = keys[limit == 1]
    remedy = f"raise {key}={limit:g}" if limit < 1 else f"give more rows by {key}"
    return few_rows(sizes, what=name, key=key, remedy=remedy, no_accuracy=[v2.TIES])


def of_hooks(hooks: HooksConfig, rows2: Sequence[BenchmarkRow], rows1: Sequence[BenchmarkRow]) -> Iterator[RunWarning | None]:
    """Of the benchmarks at the checkpoints."""
    yield of_benchmark(rows2, "RewardBench 2", limit=hooks.limit, keys=("hooks.limit", "hooks.rewardbench2"))
    yield of_benchmark(rows1, "RewardBench 1", limit=hooks.limit, keys=("hooks.limit", "hooks.rewardbench1"))


def of_pools(pools: Pools) -> RunWarning | None:
    """Of pools that reward models rerank."""
    sizes = {task: len(rows) for task, rows in pools.items()}
    return few_rows(sizes, what="best-of-N", key="hooks.pools", remedy="draw larger pools (pool.limit of `rewardloop bon`)")


def of_tasks(tasks: Mapping[str, Task], configs: Mapping[str, TaskConfig]) -> RunWarning | None:
    """Of the downstream tasks of a policy."""
    sizes = {name: len(task.prompts) for name, task in tasks.items()}
    smallest = min(sizes, key=lambda name: sizes[name], default=None)
    if smallest is None:
        return None
    limited = configs[smallest].limit is not None
    key = f"tasks.{smallest}.{'limit' if limited else 'path'}"
    return few_rows(
        sizes, what="a task", key=key, remedy=f"raise {key}={configs[smallest].limit}" if limited else f"give more rows by {key}"
    )


def _section(subset: str) -> str:
    """The section of RewardBench 1 that a subset counts towards."""
    name = v1.canonical(subset)
    return next((section for section, subsets in v1.COUNTS.items() if name in subsets), name)
