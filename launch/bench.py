"""`rewardloop bench`: RewardBench 2 or 1 of a reward, of scores that are there already, or two results compared."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.disk import write_json
from core.progress import Progress, console_progress
from core.records import AXIS, BenchmarkRow, ScoredRow
from core.runs.identity import fingerprint
from core.runs.record import RunState, finish_run, open_run, read_record
from evalhooks.rewardbench.rows import HUB1, HUB2, ScoredBenchmark, is_result, load_rewardbench1, load_rewardbench2, score_rows, write_rows
from evalhooks.rewardbench.saved_scores import read_credits, read_prior_sets, read_scores1, read_scores2, result1, result2
from evalhooks.rewardbench.v2 import TIES, canonical, ties_problems
from launch.entry import Composed, start
from launch.rewards import Limits, Sources, build, sources_of
from launch.schema import BenchJob, Benchmark, RewardKind

RESULT, ROWS, CHART = "result.json", "rows.parquet", "domains.png"


def run(composed: Composed, progress: Progress) -> dict[str, Any]:
    """The result of a configuration: from saved scores, from a finished run of the same settings, or by scoring anew."""
    job = composed.job
    assert isinstance(job, BenchJob)
    out = Path(job.out).expanduser() if job.out else None
    if out is not None:
        _require_out(out, {key: getattr(job, key) for key in ("rows", "from_scores", "prior_sets")})
    prior_sets = read_prior_sets(job.prior_sets) if job.prior_sets else {}
    if not job.from_scores:
        return _scored_run(composed, job, out, prior_sets, progress)
    # What a run wrote (rows.parquet) has one form for both benchmarks, and tells a judge's draws by their credit.
    is_first, is_table = job.benchmark == Benchmark.rewardbench1, job.from_scores.endswith(".parquet")
    rows = read_scores1(job.from_scores) if is_first and not is_table else read_scores2(job.from_scores)
    generative = job.generative or (is_first and is_table and 0.5 in read_credits(job.from_scores))
    result = {"reward": job.from_scores, **_evaluated(job, rows, prior_sets, generative=generative)}
    if out is not None:
        _write(out, out.with_suffix(".parquet"), result, ScoredBenchmark(rows=tuple(rows), details=(None,) * len(rows)))
    return result


def _require_out(out: Path, inputs: Mapping[str, str]) -> None:
    """Raises `ValueError` where the result cannot be written to `out` and its rows beside it, or would replace what is no result."""
    table = out.with_suffix(".parquet")
    for key, path in inputs.items():
        if path and Path(path).expanduser().resolve() in (out.resolve(), table.resolve()):
            raise ValueError(f"out={out} would overwrite {key}={path} (rows go to {table.name}); choose another name.")
    if table.is_dir() or (table.exists() and not is_result(table)):
        raise ValueError(f"out={out} would overwrite {table}, which is no result of `rewardloop bench`; choose another name.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}); name a file in a folder that can be written to.") from error
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f"out={out} cannot be written; name a file in a folder that can be written to.")


def _scored_run(composed: Composed, job: BenchJob, out: Path | None, prior_sets: Mapping[str, float], progress: Progress) -> dict[str, Any]:
    # The data first: a broken row must not be found after a model has been loaded.
    is_first = job.benchmark == Benchmark.rewardbench1
    source = job.rows or (HUB1 if is_first else HUB2)
    rows = (load_rewardbench1 if is_first else load_rewardbench2)(source, limit=job.limit, seed=job.seed)
    if not is_first and (problems := ties_problems(_unscored_ties(rows))):
        print(f"warning: Ties will have no score. {' '.join(problems)}", file=sys.stderr)
    sources = sources_of(job.reward, job.runs_dir)
    identity = {
        "benchmark": job.benchmark,
        "rows": fingerprint(source),
        "prior_sets": dict(prior_sets),
        "settings": {key: getattr(job, key) for key in ("limit", "seed", "max_length")},
        "reward": sources.identity(job.reward),
    }
    run, state = open_run(
        runs_dir=Path(job.runs_dir), study=job.study, job="bench", name=job.name or f"{job.benchmark}-{_short(sources.name)}",
        identity=identity, config_yaml=composed.yaml, resume=job.resumes, extra={"reward": sources.name},
    )  # fmt: skip
    if state == RunState.finished:
        print(f"{run.dir} is finished already", file=sys.stderr)
    else:
        from launch.parts import tracked

        with tracked(job, run, identity) as tracker:
            scored, extra = _score(job, sources, rows, progress)
            generative = job.reward.kind == RewardKind.judge
            result = {"reward": sources.name, **_evaluated(job, scored.rows, prior_sets, generative=generative), **extra}
            _write(run.dir / RESULT, run.dir / ROWS, result, scored)
            _draw(run.dir / CHART, result, rows)
            tracker.log(_metrics(job, result), axis=AXIS, step=0)
            finish_run(run, final=_metrics(job, result))
    if out is not None:
        shutil.copyfile(run.dir / RESULT, out)
        shutil.copyfile(run.dir / ROWS, out.with_suffix(".parquet"))
    result = json.loads((run.dir / RESULT).read_text(encoding="utf-8"))
    return {"dir": str(run.dir), "wall_s": read_record(run.dir)["wall_s"], **result}


def _score(job: BenchJob, sources: Sources, rows: Sequence[BenchmarkRow], progress: Progress) -> tuple[ScoredBenchmark, dict[str, Any]]:
    """The scored rows, and what else is to be known of how they were scored."""
    if job.reward.kind == RewardKind.judge:
        from evalhooks.judges.config import build as build_judge

        judge = build_judge(job.reward.judge, pairs=job.benchmark == Benchmark.rewardbench1, progress=progress)
        scored = score_rows(rows, judge.rows, ties_scorer=judge.ties)
        counts = ("num_judged", "num_unparsable", "unparsable_share", "num_asked", "num_cached", "num_refused", "first_refusal")
        return scored, {"judge": {key: getattr(judge, key) for key in counts}}
    limits = Limits(batch_tokens=job.batch_tokens, max_length=job.max_length)
    scored = score_rows(rows, build(job.reward, sources, limits, progress=progress))
    return scored, {"num_truncated": None if None in scored.details else scored.num_truncated, "max_length": job.max_length}


def _unscored_ties(rows: Sequence[BenchmarkRow]) -> list[ScoredRow]:
    """The rows of Ties with scores of 0: what is wrong with them now will be wrong with any scores."""
    return [
        ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=(0.0,) * len(row.completions))
        for row in rows
        if canonical(row.subset) == TIES
    ]


def _evaluated(job: BenchJob, rows: Sequence[ScoredRow], prior_sets: Mapping[str, float], *, generative: bool) -> dict[str, Any]:
    if job.benchmark == Benchmark.rewardbench1:
        return {"benchmark": job.benchmark, **result1(rows, prior_sets, generative=generative)}
    return {"benchmark": job.benchmark, **result2(rows)}


def _metrics(job: BenchJob, result: Mapping[str, Any]) -> dict[str, float]:
    from evalhooks.rewardbench import v1 as rewardbench1
    from evalhooks.rewardbench import v2 as rewardbench2

    if job.benchmark == Benchmark.rewardbench1:
        values = {key: result["sections"][section] for key, section in rewardbench1.METRIC_KEYS.items()}
        values |= {"overall": result["overall"], "prior_sets": result["prior_sets"]}
    else:
        values = {key: result["per_subset"].get(name) for key, name in rewardbench2.DOMAINS.items()} | {"overall": result["overall"]}
    return {f"{job.benchmark}/{key}": value for key, value in values.items() if value is not None}


def _write(result_file: Path, rows_file: Path, result: Mapping[str, Any], scored: ScoredBenchmark) -> None:
    write_rows(rows_file, scored, result["row_results"])
    write_json(result_file, result)


def _draw(path: Path, result: Mapping[str, Any], rows: Sequence[BenchmarkRow]) -> None:
    from evalhooks.report.domains import draw_domains

    shown = _parts(result)
    sizes: dict[str, list[int]] = {}
    for row in rows:
        sizes.setdefault(row.subset.casefold(), []).append(len(row.completions))
    chance = {name: sum(1 / n for n in found) / len(found) for name in shown if (found := sizes.get(name.casefold())) and name != "Ties"}
    if "sections" in result:
        chance = dict.fromkeys(result["sections"], 0.5)
    scores = {name: score for name, score in shown.items() if score is not None}
    if scores:
        draw_domains(path, scores, result.get("standard_errors", {}), title=f"{result['benchmark']} of {result['reward']}", chance=chance)


def _parts(result: Mapping[str, Any]) -> dict[str, float | None]:
    """What the table and the chart show: domains or sections, and overall, where missing as None."""
    if "sections" in result:
        prior = {} if result["prior_sets"] is None else {"prior sets": result["prior_sets"]}
        return {**result["sections"], **prior, "overall": result["overall"]}
    return {**result["per_subset"], "overall": result["overall"]}


def _short(name: str) -> str:
    """The end of a path, with the run that a checkpoint belongs to."""
    parts = Path(name).parts
    return "-".join(parts[-3::2]) if len(parts) > 2 and parts[-2] == "checkpoints" else parts[-1] if parts else name


def _command(composed: Composed) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    result = run(composed, console_progress())
    errors = result.get("standard_errors", {})
    console, table = Console(), Table()
    console.print(escape(f"{result['benchmark']} of {result['reward']}"), soft_wrap=True, highlight=False)  # may be wider than the table
    for column in ("domain" if "standard_errors" in result else "section", "score", *(["standard error"] if errors else [])):
        table.add_column(column, justify="left" if column in ("domain", "section") else "right")
    for part, score in _parts(result).items():
        shown = "missing" if score is None else f"{100 * score:.1f}"
        table.add_row(escape(part), shown, *([f"{100 * errors[part]:.1f}" if part in errors else ""] if errors else []))
    console.print(table)
    for said in _remarks(result):
        print(said)


def _remarks(result: Mapping[str, Any]) -> list[str]:
    missing = result.get("missing_subsets", [])
    said = [f"{len(missing)} subsets of RewardBench have no rows: {', '.join(missing)}"] if missing else []
    said += [f"no overall: {result['reason']}"] if result["reason"] else list(result.get("refusals", []))
    if result.get("num_truncated"):
        said.append(f"{result['num_truncated']} texts were cut to max_length={result['max_length']} tokens, at the end of the answer")
    if judge := result.get("judge"):
        if judge["num_refused"]:
            said.append(f"judge: {judge['num_refused']} requests were refused, the first with: {judge['first_refusal']}")
        said.append(
            f"judge: {judge['num_unparsable']} of {judge['num_judged']} verdicts could not be read ({judge['unparsable_share']:.1%}) and "
            f"earn the credit of chance at best; {judge['num_asked']} were asked for, {judge['num_cached']} were known"
        )
    said.append(f"{result['dir']}: {RESULT}, {ROWS}, {CHART}" if "dir" in result else "")
    return [line for line in said if line]


def main() -> None:
    """Entry point; `bench compare A B` is a command of its own."""
    if sys.argv[1:2] == ["compare"]:
        from launch.compare import main as compare

        compare(sys.argv[2:])
        return
    start("bench", _command)


if __name__ == "__main__":
    main()
