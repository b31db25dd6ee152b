"""What a reward model picks from pools: best-of-n, prompt by prompt and on average."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bon.estimators import best_of_n, mean
from bon.pools import flat_scores, not_finite
from bon.rows import Pools
from core.disk import writing
from core.records import Scorer

_TABLE = pa.schema({"task": pa.string(), "id": pa.string(), "n": pa.int64(), "correct": pa.float64()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """How often a reward model's pick among n completions of a prompt is correct, from 0 to 1.

    >>> Pick(task="sums", id="3", n=16, correct=1.0).n
    16
    """

    task: str
    id: str
    n: int
    correct: float


def rerank(pools: Pools, scorer: Scorer, best_of: Sequence[int], say: Callable[[str], None] = print) -> dict[str, float]:
    """The `accuracies` of the `picks` from pools."""
    return accuracies(picks(pools, flat_scores(pools, scorer), best_of, say))


def picks(
    pools: Pools, scores: Mapping[str, Sequence[Sequence[float]]], best_of: Sequence[int], say: Callable[[str], None] = print
) -> dict[str, list[Pick]]:
    """What these `scores`, by task and prompt, pick of every prompt with correctness; none of a task without a row of finite scores.

    A row with a NaN counts as a wrong pick, and `say` is told of the rows with scores that are not finite. Tasks of prompts without
    correctness are left out.
    """
    for line in not_finite(pools, scores):
        say(line)
    known = {task: own for task in pools if (own := [pair for pair in zip(scores[task], pools[task], strict=True) if pair[1].correct])}
    return {
        task: [Pick(task=task, id=row.id, n=n, correct=_picked(values, row.correct, n)) for n in best_of for values, row in own]
        if any(all(map(math.isfinite, values)) for values, _ in own)
        else []
        for task, own in known.items()
    }


def accuracies(found: Mapping[str, Sequence[Pick]]) -> dict[str, float]:
    """`bon/<task>@<n>` for every task and n, and `bon/average@<n>` where every task has picks: the mean of the picks, from 0 to 1."""
    metrics: dict[str, float] = {}
    for n in dict.fromkeys(pick.n for own in found.values() for pick in own):
        means = {task: mean([pick.correct for pick in own if pick.n == n]) for task, own in found.items() if own}
        metrics |= {f"bon/{task}@{n}": value for task, value in means.items()}
        if len(means) == len(found):
            metrics[f"bon/average@{n}"] = mean(list(means.values()))
    return metrics


def write_picks(path: Path, found: Mapping[str, Sequence[Pick]]) -> None:
    """Writes picks as parquet: task, id, n, correct."""
    table = pa.Table.from_pylist([asdict(pick) for own in found.values() for pick in own], schema=_TABLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with writing(path):
        pq.write_table(table, temporary)
        temporary.rename(path)


def read_picks(path: Path) -> dict[str, list[Pick]]:
    """The picks that `write_picks` wrote, by task."""
    found: dict[str, list[Pick]] = {}
    for row in pq.read_table(path, schema=_TABLE).to_pylist():
        found.setdefault(row["task"], []).append(Pick(**row))
    return found


def _picked(scores: Sequence[float], correct: Sequence[float], n: int) -> float:
    """`best_of_n`, and 0 if a score is NaN: such a reward model picks nothing."""
    return 0.0 if any(map(math.isnan, scores)) else best_of_n(scores, correct, n)
