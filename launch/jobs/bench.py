"""Scoring of a benchmark as a job: a reward's scores on every row, and the run that keeps them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.data.dates import written_date
from core.hooks.run_context import RunContext
from core.process.world import join_world
from core.progress import Progress
from core.records import AXIS, BenchmarkRow, Tracker
from core.runs.record import Run
from core.runs.tracking import METRICS, forget_later
from core.runs.warnings import texts_cut
from evalhooks.judges.config import build as build_judge
from evalhooks.report.domains import draw_domains
from evalhooks.rewardbench.rows import ScoredBenchmark, score_rows
from launch.compose import Composed
from launch.inputs import BenchInputs
from launch.jobs import samples
from launch.jobs.bench_result import CHART, RESULT, ROWS, Result, metrics_of, parts_of, result_of, write_result
from launch.jobs.lifecycle import Record, RunPlan, carry_out
from launch.rewards.build import Limits, build_reward
from launch.rewards.config import RewardKind
from launch.schema import BenchJob, Benchmark

_NAMES = {Benchmark.rewardbench2: "RewardBench 2", Benchmark.rewardbench1: "RewardBench 1", Benchmark.pairs: samples.PAIRS}


def run(composed: Composed[BenchJob], plan: RunPlan, inputs: BenchInputs, progress: Progress) -> Record:
    """Scores the rows and returns the record of the run; its folder holds the result, the rows and a chart."""
    job = composed.job

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        forget_later(run.dir / METRICS, -1)  # of a killed attempt: nothing of a benchmark is resumed
        scored, facts = _scored(job, inputs, progress)
        generative = job.reward.kind == RewardKind.judge
        result = result_of(job.benchmark, inputs.reward.name, scored.rows, inputs.prior_sets, generative=generative) | facts
        if (day := written_date()) is not None:
            result["date"] = day.isoformat()
        warn = RunContext(dir=run.dir).warn
        warn(samples.of_benchmark(inputs.rows, _NAMES[job.benchmark], limit=job.limit, keys=("limit", "rows")))
        num_texts = sum(len(row.completions) for row in inputs.rows)
        warn(texts_cut(facts.get("num_truncated") or 0, num_texts, key="max_length", limit=job.max_length, what="texts"))
        write_result(run.dir / RESULT, run.dir / ROWS, result, scored)
        _draw(run.dir / CHART, result, inputs.rows)
        tracker.log(metrics_of(result), axis=AXIS, step=0)
        cut = facts.get("num_truncated")
        return {"final": metrics_of(result)} | ({} if cut is None else {"truncated": cut / num_texts})

    return carry_out(composed, plan, work, world=join_world())


def _scored(job: BenchJob, inputs: BenchInputs, progress: Progress) -> tuple[ScoredBenchmark, dict[str, Any]]:
    """The scored rows, and what else the result says of how they were scored."""
    if job.reward.kind == RewardKind.judge:
        judge = build_judge(job.reward.judge, pairs=job.benchmark == Benchmark.rewardbench1, progress=progress)
        scored = score_rows(inputs.rows, judge.rows, ties_scorer=judge.ties)
        counts = ("num_judged", "num_unparsable", "unparsable_share", "num_asked", "num_cached", "num_refused", "first_refusal")
        return scored, {"judge": {key: getattr(judge, key) for key in counts}}
    limits = Limits(batch_tokens=job.batch_tokens, max_length=lambda _: job.max_length)
    scored = score_rows(inputs.rows, build_reward(inputs.reward, limits, progress=progress))
    is_known = None not in scored.details
    counts = {"num_truncated": scored.num_truncated, "num_equal_rows": scored.num_equal} if is_known else {"num_truncated": None}
    return scored, counts | {"max_length": job.max_length}


def _draw(path: Path, result: Result, rows: Sequence[BenchmarkRow]) -> None:
    """The chart of the domains or sections, each with the score of chance."""
    shown = parts_of(result)
    sizes: dict[str, list[int]] = {}
    for row in rows:
        sizes.setdefault(row.subset.casefold(), []).append(len(row.completions))
    chance = {name: sum(1 / n for n in found) / len(found) for name in shown if (found := sizes.get(name.casefold())) and name != "Ties"}
    if "sections" in result:
        chance = dict.fromkeys(result["sections"], 0.5)
    scores = {name: score for name, score in shown.items() if score is not None}
    if scores:
        draw_domains(path, scores, result.get("standard_errors", {}), title=f"{result['benchmark']} of {result['reward']}", chance=chance)
