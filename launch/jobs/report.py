"""A study's report: its summary and pages, from the records of its runs."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bon.pools import load_pools
from core.hooks.hook import eval_file
from core.runs.record import RunStatus, read_records
from evalhooks.report import print_report, write_over_optimisation, write_report
from evalhooks.report.summary import finished_records, read_summary, summarize
from launch.schema import ReportJob

Summary = dict[str, Any]
"""See `evalhooks.report.summary`; `pools` is their folder, relative to that of the study."""


def build(
    *, study: str, folder: Path, records: Sequence[Mapping[str, Any]], pools: Path, wall_s: float, notes: Sequence[str]
) -> tuple[Summary, Path]:
    """The summary of a study, and the path of its report in `<folder>/report/`.

    Raises `ValueError` if there are no runs: the report would be empty, and replace one that is not.
    """
    if not records:
        raise ValueError(
            f"{folder} holds no finished run, so there is nothing to report, and {folder / 'report'} stays as it is; finish one "
            "(`rewardloop study`), or name the study and runs_dir of those there are."
        )
    policies = [record["lineage"]["base"] for record in records if record["job"] == "ppo"]
    summary = summarize(
        study=study, wall_s=wall_s, records=records, pools=load_pools(pools), policy_lineage=policies[0] if policies else "", notes=notes
    )
    summary["pools"] = os.path.relpath(pools, folder)  # a study that is moved keeps its report
    return summary, write_report(summary, folder / "report")


def show(summary: Mapping[str, Any], path: Path) -> None:
    """Prints the tables of a report and where it lies."""
    # A log has no width of its own; 120 columns hold every task.
    print_report(summary, path, Console(width=None if sys.stdout.isatty() else 120))


def redraw(job: ReportJob, folder: Path) -> None:
    """Draws the report of the study in `folder` anew, and prints it. PPO runs that still train are shown as far as they are."""
    before = read_summary(folder / "report")
    records = [*finished_records(folder), *_unfinished_policies(folder)]
    for record in records:
        if record["job"] == "ppo":
            write_over_optimisation(Path(record["dir"]), Path(record["dir"]) / "over_optimisation.png")
    summary, path = build(
        study=job.study, folder=folder, records=records, pools=folder / before["pools"], wall_s=before["wall_s"], notes=before["notes"]
    )
    show(summary, path)


def _unfinished_policies(folder: Path) -> list[dict[str, Any]]:
    """The records of the PPO runs of a study that still run, or stopped before their end, and were measured at least once."""
    records = read_records(folder, "ppo-*", lambda line: None)  # `finished_records` has said which are broken
    return [record for record in records if record["status"] != RunStatus.finished and eval_file(Path(record["dir"]), 0).exists()]
