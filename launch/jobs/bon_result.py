"""The result of best-of-N: measured from scores, and written as JSON, CSV and picks. Imports no torch."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bon.bias import Bias, Panel
from bon.ensembles import ensembles
from bon.estimators import kl_of_best_of_n
from bon.rows import PoolRow, Pools
from bon.selection import Curve, Estimate, Selection, average, score_curve, select
from core.disk import atomic_file, jsonable
from core.runs.samples import turns

RESULT, TABLE, PICKS, CURVES, MATRIX, SCORES = "result.json", "bon.csv", "picks.jsonl", "bon.png", "tasks.png", "scores"
BIASES, PANEL = "bias.csv", "bias.png"
"""The files in the folder of a run, and the folder of the scores."""
RANDOM, ORACLE, MAJORITY, AVERAGE = "random", "oracle", "majority", "average"
RESERVED = (RANDOM, ORACLE, MAJORITY)
"""Names that no reward can have."""

Scores = Mapping[str, Sequence[Sequence[float]]]
"""A reward's scores by task and prompt."""

_COLUMNS: tuple[str, ...] = (
    "task", "reward", "n", "kl", "accuracy", "accuracy_se", "vote", "vote_se", "score", "score_se", "regret",
    "auc", "auc_se", "variance", "gamma", "gamma_se", "prompts",
)  # fmt: skip


def with_ensembles(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """The rewards' scores, and those of their ensembles, which are standardised task by task."""
    tasks = list(next(iter(scores.values()), {}))
    found: dict[str, dict[str, Sequence[Sequence[float]]]] = {name: dict(own) for name, own in scores.items()}
    for task in tasks:
        for name, own in ensembles({reward: by_task[task] for reward, by_task in scores.items()}).items():
            found.setdefault(name, {})[task] = own
    return {**found}


def measured(pools: Pools, scores: Mapping[str, Scores], answer_of: Callable[[str], str]) -> dict[str, Selection]:
    """What is measured of every task, on its prompts with known correctness; tasks without any are left out."""
    found: dict[str, Selection] = {}
    for task, rows in pools.items():
        known = [place for place, row in enumerate(rows) if row.correct]
        if known:
            own = {name: [by_task[task][place] for place in known] for name, by_task in scores.items()}
            found[task] = select([rows[place] for place in known], own, answer_of)
    return found


def curves_of(selection: Selection) -> dict[str, Curve]:
    """The accuracy for every n of chance, of a perfect reward, of a vote and of every reward, by name."""
    return {
        RANDOM: (selection.random,) * selection.n,
        ORACLE: selection.oracle,
        MAJORITY: selection.majority,
        **{name: signal.accuracy for name, signal in selection.signals.items()},
    }


def averages(tasks: Mapping[str, Selection]) -> dict[str, Curve]:
    """The mean over tasks of the same curves, as far as the smallest pool goes."""
    size = min(found.n for found in tasks.values())
    by_task = [curves_of(found) for found in tasks.values()]
    return {name: tuple(average([own[name][n] for own in by_task]) for n in range(size)) for name in by_task[0]}


def metrics_of(tasks: Mapping[str, Selection], sizes: Sequence[int]) -> dict[str, float]:
    """`bon/<reward>/<task>@<n>` for every reward and each of `sizes`, `random`, `oracle` and `majority` among them, their standard errors
    as `bon_se/...`, and of each reward `auc`, `gamma` and `variance` by task. `bon/headroom/<task>` is what a perfect reward
    would add to a random pick from the whole pool, `bon/average` the average of the best reward at the largest n."""
    if not tasks:
        return {}
    metrics = {f"bon/headroom/{task}": found.headroom for task, found in tasks.items()}
    lacking, together = unmeasured(tasks), averages(tasks)
    for task, curves in [*((task, curves_of(found)) for task, found in tasks.items()), (AVERAGE, together)]:
        for name, curve in ((name, curve) for name, curve in curves.items() if name not in lacking[task]):
            for n in (size for size in sizes if size <= len(curve)):
                metrics[f"bon/{name}/{task}@{n}"] = curve[n - 1].value
                if (error := curve[n - 1].error) is not None:
                    metrics[f"bon_se/{name}/{task}@{n}"] = error
    for task, found in tasks.items():
        for name, signal in found.signals.items():
            metrics[f"bon/{name}/{task}/variance"] = signal.variance
            for key, value in (("auc", signal.auc), ("gamma", signal.gamma)):
                if value is not None:
                    metrics[f"bon/{name}/{task}/{key}"] = value.value
    left_out = {*RESERVED, *lacking[AVERAGE]}
    best = [curve[-1].value for name, curve in together.items() if name not in left_out]
    return metrics | ({"bon/average": max(best)} if best else {})


def unmeasured(tasks: Mapping[str, Selection]) -> dict[str, set[str]]:
    """The rewards by task whose scores of every prompt hold a NaN, so that they have no accuracy; and so no average either."""
    found = {task: {name for name, signal in own.signals.items() if signal.num_broken == own.num_prompts} for task, own in tasks.items()}
    return found | {AVERAGE: {name for names in found.values() for name in names}}


def result_of(tasks: Mapping[str, Selection], pools: Pools, sizes: Sequence[int], place: str) -> dict[str, Any]:
    """The result as it is written."""
    metrics = metrics_of(tasks, sizes)
    size = min(len(row.completions) for rows in pools.values() for row in rows)
    names = list(next(iter(tasks.values())).signals) if tasks else []
    together = averages(tasks) if tasks else {}
    return {
        "pools": place,
        "n": size,
        "sizes": list(sizes),
        "num_prompts": {task: len(rows) for task, rows in pools.items()},
        "bounds": {
            name: {task: curves_of(found)[name][-1].value for task, found in tasks.items()} | {AVERAGE: together[name][-1].value}
            for name in RESERVED
            if tasks
        },
        "rewards": {name: _at_sizes(metrics, name, [*tasks, AVERAGE], sizes) for name in names},
        "tasks": {task: jsonable(found) for task, found in tasks.items()},
        AVERAGE: jsonable(together),
    }


def _at_sizes(metrics: Mapping[str, float], name: str, tasks: Sequence[str], sizes: Sequence[int]) -> dict[str, float]:
    keys = {f"bon/{task}@{n}": f"bon/{name}/{task}@{n}" for task in tasks for n in sizes}
    return {short: metrics[key] for short, key in keys.items() if key in metrics}


def write_table(path: Path, pools: Pools, tasks: Mapping[str, Selection], scores: Mapping[str, Scores]) -> None:
    """Writes `bon.csv`: a row per task, reward and n, with standard errors by prompt; what is not known is empty."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=_COLUMNS, restval="")
        writer.writeheader()
        for task, rows in pools.items():
            writer.writerows(_lines(task, rows, tasks.get(task), {name: by_task[task] for name, by_task in scores.items()}))
        if tasks:
            for name, curve in averages(tasks).items():
                for n, one in enumerate(() if name in unmeasured(tasks)[AVERAGE] else curve, 1):
                    writer.writerow({"task": AVERAGE, "reward": name, "n": n, "kl": kl_of_best_of_n(n), **_pair("accuracy", one)})


def _lines(
    task: str, rows: Sequence[PoolRow], found: Selection | None, scores: Mapping[str, Sequence[Sequence[float]]]
) -> Iterator[dict[str, Any]]:
    size = min(len(row.completions) for row in rows) if found is None else found.n
    curves = {} if found is None else curves_of(found)
    for name in [*RESERVED, *scores] if found else scores:
        signal = found.signals.get(name) if found else None
        picked = score_curve(scores[name], size) if name in scores else ()
        for n in range(1, size + 1):
            line: dict[str, Any] = {"task": task, "reward": name, "n": n, "kl": kl_of_best_of_n(n)}
            line["prompts"] = found.num_prompts if found else len(rows)
            if found and name in curves and name not in unmeasured({task: found})[task]:
                line |= _pair("accuracy", curves[name][n - 1])
                line["regret"] = found.oracle[n - 1].value - curves[name][n - 1].value
            if picked:
                line |= _pair("score", picked[n - 1])
            if signal:
                line |= _pair("vote", signal.vote[n - 1]) | _pair("auc", signal.auc) | _pair("gamma", signal.gamma)
                line["variance"] = signal.variance
            yield line


def _pair(name: str, found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {name: found.value} | ({} if found.error is None else {f"{name}_se": found.error})


def write_biases(path: Path, panels: Mapping[str, Panel]) -> None:
    """Writes `bias.csv`: a row per reward and feature, those that differ within no prompt with empty cells."""
    names = [item.name for item in fields(Bias)]
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["reward", *names, "prompts", "given"], restval="")
        writer.writeheader()
        for reward, panel in panels.items():
            beside = {"reward": reward, "prompts": panel.num_prompts, "given": "correctness" if panel.knows_correct else "nothing"}
            writer.writerows({**beside, **asdict(bias)} for bias in panel.biases)
            writer.writerows({**beside, "feature": feature} for feature in panel.constant)


def write_picks(path: Path, pools: Pools, scores: Mapping[str, Scores], sizes: Sequence[int]) -> None:
    """Writes what each reward picks for every prompt among its first n completions, n of `sizes`: a line per reward, prompt and n.

    Of equal scores the first counts. Where a score is NaN nothing is picked: `index` is null.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name, by_task in scores.items():
            for task, rows in pools.items():
                for row, own in zip(rows, by_task[task], strict=True):
                    for n in (size for size in sizes if size <= len(own)):
                        line = {"reward": name, "task": task, "id": row.id, "n": n, "prompt": turns(row.prompt), **_picked(row, own[:n])}
                        file.write(json.dumps(jsonable(line), ensure_ascii=False, allow_nan=False) + "\n")


def _picked(row: PoolRow, scores: Sequence[float]) -> dict[str, Any]:
    if any(map(math.isnan, scores)):
        return {"index": None, "completion": None, "score": None}
    index = max(range(len(scores)), key=lambda place: (scores[place], -place))
    found: dict[str, Any] = {"index": index, "completion": row.completions[index], "score": scores[index]}
    if row.correct:
        found["correct"] = row.correct[index]
    return found | ({"model": row.models[index]} if row.models else {})


_SCORES = pa.schema({"task": pa.string(), "id": pa.string(), "scores": pa.list_(pa.float64())})


def write_scores(path: Path, pools: Pools, scores: Scores) -> None:
    """Writes a reward's scores of all completions."""
    table = [
        {"task": task, "id": row.id, "scores": list(own)}
        for task, rows in pools.items()
        for row, own in zip(rows, scores[task], strict=True)
    ]
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(table, schema=_SCORES), temporary, write_page_checksum=True)


def read_scores(path: Path, pools: Pools) -> dict[str, list[list[float]]] | None:
    """The scores that were written of these pools; None if there are none, or of others, or if the file was damaged."""
    try:
        found = pq.read_table(path, schema=_SCORES, page_checksum_verification=True).to_pylist()
    except (OSError, pa.ArrowException):  # pyarrow raises either for a damaged file
        return None
    expected = [(task, row.id, len(row.completions)) for task, rows in pools.items() for row in rows]
    shapes = [(row["task"], row["id"], len(row["scores"] or ())) for row in found]
    if shapes != expected or any(None in row["scores"] for row in found):
        return None
    scores: dict[str, list[list[float]]] = {task: [] for task in pools}
    for row in found:
        scores[row["task"]].append(row["scores"])
    return scores
