"""`rewardloop bench`: RewardBench 2 or 1 of a reward, of scores that are there already, or two results compared."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.disk import read_json
from core.process.signals import stopping_at_once
from core.progress import Progress, console_progress
from core.records import BenchmarkRow, Prompt, ScoredRow
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
from launch.jobs.bench_result import CHART, RESULT, ROWS, Result, parts_of, result_of, write_result
from launch.jobs.lifecycle import RunPlan, finished_record, say_finished
from launch.rewards.config import KINDS, RewardKind
from launch.rewards.locate import LocatedReward, locate_reward, try_program
from launch.schema import BenchJob, Benchmark


def run(composed: Composed[BenchJob], progress: Progress) -> Result:
    """The result of a configuration: from saved scores, from a finished run of the same settings, or by scoring anew."""
    job = composed.job
    out = Path(job.out).expanduser() if job.out else None
    if out is not None:
        _require_out(out, {"rows": job.rows, "from_scores": job.from_scores, "prior_sets": job.prior_sets})
    prior_sets = read_prior_sets(job.prior_sets) if job.prior_sets else {}
    if job.from_scores:
        return _from_scores(job, out, prior_sets)
    # The data first: a broken row must not be found after a model has been loaded.
    rows = bench_rows(job)
    if job.benchmark == Benchmark.rewardbench2 and (problems := v2.ties_problems(_unscored_ties(rows))):
        print(printable(f"warning: Ties will have no score. {' '.join(problems)}"), file=sys.stderr)
    if job.reward.kind == RewardKind.judge:
        require_usable(job.reward.judge)
    reward = locate_reward(job.reward, job.runs_dir)
    try_program(job.reward, Prompt(id=rows[0].id, dialogue=rows[0].dialogue), completions=rows[0].completions)
    plan = _plan(job, reward)
    if (record := finished_record(job, plan)) is not None:
        say_finished(record["dir"])
    else:
        with stopping_at_once():
            from launch.jobs import bench  # torch, which takes seconds: what is likely to be wrong has been found by now

        record = bench.run(composed, plan, BenchInputs(rows=rows, reward=reward, prior_sets=prior_sets), progress)
    folder = Path(record["dir"])
    if out is not None:
        shutil.copyfile(folder / RESULT, out)
        shutil.copyfile(folder / ROWS, out.with_suffix(".parquet"))
    result = read_json(folder / RESULT, remedy=f"remove the folder {folder} to score again")
    return {"dir": str(folder), "wall_s": record["wall_s"], **result}


def _from_scores(job: BenchJob, out: Path | None, prior_sets: Mapping[str, float]) -> Result:
    """The result of scores that are there already."""
    is_first, is_table = job.benchmark == Benchmark.rewardbench1, job.from_scores.endswith(".parquet")
    rows = (read_scores1 if is_first else read_scores2)(job.from_scores)
    # What a run wrote (rows.parquet) tells a judge's draws by their credit.
    generative = job.generative or (is_first and is_table and 0.5 in read_credits(job.from_scores))
    result = result_of(job.benchmark, job.from_scores, rows, prior_sets, generative=generative)
    if out is not None:
        write_result(out, out.with_suffix(".parquet"), result, ScoredBenchmark(rows=tuple(rows), details=(None,) * len(rows)))
    return result


def _plan(job: BenchJob, reward: LocatedReward) -> RunPlan:
    """The run of a job. A reward that may score otherwise another day, though its settings are the same, gets a new run every time."""
    asked = {"asked": datetime.now(UTC).isoformat()} if KINDS[job.reward.kind].varies else {}
    name = f"{job.benchmark}-{_short(reward.name)}"
    return RunPlan(kind="bench", name=name, identity=identity_of(job) | asked, facts={"reward": reward.name})


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


def _command(composed: Composed[BenchJob]) -> None:
    result = run(composed, console_progress())
    errors = result.get("standard_errors", {})
    console, table = Console(), Table()
    title = printable(f"{result['benchmark']} of {result['reward']}")
    console.print(escape(title), soft_wrap=True, highlight=False)  # may be wider than the table
    for column in ("domain" if "standard_errors" in result else "section", "score", *(["standard error"] if errors else [])):
        table.add_column(column, justify="left" if column in ("domain", "section") else "right")
    for part, score in parts_of(result).items():
        shown = "missing" if score is None else f"{100 * score:.1f}"
        table.add_row(escape(printable(part)), shown, *([f"{100 * errors[part]:.1f}" if part in errors else ""] if errors else []))
    console.print(table)
    for said in _remarks(result):
        print_on_main(said)


def _remarks(result: Result) -> list[str]:
    missing = result.get("missing_subsets", [])
    said = [f"{len(missing)} subsets of RewardBench have no rows: {', '.join(missing)}"] if missing else []
    said += [f"no overall: {result['reason']}"] if result["reason"] else []
    said += [refusal for refusal in result.get("refusals", []) if refusal not in result["reason"]]
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
    said.append(f"{result['dir']}: {RESULT}, {ROWS}, {CHART}" if "dir" in result else "")
    return [line for line in said if line]


def main() -> None:
    """Entry point; `bench compare A B` is a command of its own."""
    if sys.argv[1:2] == ["compare"]:
        compare.main(sys.argv[2:])
        return
    start(BenchJob, _command)


if __name__ == "__main__":
    main()
