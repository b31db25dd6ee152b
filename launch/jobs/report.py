"""A study's report: its summary and pages, from the records of its runs."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from core.hooks.hook import eval_file
from core.runs.identity import identity_hash
from core.runs.record import RECORD, RunStatus, read_records, value_at
from evalhooks.report import print_report, write_over_optimisation, write_report
from evalhooks.report.course import MAX_PICTURES
from evalhooks.report.joined import reward_models_of
from evalhooks.report.run_scores import run_findings, table_of, without_scores
from evalhooks.report.summary import finished_records, read_summary, summarize
from launch.inputs import read_pools
from launch.jobs.scores import beside
from launch.jobs.told import Told, told_by
from launch.schema import ReportJob

PICTURE = "over_optimisation.png"
"""In the folder of a PPO run."""

Summary = dict[str, Any]
"""See `evalhooks.report.summary`; `pools` is their folder, relative to that of the study."""


def build(
    *,
    study: str,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    pools: Path | None,
    wall_s: float,
    notes: Sequence[str],
    out: Path | None = None,
    asked: ReportJob | None = None,
) -> tuple[Summary, Path]:
    """The summary of a study, and the path of its report in `out`, by default `<folder>/report/`; `asked` names columns to compare.

    Raises `ValueError` if there are no runs: the report would be empty, and replace one that is not.
    """
    out = folder / "report" if out is None else out
    if all(record["job"] == "bon" and not reward_models_of(record) for record in records):  # pools alone
        raise ValueError(
            f"{folder} holds no finished run, so there is nothing to report, and {out} stays as it is; finish one "
            "(`rewardloop study`), or name the study and runs_dir of those there are."
        )
    policies = [str(base) for record in records if record["job"] == "ppo" and (base := value_at(record, "lineage.base"))]
    summary = summarize(
        study=study,
        wall_s=wall_s,
        records=records,
        pools=None if pools is None else read_pools(str(pools)),
        policy_lineage=policies[0] if policies else "",
        notes=notes,
    )
    add_findings(summary, asked or ReportJob(), told_by(records))
    if pools is not None:
        summary["pools"] = os.path.relpath(pools, folder)  # a study that is moved keeps its report
    return summary, write_report(summary, out)


def add_findings(summary: Summary, asked: ReportJob, told: Told = ({}, [])) -> None:
    """Adds to a summary what its reward models say of benchmarks and downstream use, and what runs have `told` of their texts: `findings`,
    and their correlations to its own.

    Raises `ValueError` for a column that is not there.
    """
    found = run_findings(summary, benchmarks=asked.benchmarks, downstream=asked.downstream, diagnostics=asked.diagnostics)
    texts, notes = told
    if found is None and not texts and not asked.self_preference and not asked.benchmark_prompts:
        summary["notes"] = [*summary["notes"], *notes]
        return
    found = without_scores() if found is None else found
    found |= texts | {"left_out": [*found["left_out"], *notes]}
    found |= beside(asked, table_of(summary), benchmarks=found["benchmarks"], downstream=found["downstream"])
    summary["findings"] = found
    summary["correlation"] |= found["correlation"]


def show(summary: Mapping[str, Any], path: Path) -> None:
    """Prints the tables of a report and where it lies."""
    # A log has no width of its own; 120 columns hold every task.
    print_report(summary, path, Console(width=None if sys.stdout.isatty() else 120))


def draw(job: ReportJob, chosen: Sequence[Mapping[str, Any]]) -> None:
    """Draws the report of the `chosen` runs, or else of the study, and prints it. PPO runs that still train are shown as far as they are.

    Raises `ValueError` if none of the runs has finished.
    """
    folder = Path(job.runs_dir) / job.study
    out = Path(job.out).expanduser() if job.out else None
    if chosen:
        records = [record for record in chosen if record["status"] == RunStatus.finished or _is_measured_policy(record)]
        for record in chosen:
            if record not in records:
                print(f"{record['dir']} is left out: it is not finished ({record['status']})")
        named = "-".join(dict.fromkeys(Path(record["dir"]).absolute().parent.name for record in records))
        mark = identity_hash({"runs": sorted(str(record["id"]) for record in records)})
        study, folder, out = named or job.study, Path(job.runs_dir), out or Path(job.runs_dir) / f"report-{mark}"
    else:
        study, records = job.study, [*finished_records(folder), *_unfinished_policies(folder)]
    before = read_summary(folder / "report") if not chosen and (folder / "report" / "summary.json").is_file() else {}
    if "seeds" in before:
        raise ValueError(
            f"{folder} compares seeds, and `rewardloop study` draws its report anew from what is finished; the report of one seed is that "
            f"of study={job.study}-seed{before['seeds'][0]}."
        )
    pools = folder / before["pools"] if "pools" in before else folder / "pools"
    _draw_missing([Path(record["dir"]) for record in records if record["job"] == "ppo"])
    summary, path = build(
        study=study,
        folder=folder,
        records=records,
        pools=pools if not chosen and pools.exists() else None,
        wall_s=before.get("wall_s", sum(record.get("wall_s", 0.0) for record in records)),
        notes=before.get("given_notes", before.get("notes", [])),
        out=out,
        asked=job,
    )
    show(summary, path)


def _draw_missing(policies: Sequence[Path]) -> None:
    """Draws the pictures of PPO runs that are missing or older than the run, of the first few: each takes half a second."""
    due = [folder for folder in policies if not _is_drawn(folder)]
    for folder in due[:MAX_PICTURES]:
        write_over_optimisation(folder, folder / PICTURE)
    if late := due[MAX_PICTURES:]:
        print(f"{len(late)} PPO runs are left without {PICTURE}, {late[0].name} first; `rewardloop report runs=[RUN]` draws it")


def _is_drawn(run_dir: Path) -> bool:
    """Whether the picture in a run's folder is newer than all that it shows."""
    shown = [run_dir / RECORD, run_dir / "evals", *(run_dir / "evals").glob("step-*.json")]
    picture = run_dir / PICTURE
    return picture.is_file() and all(file.stat().st_mtime < picture.stat().st_mtime for file in shown)


def _is_measured_policy(record: Mapping[str, Any]) -> bool:
    return record["job"] == "ppo" and eval_file(Path(record["dir"]), 0).exists()


def _unfinished_policies(folder: Path) -> list[dict[str, Any]]:
    """The records of the PPO runs of a study that still run, or stopped before their end, and were measured at least once."""
    records = read_records(folder, "ppo-*", lambda line: None)  # `finished_records` has said which are broken
    return [record for record in records if record["status"] != RunStatus.finished and _is_measured_policy(record)]
