"""The report of a table of scores."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from evalhooks.analysis.findings import findings
from evalhooks.analysis.overlap import overlap, read_prompts
from evalhooks.analysis.reference import references
from evalhooks.analysis.self_preference import read_judgements, self_preference
from evalhooks.analysis.table import ScoreTable, read_table
from evalhooks.report.scores.files import print_findings, write_findings
from launch.schema import ReportJob


def beside(job: ReportJob, table: ScoreTable, *, benchmarks: Sequence[str], downstream: Sequence[str]) -> dict[str, Any]:
    """What other files tell beside the table: published numbers, self-preference, and shared prompts, as far as the job names any."""
    found: dict[str, Any] = {}
    if job.reference:
        found["reference"] = references(job.reference, table, benchmarks=benchmarks, downstream=downstream)
    if job.self_preference:
        found["self_preference"] = self_preference(read_judgements(job.self_preference))
    if job.benchmark_prompts:
        asked = read_prompts(job.benchmark_prompts, "benchmark_prompts"), read_prompts(job.task_prompts, "task_prompts")
        found["overlap"] = overlap(*asked)
    return found


def draw(job: ReportJob) -> None:
    """Draws the report of `scores` and prints it. Raises `ValueError` for what is no table of scores; then nothing is written."""
    facts = {"lineage", "group", "base", "data", "template"}
    columns = [*job.benchmarks, *job.downstream, *(name for name in job.diagnostics if name not in facts)]
    table = read_table(job.scores, columns, names=job.names, shares=job.shares)
    found = findings(table, benchmarks=job.benchmarks, downstream=job.downstream, diagnostics=job.diagnostics)
    found |= {"sources": list(table.sources)}
    found |= beside(job, table, benchmarks=job.benchmarks, downstream=job.downstream)
    title = " and ".join(Path(source).stem for source in table.sources)
    out = Path(job.out).expanduser() if job.out else Path(job.runs_dir) / f"report-{'-'.join(Path(s).stem for s in table.sources)}"
    path = write_findings(found, out, title=title)
    # A log has no width of its own.
    print_findings(found, path, Console(width=None if sys.stdout.isatty() else 140))
