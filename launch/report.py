"""`rewardloop report`: a study's report, drawn anew from its runs on disk; PPO runs take part while they still train."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.entry import Composed, start


def build(
    *, study: str, folder: Path, records: Sequence[Mapping[str, Any]], pools: Path, wall_s: float, notes: Sequence[str]
) -> tuple[dict[str, Any], Path]:
    """The summary of a study, and its report in `<folder>/report/`."""
    from bon.pools import load_pools
    from evalhooks.report import write_report
    from evalhooks.report.summary import summarize

    policies = [record["lineage"]["base"] for record in records if record["job"] == "ppo"]
    summary = summarize(
        study=study, wall_s=wall_s, records=records, pools=load_pools(pools), policy_lineage=policies[0] if policies else "", notes=notes
    )
    summary["pools"] = os.path.relpath(pools, folder)  # a study that is moved keeps its report
    return summary, write_report(summary, folder / "report")


def _command(composed: Composed) -> None:
    from rich.console import Console

    from evalhooks.report import print_report, write_over_optimisation
    from evalhooks.report.summary import finished_records, read_summary
    from launch.schema import ReportJob

    job = composed.job
    assert isinstance(job, ReportJob)
    folder = Path(job.runs_dir) / job.study
    if not (folder / "report" / "summary.json").is_file():
        raise ValueError(f"{folder} has no report yet; run `rewardloop study` for study={job.study} first.")
    before = read_summary(folder / "report")
    records = [*finished_records(folder), *_unfinished_policies(folder)]
    for record in records:
        if record["job"] == "ppo":
            write_over_optimisation(Path(record["dir"]), Path(record["dir"]) / "over_optimisation.png")
    summary, path = build(
        study=job.study, folder=folder, records=records, pools=folder / before["pools"],
        wall_s=before["wall_s"], notes=before["notes"],
    )  # fmt: skip
    print_report(summary, path, Console(width=None if sys.stdout.isatty() else 120))


def _unfinished_policies(folder: Path) -> list[dict[str, Any]]:
    """The records of the PPO runs of a study that still run, or stopped before their end, and were measured at least once."""
    from core.hooks.hook import eval_file
    from core.runs.record import read_record

    records = [{**read_record(path.parent), "dir": str(path.parent)} for path in sorted(folder.glob("ppo-*/record.json"))]
    return [record for record in records if record["status"] != "finished" and eval_file(Path(record["dir"]), 0).exists()]


def main() -> None:
    """Entry point."""
    start("report", _command)


if __name__ == "__main__":
    main()
