"""The report of a study over several seeds: what each criterion picked, what that was worth, and the differences over the seeds."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.text import duration
from evalhooks.report.dashboard.table import table
from evalhooks.report.facts import clean, points
from evalhooks.report.scores.files import put_in_place
from evalhooks.report.style import SCRIPT, page_head
from evalhooks.report.tables import cell, markdown_table, write_csv

_COMPARED_HEADS = ["Instead of", "Use", "Difference", "95% interval", "n", "Same reward model", "Better"]
_PICKED_HEADS = ["Seed", "Criterion", "Reward model", "Its score"]


def write_settled(summary: Mapping[str, Any], out: Path) -> Path:
    """Writes report.html, report.md, picks.csv, comparisons.csv and summary.json into the folder `out`; returns the page.

    `summary` has `study`, `seeds`, `uses`, `picks`, `comparisons`, `answer`, `notes` and `wall_s` (see `launch.studies.settled`). The
    files are made in a temporary folder and renamed into place, the page last.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as name:
        folder = Path(name)
        made = [
            write_csv(folder / "picks.csv", [_flat(row) for row in summary["picks"]], ["seed", "criterion"]),
            write_csv(folder / "comparisons.csv", [_flat(entry) for entry in summary["comparisons"]], ["a", "b", "use"]),
        ]
        texts = {
            "report.md": _markdown(summary),
            "summary.json": json.dumps(clean(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "report.html": _page(summary),
        }
        put_in_place(made, texts, out)
    return out / "report.html"


def print_settled(summary: Mapping[str, Any], path: Path, console: Console) -> None:
    """Prints both tables, the answer and where the report lies."""
    for heads, rows in _tables(summary).values():
        shown = Table()
        for head in heads:
            shown.add_column(Text(head))
        for row in rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    for text in [summary["answer"], *summary["notes"], str(path)]:
        console.print(Text(text), soft_wrap=True)


def _tables(summary: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Heads and rows of both tables, by title."""
    uses = list(summary["uses"])
    picked = [
        [str(row["seed"]), row["label"], row["name"], points(row["score"]), *(points(row["worth"].get(use)) for use in uses)]
        for row in summary["picks"]
    ]
    compared = [
        [
            _instead(entry),
            entry["use"],
            points(entry["mean"], sign=True),
            "n/a" if entry["ci95"] is None else f"{points(entry['ci95'][0], sign=True)} to {points(entry['ci95'][1], sign=True)}",
            str(entry["n"]),
            str(entry["same"]),
            {entry["a"]: "yes", entry["b"]: "no"}.get(entry["better"], "cannot tell"),
        ]
        for entry in summary["comparisons"]
    ]
    return {
        "What was picked, and what it was worth": ([*_PICKED_HEADS, *(f"{use[0].upper()}{use[1:]}" for use in uses)], picked),
        "Paired differences over the seeds": (_COMPARED_HEADS, compared),
    }


def _instead(entry: Mapping[str, Any]) -> str:
    return f"{entry['a']} instead of {entry['b']}"


def _page(summary: Mapping[str, Any]) -> str:
    took = duration(summary["wall_s"])
    parts = [
        page_head(str(summary["study"])),
        f'<body><main><header><p class="kicker">rewardloop study</p><h1>{escape(summary["study"])}</h1>',
        f'<p class="meta">{len(summary["seeds"])} seeds, {took}</p></header>',
        f'<p class="result">{escape(summary["answer"])}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in summary["notes"]),
    ]
    for title, (heads, rows) in _tables(summary).items():
        words = 3 if heads[0] == "Seed" else 2
        parts.append(f"<section><h2>{escape(title)}</h2>{table(heads, rows, words=words)}</section>")
    return "\n".join([*parts, f"</main><script>{SCRIPT}</script></body></html>", ""])


def _markdown(summary: Mapping[str, Any]) -> str:
    parts = [f"# {cell(summary['study'])}", *map(cell, [summary["answer"], *summary["notes"]])]
    for title, (heads, rows) in _tables(summary).items():
        parts += [f"## {title}", markdown_table(heads, rows)]
    return "\n\n".join(parts) + "\n"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a CSV file: mappings by dotted key, lists as text."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{name}": own for name, own in value.items()}
        else:
            found[key] = " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return found
