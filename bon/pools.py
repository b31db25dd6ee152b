"""Pools: n completions with their correctness for every prompt of a task, sampled once and stored; read here, made in `bon.draw`."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from bon.estimators import mean, oracle_of_n
from bon.jsonl import read_jsonl
from bon.rows import PoolRow, Pools
from bon.store import DRAWN, FORMAT, VERIFIED, parts_of, read_drawn, read_manifest, read_verdicts, remedy_of
from core.data.rows import numbered_lines
from core.disk import BrokenFileError, damage, is_complete
from core.records import Scorer

NUM_ROWS = "num_rows"
"""The key of an earlier version's manifest with the number of rows by task."""
MAX_NAMED = 10
"""Rows that a message names."""


def load_pools(folder: Path) -> Pools:
    """The pools stored in `folder`, those of earlier versions too.

    Raises `ValueError` if there are none, or if they are not what was stored.
    """
    if not is_complete(folder):
        raise ValueError(f"{folder} holds no complete pools; make them with `rewardloop bon pools={folder} ...`.")
    manifest = read_manifest(folder)
    require_unchanged(folder, manifest.get(NUM_ROWS, {}))
    read = _read_task if manifest.get("format") == FORMAT else read_jsonl
    return {task: read(folder, task) for task in sorted(manifest["tasks"])}


def _read_task(folder: Path, task: str) -> list[PoolRow]:
    remedy = remedy_of(folder)
    found: list[PoolRow] = []
    for file in parts_of(folder / DRAWN / task):
        rows = read_drawn(file, remedy)
        verdicts = read_verdicts(folder / VERIFIED / task / file.name, rows, remedy)
        found += [
            PoolRow(id=row.id, prompt=row.prompt, completions=row.completions, correct=own, finished=row.finished)
            for row, own in zip(rows, verdicts, strict=True)
        ]
    if not found:
        raise BrokenFileError(f"{folder / DRAWN / task} has no rows; {remedy}.")
    return found


def require_unchanged(folder: Path, num_rows: Mapping[str, int] = MappingProxyType({})) -> None:
    """Raises `BrokenFileError` for pools that were cut, filled up or altered, with the numbers of rows as far as they are known."""
    if (found := damage(folder)) is None:
        return
    for task, wanted in num_rows.items():
        file = folder / f"{task}.jsonl"
        rows = sum(1 for _ in numbered_lines(file)) if file.is_file() else 0
        if rows != wanted:
            found = f"{file.name} has {rows} rows instead of {wanted}"
            break
    raise BrokenFileError(f"the pools in {folder} have changed since they were drawn: {found}; {remedy_of(folder)}.")


def flat_scores(pools: Pools, scorer: Scorer) -> dict[str, list[list[float]]]:
    """The scores of all completions by task and prompt, in one pass of the scorer."""
    rows = list(chain.from_iterable(pools.values()))
    scores = iter(scorer.score([row.prompt for row in rows], [row.completions for row in rows]))
    return {task: [next(scores) for _ in own] for task, own in pools.items()}


def not_finite(pools: Pools, scores: Mapping[str, Sequence[Sequence[float]]]) -> list[str]:
    """A line for each task with prompts whose scores are not all finite."""
    told: list[str] = []
    for task, rows in scores.items():
        ids = [row.id for row, values in zip(pools[task], rows, strict=True) if not all(map(math.isfinite, values))]
        if not ids:
            continue
        named = ", ".join(ids[:MAX_NAMED]) + (f" and {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else "")
        verdict = (
            "which leaves no row to measure, so there is no bon/" if len(ids) == len(rows) else "and a NaN counts as a wrong pick in bon/"
        )
        told.append(f"best-of-n: {len(ids)} of {len(rows)} rows of {task} have scores that are NaN or infinite, {verdict}{task}: {named}")
    return told


def bounds(pools: Pools, n: int) -> dict[str, dict[str, float]]:
    """The accuracy of a random pick and of a perfect reward: `random` and `oracle`, by task and on average, where correctness is known."""
    known = {task: own for task, rows in pools.items() if (own := [row.correct for row in rows if row.correct])}
    random = {task: mean([mean(labels) for labels in own]) for task, own in known.items()}
    oracle = {task: mean([oracle_of_n(labels, n) for labels in own]) for task, own in known.items()}
    found = (("random", random), ("oracle", oracle))
    return {name: {**by_task, "average": mean(list(by_task.values()))} if by_task else {} for name, by_task in found}
