"""The result of a benchmark: made from scored rows, written, and told part by part. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import write_json
from core.records import ScoredRow
from evalhooks.pair_accuracy import PAIR_METRICS, pairs_result
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.domains import label_of, mean_of
from evalhooks.rewardbench.rows import ScoredBenchmark, write_rows
from evalhooks.rewardbench.saved_scores import result1, result2
from launch.schema import Benchmark

RESULT, ROWS, CHART = "result.json", "rows.parquet", "domains.png"
"""The files in the folder of a run."""

Result = dict[str, Any]
"""A result as it is written: that of `result1` or `result2`, with `benchmark`, `reward` and what else is known of the scoring."""


def result_of(benchmark: Benchmark, reward: str, rows: Sequence[ScoredRow], prior_sets: Mapping[str, float], *, generative: bool) -> Result:
    """The result of `reward` on scored rows; `generative` says that the scores are a judge's, so that a draw earns half."""
    match benchmark:
        case Benchmark.rewardbench1:
            found = {**result1(rows, prior_sets, generative=generative)}
        case Benchmark.rewardbench2:
            found = {**result2(rows)}
        case Benchmark.pairs:
            found = pairs_result(rows)
    return {"reward": reward, "benchmark": benchmark, **found, **_baselines(benchmark, rows)}


def _baselines(benchmark: Benchmark, rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """How many rows each domain, section or source has, and what guessing scores there; Ties has no such score."""
    parts: dict[str, list[float]] = {}
    for row in rows:
        names = [_SECTIONS.get(v1.canonical(row.subset))] if benchmark == Benchmark.rewardbench1 else [v2.canonical(row.subset)]
        if benchmark == Benchmark.pairs:
            names = [row.subset, "overall"]
        for name in names:
            if name is not None:
                parts.setdefault(name, []).append(row.num_correct / len(row.scores))
    chance = {name: sum(shares) / len(shares) for name, shares in parts.items() if name != v2.TIES}
    return {"num_rows": {name: len(shares) for name, shares in parts.items()}, "chance": chance}


_SECTIONS = {subset: section for section, subsets in v1.COUNTS.items() for subset in subsets}
"""RewardBench 1: the section of each subset."""

LEGENDS = {
    Benchmark.rewardbench2: "Points of 100, best of four unless a row has another number of completions; a standard error is that of the "
    "choice of prompts. Ties is a score of its own, without a chance level; overall is the mean of all six domains.",
    Benchmark.rewardbench1: "Points of 100: share of pairs whose chosen completion scores higher; chance is one of two.",
    Benchmark.pairs: "Points of 100: share of pairs whose chosen answer scores higher, equal scores counting half; chance is one of two.",
}
"""What the numbers of a table mean."""


def write_result(result_file: Path, rows_file: Path, result: Result, scored: ScoredBenchmark) -> None:
    """Writes the result as JSON and its rows as parquet."""
    write_rows(rows_file, scored, result["row_results"])
    write_json(result_file, result)


def metrics_of(result: Result) -> dict[str, float]:
    """The result as metrics, `rewardbench2/math` and its standard error `rewardbench2_se/math` for instance, without what is missing."""
    if result["benchmark"] == Benchmark.pairs:
        values = {**result["per_subset"], **{key: result[key] for key in PAIR_METRICS if key in result}, "accuracy": result["overall"]}
    elif result["benchmark"] == Benchmark.rewardbench1:
        values = {key: result["sections"][section] for key, section in v1.METRIC_KEYS.items()}
        values |= {"overall": result["overall"], "prior_sets": result["prior_sets"]}
    else:
        values = {key: result["per_subset"].get(name) for key, name in v2.DOMAINS.items()} | {"overall": result["overall"]}
        values |= dict([mean]) if (mean := mean_of(result["per_subset"])) else {}
    errors = {key: error for key in values if (error := result.get("standard_errors", {}).get(label_of(key))) is not None}
    found = {f"{result['benchmark']}/{key}": value for key, value in values.items() if value is not None}
    return found | {f"{result['benchmark']}_se/{key}": error for key, error in errors.items()}


def parts_of(result: Result) -> dict[str, float | None]:
    """What the table and the chart show: domains or sections, and overall, where missing as None.

    Where domains are missing, the mean of the others stands in place of overall, by its label.
    """
    if "sections" in result:
        prior = {} if result["prior_sets"] is None else {"prior sets": result["prior_sets"]}
        return {**result["sections"], **prior, "overall": result["overall"]}
    if result["benchmark"] == Benchmark.rewardbench2 and (mean := mean_of(result["per_subset"])):
        return {**result["per_subset"], label_of(mean[0]): mean[1]}
    sources = result["per_subset"] if result["benchmark"] != Benchmark.pairs or len(result["per_subset"]) > 1 else {}
    return {**sources, "overall": result["overall"]}
