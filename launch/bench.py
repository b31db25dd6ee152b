"""`rewardloop bench`: RewardBench 2 or 1 of a reward, of scores that are there already, or two results compared."""

import csv
import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.data.fingerprint import fingerprint
from core.disk import atomic_file, read_json
from core.models.origin import trained_from
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from core.records import AXIS, BenchmarkRow, Prompt, ScoredRow, Tracker
from core.runs.identity import clean_name
from core.runs.record import Run
from core.text import printable
from evalhooks.judges.config import require_usable
from evalhooks.rewardbench import v2
from evalhooks.rewardbench.finite import remark
from evalhooks.rewardbench.rows import ScoredBenchmark, is_result
from evalhooks.rewardbench.saved_scores import read_credits, read_prior_sets, read_scores1, read_scores2
from launch.entry import Composed, print_on_main, start
from launch.identity import identity_of
from launch.inputs import BenchInputs, bench_rows
from launch.jobs import compare
from launch.jobs.bench_result import CHART, LEGENDS, RESULT, ROWS, Result, metrics_of, parts_of, result_of, write_result
from launch.jobs.lifecycle import Record, RunPlan, carry_out_alone, finished_record, say_finished
from launch.rewards.config import KINDS, RewardKind
from launch.rewards.locate import LocatedReward, at_best_checkpoint, locate_reward, try_program, with_chosen
from launch.schema import BenchJob, Benchmark
from launch.sweep import WIDTH, JobOutcome, JobStatus, replaceable
from launch.terminal.closing import bench_lines


def run(composed: Composed[BenchJob], progress: Progress) -> Result:
    """The result of a configuration: from saved scores, from a finished run of the same settings, or by scoring anew."""
    composed = with_chosen(BenchJob, composed, {"reward": composed.job.reward}, composed.job.runs_dir, print_on_main)
    job = composed.job
    out = Path(job.out).expanduser() if job.out else None
    if out is not None:
        _require_out(out, {"rows": job.rows, "from_scores": job.from_scores, "prior_sets": job.prior_sets})
    prior_sets = read_prior_sets(job.prior_sets) if job.prior_sets else {}
    if job.from_scores:
        return _from_scores(composed, out, prior_sets)
    # The data first: a broken row must not be found after a model has been loaded.
    rows = bench_rows(job)
    if job.benchmark == Benchmark.rewardbench2 and (problems := v2.ties_problems(_unscored_ties(rows))):
        print(printable(f"warning: Ties will have no score. {' '.join(problems)}"), file=sys.stderr)
    if job.reward.kind == RewardKind.judge:
        require_usable(job.reward.judge)
    job = replace(job, reward=at_best_checkpoint(job.reward, job.runs_dir, say=print_on_main))
    reward = locate_reward(job.reward, job.runs_dir)
    try_program(job.reward, Prompt(id=rows[0].id, dialogue=rows[0].dialogue), completions=rows[0].completions)
    plan = plan_of(job, reward)
    if (record := finished_record(job, plan)) is not None:
        say_finished(record["dir"])
    else:
        with stopping_at_once():
            from launch.jobs import bench  # torch, which takes seconds: what is likely to be wrong has been found by now

        record = bench.run(replace(composed, job=job), plan, BenchInputs(rows=rows, reward=reward, prior_sets=prior_sets), progress)
    return _kept(record, out)


def _from_scores(composed: Composed[BenchJob], out: Path | None, prior_sets: Mapping[str, float]) -> Result:
    """The result of scores that are there already, kept as a run like that of a model."""
    job = composed.job
    plan = plan_of_scores(job)
    if (record := finished_record(job, plan)) is not None:
        return _kept(record, out)
    # Before the run begins, so that scores that cannot be read leave none behind. What a run wrote (rows.parquet) tells a judge's
    # draws by their credit.
    is_first, is_table = job.benchmark == Benchmark.rewardbench1, job.from_scores.endswith(".parquet")
    rows = saved_rows(job)
    generative = job.generative or (is_first and is_table and 0.5 in read_credits(job.from_scores))
    result = result_of(job.benchmark, job.from_scores, rows, prior_sets, generative=generative)

    def work(run: Run, tracker: Tracker) -> Mapping[str, Any]:
        write_result(run.dir / RESULT, run.dir / ROWS, result, ScoredBenchmark(rows=tuple(rows), details=(None,) * len(rows)))
        tracker.log(metrics_of(result), axis=AXIS, step=0)
        return {"final": metrics_of(result)}

    return _kept(carry_out_alone(composed, plan, work), out)


def plan_of_scores(job: BenchJob) -> RunPlan:
    """The run of scores that are there already. Raises `FileNotFoundError` for files that are not."""
    inputs = {"from_scores": job.from_scores, "prior_sets": job.prior_sets}
    return RunPlan(
        kind="bench",
        name=f"{job.benchmark}-{Path(job.from_scores).name.partition('.')[0]}",
        identity={
            "benchmark": job.benchmark,
            "generative": job.generative,
            "inputs": {key: fingerprint(path) for key, path in inputs.items() if path},
        },
        facts={"reward": job.from_scores},
    )


def saved_rows(job: BenchJob) -> list[ScoredRow]:
    """The rows of `from_scores`. Raises `ValueError` for a file that cannot be read, with its broken rows."""
    return read_scores1(job.from_scores) if job.benchmark == Benchmark.rewardbench1 else read_scores2(job.from_scores)


def _kept(record: Record, out: Path | None) -> Result:
    """The result in a run's folder, copied to `out` if that is given."""
    folder = Path(record["dir"])
    if out is not None:
        shutil.copyfile(folder / RESULT, out)
        shutil.copyfile(folder / ROWS, out.with_suffix(".parquet"))
    result = read_json(folder / RESULT, remedy=f"remove the folder {folder} to score again")
    return {"dir": str(folder), "wall_s": record.get("wall_s"), "warnings": record.get("warnings", []), **result}


def plan_of(job: BenchJob, reward: LocatedReward) -> RunPlan:
    """The run of a job. A reward that may score otherwise another day, though its settings are the same, gets a new run every time."""
    asked = {"asked": datetime.now(UTC).isoformat()} if KINDS[job.reward.kind].varies else {}
    name = f"{job.benchmark}-{_short(reward.name)}"
    facts: dict[str, Any] = {"reward": reward.name}
    if job.reward.kind in (RewardKind.model, RewardKind.dpo):
        facts["lineage"] = trained_from(next(iter(reward.models.values())))
    return RunPlan(kind="bench", name=name, identity=identity_of(job) | asked, facts=facts)


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


def _unscored_ties(rows: Sequence[BenchmarkRow]) -> list[ScoredRow]:
    """The rows of Ties with scores of 0: what is wrong with them now will be wrong with any scores."""
    return [
        ScoredRow(id=row.id, subset=row.subset, num_correct=row.num_correct, scores=(0.0,) * len(row.completions))
        for row in rows
        if v2.canonical(row.subset) == v2.TIES
    ]


def _short(name: str) -> str:
    """The end of a path, with the run that a checkpoint belongs to."""
    parts = Path(name).parts
    return "-".join(parts[-3::2]) if len(parts) > 2 and parts[-2] == "checkpoints" else parts[-1] if parts else name


def _command(composed: Composed[BenchJob]) -> Result:
    with console_progress() as progress:
        result = run(composed, progress)
    errors = result.get("standard_errors", {})
    console, table = Console(width=None if sys.stdout.isatty() else WIDTH), Table()
    title = printable(f"{result['benchmark']} of {result['reward']}")
    console.print(escape(title), soft_wrap=True, highlight=False)  # may be wider than the table
    sizes, chance = result.get("num_rows", {}), result.get("chance", {})
    kind = {"rewardbench1": "section", "pairs": "source"}.get(result["benchmark"], "domain")
    for column in (kind, "rows", "score", *(["standard error"] if errors else []), "chance"):
        table.add_column(column, justify="left" if column == kind else "right")
    for part, score in parts_of(result).items():
        shown = "missing" if score is None else f"{100 * score:.1f}"
        error = [f"{100 * errors[part]:.1f}" if part in errors else ""] if errors else []
        guess = f"{100 * chance[part]:.1f}" if part in chance else ""
        table.add_row(escape(printable(part)), str(sizes.get(part, "")), shown, *error, guess)
    console.print(table)
    console.print(LEGENDS[Benchmark(result["benchmark"])], soft_wrap=True, highlight=False)
    for said in [*_remarks(result), *(bench_lines(result) if "dir" in result else [])]:
        print_on_main(said)
    return result


def print_together(jobs: Sequence[BenchJob], outcomes: Sequence[JobOutcome]) -> None:
    """Prints one table of a sweep, a row for each of its jobs, and writes it beside their runs, as CSV with shares of 1.

    A sweep of one job, or without a result, has none.
    """
    results = [outcome.record for outcome in outcomes if outcome.record is not None]
    if len(outcomes) < 2 or not results:
        return
    parts = list(dict.fromkeys(part for result in results for part in parts_of(dict(result))))
    rows = [_row(job, outcome, parts) for job, outcome in zip(jobs, outcomes, strict=True)]
    table = Table(title=f"{len(results)} results, points of 100", title_justify="left")
    for column in ("benchmark", "reward", *parts):
        table.add_column(escape(column), overflow="fold", justify="left" if column in ("benchmark", "reward") else "right")
    for row in rows:
        nothing = "failed" if row["status"] == JobStatus.failed else ""
        scores = [nothing if row[part] is None else f"{100 * row[part]:.1f}" for part in parts]
        table.add_row(row["benchmark"], escape(row["reward"]), *scores)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    text = io.StringIO(newline="")
    last = ("status", "message", "dir")
    names = [*dict.fromkeys(key for row in rows for key in row if key not in last), *last]
    writer = csv.DictWriter(text, fieldnames=names)
    writer.writeheader()
    writer.writerows(rows)
    place = Path(jobs[0].runs_dir) / clean_name(jobs[0].study) / "sweep-bench.csv"
    place = replaceable(place, {row["dir"] for row in rows if row["dir"]}, len(rows))
    with atomic_file(place) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    print_on_main(str(place))


def _row(job: BenchJob, outcome: JobOutcome, parts: Sequence[str]) -> dict[str, Any]:
    """What the table of a sweep has on one job; of one that failed, what was asked for and why there is nothing."""
    result: Result = dict(outcome.record or {})
    scores = parts_of(result) if result else {}
    asked = job.from_scores or KINDS[job.reward.kind].label(job.reward) or job.reward.path
    return (
        {"benchmark": str(job.benchmark), "reward": printable(str(result.get("reward", asked)))}
        | {part: scores.get(part) for part in parts}
        | {f"{part} standard error": error for part, error in result.get("standard_errors", {}).items()}
        | {"status": str(outcome.status), "message": printable(outcome.message), "dir": str(result.get("dir", ""))}
    )


def _remarks(result: Result) -> list[str]:
    missing = result.get("missing_subsets", [])
    said = [f"{len(missing)} subsets of RewardBench have no rows: {', '.join(missing)}"] if missing else []
    said += [f"no overall: {result['reason']}"] if result["reason"] else []
    said += [refusal for refusal in result.get("refusals", []) if refusal not in result["reason"]]
    if "accuracy_low" in result:
        low, high = 100 * result["accuracy_low"], 100 * result["accuracy_high"]
        measured = f"calibration error {result['calibration_error']:.3f}, mean margin {result['margin']:+.3f}"
        said.append(f"accuracy {100 * result['overall']:.1f}, 95% interval {low:.1f} to {high:.1f}; {measured}")
    said.append(remark(result.get("not_finite", {}), len(result["row_results"])))
    if result.get("num_truncated"):
        said.append(f"{result['num_truncated']} texts were cut to max_length={result['max_length']} tokens, at the end of the answer")
    if result.get("num_equal_rows"):
        said.append(f"{result['num_equal_rows']} of {len(result['row_results'])} rows hold completions that are equal after tokenising")
    if "date" in result:
        said.append(f"the chat template writes the date, which was {result['date']} for all texts; on other days scores may differ")
    if judge := result.get("judge"):
        if judge["num_refused"]:
            said.append(f"judge: {judge['num_refused']} requests were refused, the first with: {judge['first_refusal']}")
        said.append(
            f"judge: {judge['num_unparsable']} of {judge['num_judged']} verdicts could not be read ({judge['unparsable_share']:.1%}) and "
            f"earn the credit of chance at best; {judge['num_asked']} were asked for, {judge['num_cached']} were known"
        )
    files = [name for name in (RESULT, ROWS, CHART) if "dir" in result and (Path(result["dir"]) / name).is_file()]
    said.append(f"{result['dir']}: {', '.join(files)}" if files else "")
    return [line for line in said if line]


def main() -> None:
    """Entry point; `bench compare A B` is a command of its own."""
    if sys.argv[1:2] == ["compare"]:
        compare.main(sys.argv[2:])
        return
    start(BenchJob, _command, tell=print_together)


if __name__ == "__main__":
    main()
