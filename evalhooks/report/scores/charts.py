"""The pictures of a table of scores: benchmark against downstream result, grids of correlations, the chances of the pick."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evalhooks.analysis.columns import Columns, columns_in
from evalhooks.analysis.table import Group
from evalhooks.report.charts import FAINT, INK, MARKS, MIX_COLOURS, STYLE, few, plain
from evalhooks.report.scores.preference import write_preference
from evalhooks.report.scores.section import headline

Findings = Mapping[str, Any]

DIVERGING = LinearSegmentedColormap.from_list("r", ["#c9444f", "#f6f8fb", "#2f7ed8"])
MAX_PANELS = 12
"""Panels of the scatter; all correlations stand in the grid and in the files."""

_GREY = "#c3c9d1"


def write_pictures(found: Findings, folder: Path) -> list[Path]:
    """Draws the pictures that the findings have something for into `folder`."""
    drawn, columns = dict[str, Figure](), columns_in(found)
    with matplotlib.rc_context(STYLE):
        if found["models"] and found["downstream"]:
            drawn["benchmark_vs_downstream.png"] = scatters(found, found["benchmarks"], found["downstream"])
        if len(found["benchmarks"]) * len(found["downstream"]) > 1:
            title = "Pearson r, benchmark by downstream result"
            drawn["correlation_grid.png"] = grid(
                found["correlation"], found["benchmarks"], found["downstream"], title, columns, found.get("reference")
            )
        if len(found["compared"]) > 1:
            drawn["benchmarks.png"] = scatters(found, found["compared"][:1], found["compared"][1:], line_of_equals=True)
        if len(found["downstream"]) > 1:
            title = "Pearson r between downstream results"
            drawn["downstream_grid.png"] = grid(found["between_downstream"], found["downstream"], found["downstream"], title, columns)
        if any(entry.get("candidates") for entry in found["pick"].values()):
            drawn["pick.png"] = picks(found)
        for name, figure in drawn.items():
            figure.savefig(folder / name)
    preference = write_preference(found["self_preference"], folder) if found.get("self_preference") else []
    return [*(folder / name for name in drawn), *preference]


def scatters(found: Findings, xs: Sequence[str], ys: Sequence[str], *, line_of_equals: bool = False) -> Figure:
    """A panel for each pair of columns and each protocol: the groups in colours, controls hollow, published points behind in grey.

    The strip is one band of seed noise below the best score: reward models in it may be as good as the best, and are pale.
    """
    chosen = xs if len(xs) * len(ys) <= MAX_PANELS else xs[:1]
    panels = [(x, y, protocol) for x in chosen for y in ys for protocol in (found["protocols"] or [""])][:MAX_PANELS]
    width = min(3, len(panels))
    height = -(-len(panels) // width)
    figure = Figure(figsize=(5.2 * width, 4.6 * height), layout="constrained")
    spaces = np.ravel(figure.subplots(height, width, squeeze=False))
    for axes, (x, y, protocol) in zip(spaces, panels, strict=False):
        _scatter(axes, found, x, y, protocol)
        if line_of_equals:
            low, high = max(axes.get_xlim()[0], axes.get_ylim()[0]), min(axes.get_xlim()[1], axes.get_ylim()[1])
            if low < high:
                axes.plot([low, high], [low, high], color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
    for axes in spaces[len(panels) :]:
        axes.set_visible(False)
    figure.legend(handles=_keys(found, line_of_equals=line_of_equals), loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def _scatter(axes: Axes, found: Findings, x: str, y: str, protocol: str) -> None:
    several, columns = len(found["protocols"]) > 1, columns_in(found)
    models = [m for m in found["models"] if x in m["scores"] and y in m["scores"] and (not several or m["protocol"] == protocol)]
    for source in found.get("reference") or []:
        spots = source.get("points", {}).get(f"{x}~{y}", [])
        across, upwards = [columns.scaled(x, spot[0]) for spot in spots], [columns.scaled(y, spot[1]) for spot in spots]
        axes.plot(across, upwards, "o", color=_GREY, markersize=5, markeredgewidth=0, zorder=1)
    noise = (found["seed_noise"].get(x) or {}).get("band")
    best = max((m["scores"][x] for m in models if not m["control"]), default=None)
    if noise is not None and best is not None:
        axes.axvspan(columns.scaled(x, best - noise), columns.scaled(x, best), color="#e9ecf0", zorder=0, linewidth=0)
    groups = _groups(found)
    alike: dict[tuple[int, bool, bool], list[Mapping[str, Any]]] = {}
    for model in models:
        pale = noise is not None and best is not None and best - noise <= model["scores"][x] < best
        alike.setdefault((groups.index(_group(found, model)), model["control"], pale), []).append(model["scores"])
    for (place, control, pale), scores in alike.items():  # points of one look at once: hundreds of lines take seconds to draw
        tint = MIX_COLOURS[place % len(MIX_COLOURS)]
        axes.plot(
            [columns.scaled(x, own[x]) for own in scores],
            [columns.scaled(y, own[y]) for own in scores],
            linestyle="",
            marker=MARKS[place % len(MARKS)][0],
            color=tint,
            markerfacecolor="white" if control else tint,
            markersize=8,
            markeredgewidth=1.5,
            alpha=0.45 if pale else 1.0,
            zorder=3,
        )
    for policy in found["policies"]:
        if y in policy["scores"]:
            height = columns.scaled(y, policy["scores"][y])
            axes.axhline(height, color=FAINT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
            text = f"{plain(policy['name'], 40)} {columns.value(y, policy['scores'][y])}"
            axes.annotate(text, (0.01, height), (0, 3), ("axes fraction", "data"), textcoords="offset points", color="#5b6673", fontsize=8)
    _fit(axes, [(columns.scaled(x, m["scores"][x]), columns.scaled(y, m["scores"][y])) for m in models])
    label = f" ({protocol or 'protocol unknown'})" if several else ""
    axes.set_title(headline(_link(found, f"{x}~{y}{label}")) + (f"\n{plain(protocol or 'protocol unknown', 60)}" if several else ""))
    axes.set_xlabel(plain(columns.axis(x), 50))
    axes.set_ylabel(plain(columns.axis(y), 50))
    axes.margins(0.08)


def _link(found: Findings, key: str) -> Mapping[str, Any]:
    return found["correlation"].get(key) or found["between_benchmarks"].get(key) or {}


def _fit(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    if len(points) < 3 or np.ptp([x for x, _ in points]) == 0:
        return
    slope, intercept = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    ends = np.array([min(x for x, _ in points), max(x for x, _ in points)])
    axes.plot(ends, slope * ends + intercept, color=INK, linewidth=1.2, alpha=0.45, zorder=2)


def _group(found: Findings, model: Mapping[str, Any]) -> str:
    """The group of a reward model; where some have none, as without a PPO run, the base of all that are no controls."""
    if model["control"]:
        return Group.controls
    key = "group" if all(other["control"] or other["facts"].get("group") for other in found["models"]) else "base"
    return str(model["facts"].get(key) or "reward models")


def _groups(found: Findings) -> list[str]:
    known = [group.value for group in Group]
    there = dict.fromkeys(_group(found, model) for model in found["models"])
    return sorted(there, key=lambda group: known.index(group) if group in known else -1)


def _keys(found: Findings, *, line_of_equals: bool) -> list[Line2D]:
    keys = few(
        [
            Line2D(
                [],
                [],
                marker=MARKS[place % len(MARKS)][0],
                linestyle="",
                color=MIX_COLOURS[place % len(MIX_COLOURS)],
                markerfacecolor="white" if group == Group.controls else MIX_COLOURS[place % len(MIX_COLOURS)],
                label=plain(group),
            )
            for place, group in enumerate(_groups(found))
        ]
    )
    if any(found["seed_noise"].values()):
        keys.append(Line2D([], [], color="#d5dae1", linewidth=8, label="within seed noise of the best"))
    if any(source.get("points") for source in found.get("reference") or []):
        keys.append(Line2D([], [], marker="o", linestyle="", color=_GREY, label="published"))
    if line_of_equals:
        keys.append(Line2D([], [], color=FAINT, linestyle=":", label="equal scores"))
    return keys


def grid(
    links: Mapping[str, Any],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    called: Columns,
    reference: Sequence[Mapping[str, Any]] | None = None,
) -> Figure:
    """A grid of Pearson correlations with their intervals (figures 3 and 7 of the paper); published ones stand below in small."""
    figure = Figure(figsize=(max(6.0, 2.4 + 1.15 * len(columns)), 1.9 + 0.62 * len(rows)), layout="constrained")
    axes = figure.subplots()
    cells = [[links.get(f"{x}~{y}") or links.get(f"{y}~{x}") or {} for y in columns] for x in rows]
    values = [[np.nan if cell.get("pearson") is None else cell["pearson"] for cell in line] for line in cells]
    axes.imshow(np.array(values, dtype=float), cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            if rows[row] == columns[column]:
                continue
            r = cell.get("pearson")
            text = "n/a" if r is None else f"{r:.2f}"
            tint = FAINT if r is None else "white" if abs(r) > 0.7 else INK
            axes.text(column, row - 0.17, text, ha="center", va="center", fontsize=9.5, weight="bold", color=tint)
            below = f"n = {cell.get('n', 0)}" if not cell.get("ci95") else f"{cell['ci95'][0]:.2f} to {cell['ci95'][1]:.2f}"
            published = _published(reference, rows[row], columns[column])
            axes.text(column, row + 0.22, f"{below}{published}", ha="center", va="center", fontsize=6.5, color=tint)
    axes.set_xticks(
        range(len(columns)), [plain(called.name(name), 24) for name in columns], rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(rows)), [plain(called.name(name), 30) for name in rows])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    counts = sorted({cell["n"] for line in cells for cell in line if cell.get("n")})
    many = "" if not counts else f", n = {counts[0]}" if len(counts) == 1 else f", n = {counts[0]} to {counts[-1]}"
    figure.suptitle(f"{title}{many}", fontsize=10.5, x=0.01, ha="left")
    return figure


def _published(reference: Sequence[Mapping[str, Any]] | None, x: str, y: str) -> str:
    found = [source["pearson"][f"{x}~{y}"] for source in reference or [] if f"{x}~{y}" in source.get("pearson", {})]
    return f"\npublished {found[0]:.2f}" if found else ""


def picks(found: Findings) -> Figure:
    """The probability of each reward model to be the best, one panel for each downstream result; the pick stands first."""
    entries, columns = [(key, entry) for key, entry in found["pick"].items() if entry.get("candidates")][:6], columns_in(found)
    figure = Figure(figsize=(5.6 * min(3, len(entries)), 4.2 * -(-len(entries) // 3)), layout="constrained")
    spaces = np.ravel(figure.subplots(-(-len(entries) // 3), min(3, len(entries)), squeeze=False))
    for axes, (key, entry) in zip(spaces, entries, strict=False):
        ordered = sorted(entry["candidates"], key=lambda one: (one["name"] != entry["model"], -one["probability"], one["regret"]))[:10][
            ::-1
        ]
        colours = [MIX_COLOURS[2] if one["name"] == entry["model"] else MIX_COLOURS[0] for one in ordered]
        axes.barh(range(len(ordered)), [one["probability"] for one in ordered], color=colours, height=0.62)
        axes.set_yticks(range(len(ordered)), [plain(one["name"], 30) for one in ordered])
        x, _, y = key.partition("~")
        unit = x if entry["slope"] is None else y
        for row, one in enumerate(ordered):
            text = f"{one['probability']:.2f}, regret {columns.value(unit, one['regret'])}"
            axes.text(one["probability"] + 0.015, row, text, va="center", fontsize=8)
        axes.set_xlim(0, 1.35)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{plain(f'By {columns.name(x)}', 48)}\n{plain(f'for {columns.name(y)}', 48)}")
        axes.set_xlabel(f"probability of being the best\n{plain(f'regret in {columns.axis(unit)}', 48)}")
    for axes in spaces[len(entries) :]:
        axes.set_visible(False)
    return figure
