"""The report of a table of scores: one page with its pictures, the numbers as CSV, Markdown and JSON, and lines for the terminal."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evalhooks.analysis.columns import columns_in
from evalhooks.report.dashboard.explorer import of_findings
from evalhooks.report.dashboard.frame import FIGURES, explorer, scripts
from evalhooks.report.facts import clean
from evalhooks.report.scores.charts import write_pictures
from evalhooks.report.scores.section import interval, number
from evalhooks.report.scores.sections import answers, html, markdown
from evalhooks.report.style import page_head
from evalhooks.report.tables import cell, write_csv


def write_findings(found: Mapping[str, Any], out: Path, *, title: str) -> Path:
    """Writes the report of `found` (see `evalhooks.analysis.findings`) into the folder `out` and returns its report.html.

    Beside the page lie the pictures, correlation.csv, models.csv, report.md and summary.json. All are made in a temporary folder and
    renamed into place, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as name:
        folder = Path(name)
        made = write_pictures(found, folder)
        made.append(write_csv(folder / "correlation.csv", [_row(key, link) for key, link in found["correlation"].items()], ["key"]))
        models = [{"name": model["name"], **model["facts"], **model["scores"]} for model in found["models"]]
        made.append(write_csv(folder / "models.csv", models, ["name"]))
        texts = {
            "report.md": "\n\n".join([f"# {cell(title)}", *markdown(found, cell)]) + "\n",
            "summary.json": json.dumps(clean(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "report.html": _page(found, title),
        }
        put_in_place(made, texts, out)
    return out / "report.html"


def put_in_place(made: Sequence[Path], texts: Mapping[str, str], out: Path) -> None:
    """Writes the texts beside the files already made, and renames all of them into `out`, the texts last and in their order."""
    folder = made[0].parent
    for filename, text in texts.items():
        (folder / filename).write_text(text, encoding="utf-8")
    for path in (*made, *(folder / filename for filename in texts)):
        os.replace(path, out / path.name)


def _row(key: str, link: Mapping[str, Any]) -> dict[str, Any]:
    row = {"key": key, **{name: value for name, value in link.items() if not isinstance(value, list)}}
    for name, value in link.items():
        if isinstance(value, list):
            row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
    return {name: value for name, value in row.items() if not (name.endswith("ci95") and value is None)}


_SCRIPTS = ("table.js", "drawing.js", "explore.js", "scores.js")


def _page(found: Mapping[str, Any], title: str) -> str:
    data = {"explorer": of_findings(found)}
    return f"""{page_head(title)}<body>
<main>
<header><p class="kicker">rewardloop scores</p><h1>{escape(title)}</h1>
<p class="meta">{len(found["models"])} reward models, {escape(", ".join(found.get("sources", [])))}</p></header>
{explorer(data["explorer"], "Any score against any other")}
{html(found, FIGURES)}
</main>
{scripts(data, _SCRIPTS)}</body>
</html>
"""


def print_findings(found: Mapping[str, Any], path: Path, console: Console) -> None:
    """Prints the correlations, the answers, what was left out, and last of all where the report lies."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in ("correlation", "Pearson r", "95% interval", "n", "Spearman", "Kendall"):
        table.add_column(head, justify="left" if head == "correlation" else "right", no_wrap=head != "correlation", overflow="fold")
    links, columns = found["correlation"] or found["between_benchmarks"], columns_in(found)
    for key, link in links.items():
        shown = (number(link["pearson"]), interval(link["ci95"]), str(link["n"]), number(link["spearman"]), number(link["kendall"]))
        table.add_row(Text(columns.link(key)), *shown)
    console.print(table)
    said = [f"{columns.link(key)}: {link['note']}" for key, link in links.items() if link["note"] and " (" not in key]
    for text in [*said, *answers(found)]:
        console.print()
        console.print(Text(text))
    console.print()
    console.print(Text("Report:"))
    console.print(Text(str(path), style="bold"), soft_wrap=True)
