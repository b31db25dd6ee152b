"""The report of a study: one page, its charts as PNGs, its numbers as CSV, Markdown and JSON, and tables for the terminal."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalhooks.report.charts import write_charts
from evalhooks.report.course import write_courses, write_over_optimisation
from evalhooks.report.dashboard.frame import without_scripts
from evalhooks.report.dashboard.page import render_page
from evalhooks.report.details import write_losses
from evalhooks.report.facts import clean, read
from evalhooks.report.scores.charts import write_pictures
from evalhooks.report.tables import markdown, print_report, terminal_table, write_tables

__all__ = ["page_of", "print_report", "terminal_table", "without_scripts", "write_over_optimisation", "write_report"]


def write_report(summary: Mapping[str, Any], out: Path) -> Path:
    """Writes the report of `summary` (what `facts.read` reads) into the folder `out` and returns its report.html.

    Beside the page lie benchmark_vs_bon.png, domains.png, ppo.png, training.png, losses.png (where a loss was logged), an
    over_optimisation-*.png for each of the first PPO runs, the pictures of the findings (`scores.charts`), reward_models.csv,
    checkpoints.csv, correlation.csv, ppo.csv, report.md and summary.json. All are made in a temporary folder and renamed into place, the
    page last, so an interrupted report leaves the files of the one before it. Everything optional in the summary may be missing; the
    report says what is.
    """
    study, out = read(summary), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as name:
        folder = Path(name)
        made = [*write_charts(study, folder), *write_courses(study, folder), *write_tables(study, folder)]
        made += write_losses(study, folder / "losses.png")
        made += write_pictures(study.findings, folder) if study.findings else []
        texts = {
            "report.md": markdown(study),
            "summary.json": json.dumps(clean(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "report.html": render_page(study),
        }
        for filename, text in texts.items():
            path = folder / filename
            path.write_text(text, encoding="utf-8")
            made.append(path)
        for path in made:
            os.replace(path, out / path.name)
    return out / "report.html"


def page_of(summary: Mapping[str, Any], *, version: str) -> str:
    """The page of a summary as a server sends it, which writes nothing; its script asks the server for a version after `version`."""
    return render_page(read(summary), version=version)
