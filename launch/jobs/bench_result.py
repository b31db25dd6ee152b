"""The result of a benchmark: made from scored rows, written, and told part by part. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import write_json
from core.records import ScoredRow
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.rows import ScoredBenchmark, write_rows
from evalhooks.rewardbench.saved_scores import result1, result2
from launch.schema import Benchmark

RESULT, ROWS, CHART = "result.json", "rows.parquet", "domains.png"
"""The files in the folder of a run."""

Result = dict[str, Any]
"""A result as it is written: that of `result1` or `result2`, with `benchmark`, `reward` and what else is known of the scoring."""


def result_of(benchmark: Benchmark, reward: str, rows: Sequence[ScoredRow], prior_sets: Mapping[str, float], *, generative: bool) -> Result:
    """The result of `reward` on scored rows; `generative` says that the scores are a judge's, so that a draw earns half."""
    found = result1(rows, prior_sets, generative=generative) if benchmark == Benchmark.rewardbench1 else result2(rows)
    return {"reward": reward, "benchmark": benchmark, **found}


def write_result(result_file: Path, rows_file: Path, result: Result, scored: ScoredBenchmark) -> None:
    """Writes the result as JSON and its rows as parquet."""
    write_rows(rows_file, scored, result["row_results"])
    write_json(result_file, result)


def metrics_of(result: Result) -> dict[str, float]:
    """The result as metrics, `rewardbench2/math` for instance, without what is missing."""
    if result["benchmark"] == Benchmark.rewardbench1:
        values = {key: result["sections"][section] for key, section in v1.METRIC_KEYS.items()}
        values |= {"overall": result["overall"], "prior_sets": result["prior_sets"]}
    else:
        values = {key: result["per_subset"].get(name) for key, name in v2.DOMAINS.items()} | {"overall": result["overall"]}
    return {f"{result['benchmark']}/{key}": value for key, value in values.items() if value is not None}


def parts_of(result: Result) -> dict[str, float | None]:
    """What the table and the chart show: domains or sections, and overall, where missing as None."""
    if "sections" in result:
        prior = {} if result["prior_sets"] is None else {"prior sets": result["prior_sets"]}
        return {**result["sections"], **prior, "overall": result["overall"]}
    return {**result["per_subset"], "overall": result["overall"]}
