"""The numbers of a report as CSV files, as a Markdown page and as tables for the terminal."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from core.text import duration
from evalhooks.report.course import picture_names
from evalhooks.report.details import COST_HEADS, cost_rows, differing, held_out_text, runs_of, warnings_of
from evalhooks.report.facts import Link, RewardModel, Study, number, points, read
from evalhooks.report.prose import best_for_bon, cautions, interval, missing, result
from evalhooks.report.scores.sections import answers
from evalhooks.report.scores.sections import markdown as scores_markdown
from evalhooks.rewardbench.domains import DOMAINS, OVERALL

HEADS = {"factuality": "Fact", "precise_if": "IF", "math": "Math", "safety": "Safe", "focus": "Focus", "ties": "Ties"}
"""Column heads of the domains in the terminal, in their order; before the score that the study compares by."""


def write_tables(study: Study, folder: Path) -> list[Path]:
    """Writes the CSV files into `folder`; shares stay 0..1 at full precision, and a missing number is an empty cell."""
    tables = {
        "reward_models.csv": [_model_row(rm) for rm in study.models],
        "checkpoints.csv": _checkpoint_rows(study),
        "correlation.csv": [_link_row(link) for link in study.links.values()],
        "ppo.csv": _ppo_rows(study),
    }
    return [write_csv(folder / name, rows, FIRST_COLUMNS[name]) for name, rows in tables.items()]


FIRST_COLUMNS = {
    "reward_models.csv": ["id", "name", "base", "data", "lr", "epochs", "seed", "control"],
    "checkpoints.csv": ["kind", "id", "name", "step"],
    "correlation.csv": ["benchmark", "downstream", "pearson", "spearman", "ci95_low", "ci95_high", "n"],
    "ppo.csv": ["id", "name", "rm", "rm_base", "policy_base", "start_average", "best_average", "best_step", "last_average", "gain"],
}
"""The columns that a file has even without a row, so that a reader of an empty one does not fail."""


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], first: Sequence[str]) -> Path:
    """Writes rows under all their columns, those of `first` before the others and even without a row; returns `path`."""
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _model_row(rm: RewardModel) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": rm.id,
        "name": rm.name,
        "base": rm.base,
        "data": rm.data,
        "lr": rm.lr,
        "epochs": rm.epochs,
        "seed": rm.seed,
    }
    row["control"] = rm.control
    row |= {f"rewardbench2/{key}": rm.benchmark.get(key) for key in dict.fromkeys(("overall", rm.score_key, *DOMAINS))}
    row |= {f"rewardbench1/{key}": value for key, value in rm.pairwise.items()}
    size = f"@{rm.bon_n}" if rm.bon_n else ""
    row |= {f"bon/{task}{size}": value for task, value in rm.bon.items()}
    row |= {"rewardbench2_reason": rm.benchmark_reason}
    row |= {f"rewardbench2_se/{key}": value for key, value in (rm.details.get("errors") or {}).items()}
    row |= {f"held_out/{key}": value for key, value in (rm.details.get("held_out") or {}).items()}
    return row | (rm.details.get("cost") or {})


def _checkpoint_rows(study: Study) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rm in study.models:
        rows += [{"kind": "reward model", "id": rm.id, "name": rm.name, **checkpoint} for checkpoint in rm.checkpoints]
    for run in study.runs:
        rows += [{"kind": "ppo", "id": run.id, "name": run.name, **checkpoint} for checkpoint in run.checkpoints]
    return rows


def _link_row(link: Link) -> dict[str, Any]:
    benchmark, _, downstream = link.key.partition("~")
    row = {"benchmark": benchmark, "downstream": downstream, "pearson": link.pearson, "spearman": link.spearman}
    row |= {"ci95_low": link.low, "ci95_high": link.high, "n": link.n}
    return row | {"spearman_ci95_low": link.spearman_low, "spearman_ci95_high": link.spearman_high}


def _ppo_rows(study: Study) -> list[dict[str, Any]]:
    rows = []
    for run in study.runs:
        row = {"id": run.id, "name": run.name, "rm": run.rm, "rm_base": run.rm_base, "policy_base": run.policy_base}
        averages = {"start_average": run.start, "best_average": run.best, "best_step": run.best_step, "last_average": run.last}
        rows.append(row | averages | {"gain": run.gain})
    return rows


def markdown(study: Study) -> str:
    """The report as short Markdown: result, notes, gaps and the tables."""
    parts = [f"# {cell(study.name)}", cell(result(study)), *(f"> {cell(note)}" for note in study.notes)]
    if gaps := missing(study):
        parts.append("Missing:\n\n" + "\n".join(f"- {cell(gap)}" for gap in gaps))
    parts.append("![RewardBench 2 against best-of-N](benchmark_vs_bon.png)")
    if study.models:
        heads = ["reward model", "data", *DOMAINS.values(), study.score_name, *study.tasks, f"{study.bon_name} average"]
        rows = [[_label(rm), rm.data, *map(points, _scores(rm, study))] for rm in study.models]
        parts.append(markdown_table(heads, rows))
    if links := [link for link in study.links.values() if link.key in study.main_links or link.key.endswith("~bon/average")]:
        rows = [[study.link_name(link.key), number(link.pearson), number(link.spearman), interval(link)] for link in links]
        parts.append(markdown_table(["correlation", "Pearson r", "Spearman", "interval"], rows))
    if study.findings:
        parts += scores_markdown(study.findings, cell, without=("Reward models",))
    parts += _markdown_details(study)
    if study.runs:
        parts.append(markdown_table(PPO_HEADS, ppo_cells(study)))
        parts += [f"> {cell(caution)}" for run in study.runs for caution in cautions(run)]
        parts += [f"![Proxy and truth of {cell(run.name)}]({name})" for run, name in zip(study.runs, picture_names(study), strict=False)]
    parts.append("Numbers are points of 100." + ("" if study.wall_s is None else f" The study took {duration(study.wall_s)}."))
    return "\n\n".join(parts) + "\n"


def _markdown_details(study: Study) -> list[str]:
    """Settings that differ with held-out accuracy, cost, and warnings."""
    parts: list[str] = []
    keys, rows = differing(study.models)
    lines = [[_label(rm), *row, held_out_text(rm)] for rm, row in zip(study.models, rows, strict=True)]
    if keys or any(line[-1] != "n/a" for line in lines):
        parts.append(markdown_table(["reward model", *keys, "held-out accuracy"], lines))
    if runs_of(study):
        parts.append(markdown_table(COST_HEADS, cost_rows(study)))
    return parts + [f"> {cell(warning)}" for warning in warnings_of(study)]


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells stay text."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    """Text that stays text in Markdown: one line, no column bars, no tags, no emphasis."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "\\|*_`[]" else char for char in line) if line != "---" else line


PPO_HEADS = ["PPO run", "reward model", "lineage", "start", "best", "at step", "last", "gain"]


def ppo_cells(study: Study) -> list[list[str]]:
    """The PPO runs as rows of `PPO_HEADS`."""
    return [
        [
            run.name,
            run.rm,
            run.lineage or "n/a",
            points(run.start),
            points(run.best),
            "n/a" if run.best_step is None else str(run.best_step),
            points(run.last),
            points(run.gain, sign=True),
        ]
        for run in study.runs
    ]


def _label(rm: RewardModel) -> str:
    return f"{rm.name} (control)" if rm.control else rm.name


def _scores(rm: RewardModel, study: Study) -> list[float | None]:
    """Domains, overall, tasks, average: the order of every table."""
    return [*(rm.benchmark.get(key) for key in HEADS), rm.overall, *(rm.bon.get(task) for task in study.tasks), rm.bon_average]


def terminal_table(summary: Mapping[str, Any], width: int = 120) -> RenderableType:
    """RMs x (domains, overall | tasks, average), the correlations and the PPO outcomes, for a terminal of `width` columns."""
    study = read(summary)
    parts: list[RenderableType] = []
    if study.models:
        parts += [*_model_table(study, width), Text()]
    if held_out := [(rm.name, held_out_text(rm)) for rm in study.models if rm.details.get("held_out")]:
        parts += [Text("Held-out accuracy, points of 100", style="bold blue"), _held_out_table(held_out), Text()]
    if links := [study.links[key] for key in study.main_links if key in study.links]:
        parts += [Text(f"RewardBench 2 {study.score_name} ~ {study.bon_name} average", style="bold blue"), _link_table(links)]
    if study.runs:
        parts += [Text(), Text("PPO, downstream average, points of 100", style="bold blue"), _ppo_table(study, width)]
    if gaps := missing(study):
        parts += [Text(), *(Text(f"missing: {gap}", style="yellow") for gap in gaps)]
    return Group(*parts)


def _model_table(study: Study, width: int) -> list[RenderableType]:
    """The table of RMs; where the tasks do not fit beside a readable name, only their average is shown."""
    longest = max(12, *(len(rm.name) + 2 for rm in study.models))
    tasks = study.tasks
    pad = 2 if width - 2 - 7 * (len(HEADS) + 2) - 8 * len(tasks) >= longest else 1
    fixed = 2 + (5 + pad) * (len(HEADS) + 2)
    if width - fixed - (6 + pad) * len(tasks) < min(longest, 16):
        tasks = []
    spare = width - fixed - longest
    letters = next((size for size in (12, 10, 8, 7) if sum(max(5, min(size, len(task))) + pad for task in tasks) <= spare), 6)
    heads = _short_heads(tasks, letters)
    room = max(12, min(longest, width - fixed - sum(max(5, len(head)) + pad for head in heads)))
    table = Table(box=None, padding=(0, pad, 0, 0), pad_edge=False, header_style="bold")
    title = Text(f"RewardBench 2 (left) and {study.bon_name} accuracy (right), points of 100", style="bold blue")
    table.add_column("reward model", width=room, no_wrap=True)
    for head in [*HEADS.values(), "All" if study.score_key == OVERALL else "Mean", "|", *heads, "Avg"]:
        table.add_column(Text(head), justify="right", no_wrap=True)
    best = best_for_bon(study)
    for rm in study.models:
        left = [_short(score) for score in (*(rm.benchmark.get(key) for key in HEADS), rm.overall)]
        right = [_short(value) for value in (*(rm.bon.get(task) for task in tasks), rm.bon_average)]
        style = "dim" if rm.control else "bold green" if rm is best else ""
        name = _fit(rm.name, room - 2) + (" *" if rm.control else "")
        table.add_row(Text(name), *left, Text("|", style="dim"), *right, style=style)
    table.add_section()
    for name, scores in (("start policy", study.start), ("random pick", study.random), ("oracle", study.oracle)):
        if scores:
            right = [_short(scores.get(task)) for task in (*tasks, "average")]
            table.add_row(name, *[""] * (len(HEADS) + 1), Text("|", style="dim"), *right, style="cyan")
    remarks = ["* control"] * any(rm.control for rm in study.models)
    remarks += [f"Mean = {study.score_name}"] * (study.score_key != OVERALL)
    remarks += [f"{head} = {task}" for head, task in zip(heads, tasks, strict=True) if head != task]
    if study.tasks and not tasks:
        remarks.append(f"{len(study.tasks)} tasks do not fit here; the report has them")
    return [title, table, Text("; ".join(remarks), style="dim")] if remarks else [title, table]


def _held_out_table(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("reward model", overflow="fold")
    table.add_column("accuracy +- standard error", no_wrap=True)
    for name, shown in rows:
        table.add_row(Text(name), shown)
    return table


def _short_heads(tasks: Sequence[str], letters: int) -> list[str]:
    """At most so many letters of each task, told apart by a number where they would be the same."""
    heads: list[str] = []
    for task in tasks:
        head = task[:letters]
        heads.append(head if head not in heads else f"{task[: letters - 2]}{len(heads)}")
    return heads


def _short(value: float | None) -> Text:
    return Text("-" if value is None else points(value))


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _link_table(links: Sequence[Link]) -> Table:
    """The correlation over all RMs and over the subsets that the summary has."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in ("reward models", "Pearson r", "95% interval", "n", "Spearman"):
        table.add_column(head, justify="left" if head == "reward models" else "right", no_wrap=True)
    for link in links:
        subset = link.key.partition(" (")[2].rstrip(")") or "all"
        bounds = "n/a" if link.low is None or link.high is None else f"{number(link.low)} to {number(link.high)}"
        count = "n/a" if link.n is None else str(link.n)
        table.add_row(Text(subset), Text(number(link.pearson), style="bold"), bounds, count, number(link.spearman))
    return table


def _ppo_table(study: Study, width: int) -> Table:
    numbers = [cells[3:] for cells in ppo_cells(study)]
    room = width - 48  # what the other columns take
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("PPO run", no_wrap=True, max_width=max(10, room))
    table.add_column("RM lineage", no_wrap=True)
    for head in PPO_HEADS[3:]:
        table.add_column(head, justify="right", no_wrap=True)
    for run, cells in zip(study.runs, numbers, strict=True):
        style = "" if run.gain is None else "green" if run.gain > 0 else "red"
        lineage = run.lineage.partition(" ")[0] or "n/a"
        table.add_row(Text(_fit(run.name, max(10, room))), lineage, *cells[:-1], Text(cells[-1], style=style))
    return table


def print_report(summary: Mapping[str, Any], report_path: Path, console: Console) -> None:
    """Prints tables and notes, and last of all where the report lies."""
    study = read(summary)
    console.print(terminal_table(summary, console.width))
    found = answers(study.findings) if study.findings else []
    for note in [*study.notes, *(caution for run in study.runs for caution in cautions(run)), *found]:
        console.print()
        console.print(Text(note, style="italic"))
    console.print()
    console.print(Text("Report:" if study.wall_s is None else f"{study.name} took {duration(study.wall_s)}. Report:"))
    console.print(Text(str(report_path), style="bold"), soft_wrap=True)
