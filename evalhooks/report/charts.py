"""The charts of a report as PNGs, for READMEs, slides and W&B; interactive.py draws the same ones for the page."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from evalhooks.metric_names import STEP
from evalhooks.report.facts import PpoRun, RewardModel, Study, number, points, series, shorten
from evalhooks.report.prose import interval
from evalhooks.rewardbench.domains import DOMAINS

MIX_COLOURS = ("#2f7ed8", "#e07b1a", "#1a9c7c", "#9a5fc9", "#c9444f", "#7c8794")
"""One per preference mix. Each is readable on white and on near-black."""

RUN_COLOURS = ("#1a9c7c", "#c9444f", "#9a5fc9", "#b8860b", "#2f7ed8", "#7c8794")
"""One per PPO run."""

MARKS = (("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"))
"""One per lineage: the name of the mark in matplotlib and in plotly."""

MAX_ROWS = 60
"""Reward models in a picture, but for points without names; one with more could not be read, and takes long. The page shows all."""

MAX_KEYS = 12
"""Entries of one kind in a legend: one that is larger than its picture leaves no room for it."""

INK, FAINT = "#1c2430", "#7c8794"
SEQUENTIAL = LinearSegmentedColormap.from_list("share", ["#f6f8fb", "#2f7ed8"])
FONT = "DejaVu Sans"
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": 9.5,
    "text.parse_math": False,  # names are data: a dollar sign in one must not start a formula
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#c6ccd4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "grid.color": "#e9ecf0",
    "xtick.color": "#4a5563",
    "ytick.color": "#4a5563",
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def write_charts(study: Study, folder: Path) -> list[Path]:
    """Draws every PNG into `folder`; a chart without data says so in its own picture."""
    drawers: dict[str, Callable[[Study], Figure]] = {
        "benchmark_vs_bon.png": benchmark_vs_bon,
        "domains.png": domains,
        "ppo.png": ppo,
        "training.png": training,
    }
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawers.items():
            draw(study).savefig(folder / name)
            paths.append(folder / name)
    return paths


def colour(study: Study, data: str) -> str:
    """The colour of a preference mix, the same one in every chart of a report."""
    return MIX_COLOURS[study.mixes.index(data) % len(MIX_COLOURS)]


def mark(study: Study, base: str) -> tuple[str, str]:
    """The mark of a lineage in matplotlib and in plotly."""
    return MARKS[study.bases.index(base) % len(MARKS)]


def scored(study: Study) -> list[RewardModel]:
    """The RMs that have both scores of the scatter."""
    return [rm for rm in study.models if rm.overall is not None and rm.bon_average is not None]


def regression(study: Study) -> tuple[np.ndarray, np.ndarray] | None:
    """Ends of the least-squares line through all scored RMs, in points; None where two points or no spread forbid it."""
    x = np.array([100 * (rm.overall or 0.0) for rm in scored(study)])
    y = np.array([100 * (rm.bon_average or 0.0) for rm in scored(study)])
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    ends = np.array([x.min(), x.max()])
    return ends, slope * ends + intercept


def start_line(study: Study) -> list[tuple[float, str]]:
    """Height, in points, and label of the line of the policy alone; empty where its average is missing."""
    start = study.start.get("average")
    return [] if start is None else [(100 * start, f"start policy {points(start)}")]


def reference_lines(study: Study) -> list[tuple[float, str]]:
    """Heights and labels of the lines that a best-of-N average is to be read against: the policy alone and the oracle."""
    oracle = study.oracle.get("average")
    return start_line(study) + ([] if oracle is None else [(100 * oracle, f"oracle {points(oracle)}")])


def headline(study: Study) -> str:
    """The correlation as the title of the scatter."""
    link = study.links.get(study.main_link)
    if link is None or link.pearson is None:
        return "correlation not available"
    return f"Pearson r = {number(link.pearson)} ({interval(link)})"


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(ft2font.FT2Font(findfont(FontProperties(family=FONT))).get_charmap())


def plain(text: str, width: int = 34) -> str:
    """`text` as matplotlib can draw it: one line, known glyphs only, and no leading underscore, which hides legend entries."""
    line = "".join(char if ord(char) in _glyphs() else "?" for char in " ".join(text.split()))
    return shorten(f" {line}" if line.startswith("_") else line, width)


def _empty(text: str) -> Figure:
    figure = Figure(figsize=(8, 2.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color=FAINT, fontsize=12)
    return figure


def benchmark_vs_bon(study: Study) -> Figure:
    """RewardBench 2 overall against best-of-N average: colour is the mix, mark the lineage, a hollow mark a control."""
    models = scored(study)
    if not models:
        return _empty("No reward model has both a RewardBench 2 and a best-of-N score.")
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.subplots()
    for height, label in reference_lines(study):
        axes.axhline(height, color=FAINT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
        axes.annotate(
            label, (1, height), (-2, 3), ("axes fraction", "data"), textcoords="offset points", ha="right", color="#5b6673", fontsize=8.5
        )
    if (line := regression(study)) is not None:
        axes.plot(*line, color=INK, linewidth=1.2, alpha=0.45, zorder=2)
    alike: dict[tuple[str, str, bool], list[RewardModel]] = {}
    for rm in models:
        alike.setdefault((rm.data, rm.base, rm.control), []).append(rm)
    for (data, base, control), own in alike.items():
        tint, shape = colour(study, data), mark(study, base)[0]
        face = "white" if control else tint
        xs, ys = [100 * (rm.overall or 0.0) for rm in own], [100 * (rm.bon_average or 0.0) for rm in own]
        axes.plot(xs, ys, shape, color=tint, markerfacecolor=face, markersize=8.5, markeredgewidth=1.6, zorder=3)
    axes.set_title(f"Does the benchmark predict {study.bon_name}?  {headline(study)}", pad=10)
    axes.set_xlabel(f"RewardBench 2 {study.score_name} (points)")
    axes.set_ylabel(f"{study.bon_name} average (points)")
    axes.margins(0.07)
    figure.legend(handles=_keys(study), loc="outside lower center", ncols=4, fontsize=8.5)
    if len(models) <= MAX_ROWS:
        _name_points(figure, axes, models)
    return figure


def _keys(study: Study) -> list[Line2D]:
    """Legend entries for mixes, for lineages where there are several, and for controls where there are any."""
    handles = few([Line2D([], [], marker="o", linestyle="", color=colour(study, mix), label=plain(mix)) for mix in study.mixes])
    if len(study.bases) > 1:
        marks = [Line2D([], [], marker=mark(study, b)[0], linestyle="", color=FAINT, label=plain(b or "no base")) for b in study.bases]
        handles += few(marks)
    if any(rm.control for rm in study.models):
        handles.append(Line2D([], [], marker="o", linestyle="", color=FAINT, markerfacecolor="white", label="hollow: control"))
    return handles


def few(handles: Sequence[Line2D]) -> list[Line2D]:
    """The first `MAX_KEYS` entries of a legend, and one that says how many more there would be."""
    more = len(handles) - MAX_KEYS
    return [*handles[:MAX_KEYS], *([Line2D([], [], linestyle="", label=f"and {more} more")] if more > 0 else [])]


def _name_points(figure: Figure, axes: Axes, models: Sequence[RewardModel]) -> None:
    """Writes the name beside each point where there is room; a name that would cover another or a mark is left out."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # the layout has to be final before boxes are compared
    centres = [axes.transData.transform((100 * (rm.overall or 0.0), 100 * (rm.bon_average or 0.0))) for rm in models]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    taken += [box.get_window_extent(renderer).extents for box in axes.texts]
    frame = axes.get_window_extent(renderer).extents
    for rm in sorted(models, key=lambda rm: not rm.control):
        for dx, dy, side in ((8, -3, "left"), (-8, -3, "right"), (0, 8, "center"), (0, -14, "center")):
            spot = (100 * (rm.overall or 0.0), 100 * (rm.bon_average or 0.0))
            text = Annotation(plain(rm.name, 30), spot, (dx, dy), textcoords="offset points", ha=side, fontsize=7.5, color="#4a5563")
            text.set_in_layout(False)
            axes.add_artist(text)
            box = text.get_window_extent(renderer).extents
            inside = box[0] > frame[0] and box[1] > frame[1] and box[2] < frame[2] and box[3] < frame[3]
            if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                taken.append(box)
                break
            text.remove()


def grids(study: Study) -> list[tuple[str, list[str], np.ndarray]]:
    """The two halves of the heat map, in points: title, column names, RMs x columns (NaN where missing)."""
    bench = [study.score_key, *DOMAINS]
    bon = ["average", *study.tasks] if study.tasks or any(rm.bon for rm in study.models) else []
    left = [[rm.benchmark.get(key) for key in bench] for rm in study.models]
    halves = [("RewardBench 2", [study.score_title, *DOMAINS.values()], np.array(left, dtype=float) * 100)]
    if bon:
        right = [[rm.bon.get(key) for key in bon] for rm in study.models]
        halves.append((study.bon_name.capitalize(), ["Average", *study.tasks], np.array(right, dtype=float) * 100))
    return halves


def domains(study: Study) -> Figure:
    """Heat map of the RMs (best overall first, `MAX_ROWS` at most) over domains and best-of-N tasks."""
    if not study.models:
        return _empty("No reward models in this study.")
    models = study.models[:MAX_ROWS]
    halves = [(title, columns, values[:MAX_ROWS]) for title, columns, values in grids(study)]
    widths = [len(columns) for _, columns, _ in halves]
    figure = Figure(figsize=(2.6 + 0.72 * sum(widths), 1.5 + 0.31 * len(models)), layout="constrained")
    rows = figure.subplots(1, len(halves), width_ratios=widths, squeeze=False)[0]
    for index, (axes, (title, columns, values)) in enumerate(zip(rows, halves, strict=True)):
        axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), [plain(name, 14) for name in columns], rotation=32, ha="right", rotation_mode="anchor")
        labels = [plain(rm.name) + (" (control)" if rm.control else "") for rm in models] if index == 0 else []
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.axvline(0.5, color="white", linewidth=3)
        for (row, column), value in np.ndenumerate(values):
            text, tint = ("n/a", FAINT) if np.isnan(value) else (f"{value:.1f}", "white" if value > 72 else INK)
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=tint, weight="bold" if column == 0 else "normal")
    return figure


def training(study: Study) -> Figure:
    """RewardBench 2 overall and best-of-N average at the checkpoints of every RM, side by side on one step axis."""
    if not any(rm.checkpoints for rm in study.models):
        return _empty("No checkpoints of reward models were recorded.")
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, metric, title in zip(panels, (f"rewardbench2/{study.score_key}", "bon/average"), training_titles(study), strict=True):
        for rm in study.models[:MAX_ROWS]:
            steps, values = series(rm.checkpoints, metric)
            style, tint = ("--" if rm.control else "-"), curve_colour(study, rm)
            face = "white" if rm.control else tint
            axes.plot(
                steps,
                np.multiply(values, 100),
                style,
                marker=mark(study, rm.base)[0],
                color=tint,
                markerfacecolor=face,
                markersize=4.5,
                alpha=0.9,
            )
        axes.set(title=title, xlabel=STEP, ylabel="points")
    for height, label in start_line(study):
        panels[1].axhline(height, color=FAINT, linewidth=1, linestyle=(0, (5, 4)))
        panels[1].annotate(
            label, (1, height), (-2, 3), ("axes fraction", "data"), textcoords="offset points", ha="right", color="#5b6673", fontsize=8.5
        )
    if len(study.mixes) > 1:
        figure.legend(handles=_keys(study), loc="outside lower center", ncols=7, fontsize=8.5)
    else:
        names = [Line2D([], [], color=curve_colour(study, rm), label=plain(rm.name, 48)) for rm in study.models[:MAX_ROWS]]
        figure.legend(handles=few(names), loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def curve_colour(study: Study, run: RewardModel | PpoRun) -> str:
    """The colour of a run's curve in every chart: of a reward model that of its mix or, where all have one mix, its own; of PPO its own."""
    if isinstance(run, RewardModel) and len(study.mixes) > 1:
        return colour(study, run.data)
    place = study.models.index(run) if isinstance(run, RewardModel) else study.runs.index(run)
    return RUN_COLOURS[place % len(RUN_COLOURS)]


def training_titles(study: Study) -> tuple[str, str]:
    """Titles of the two panels of `training`."""
    return f"RewardBench 2 {study.score_name}", f"{study.bon_name.capitalize()} average"


PPO_PANELS = (("downstream_average", "Downstream average (points)", 100), ("rm_score", "RM score", 1), ("kl", "KL to the reference", 1))
"""Metric at a PPO checkpoint, title of its panel, factor to what is drawn."""


def ppo(study: Study) -> Figure:
    """Downstream average at the checkpoints of every PPO run, with its start and its best, beside RM score and KL."""
    if not any(run.checkpoints for run in study.runs):
        return _empty("No PPO checkpoints in this study." if study.runs else "No PPO runs in this study.")
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    for run in study.runs:
        tint = curve_colour(study, run)
        for axes, (metric, title, factor) in zip(panels, PPO_PANELS, strict=True):
            steps, values = series(run.checkpoints, metric)
            axes.plot(steps, np.multiply(values, factor), "-o", color=tint, markersize=4.5)
            axes.set(title=title, xlabel=STEP)
        if run.best is not None and run.best_step is not None:
            panels[0].plot(run.best_step, 100 * run.best, marker="*", color=tint, markersize=15, markeredgecolor="white", zorder=4)
    for start in sorted({run.start for run in study.runs if run.start is not None}):
        panels[0].axhline(100 * start, color=FAINT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
    handles = few([Line2D([], [], color=curve_colour(study, run), marker="o", label=plain(run_label(run), 60)) for run in study.runs])
    handles += [
        Line2D([], [], color=FAINT, linestyle="--", label="start"),
        Line2D([], [], color=FAINT, marker="*", linestyle="", label="best"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def run_label(run: PpoRun) -> str:
    """Legend entry of a PPO run."""
    lineage = f", {run.lineage}" if run.lineage else ""
    return shorten(run.name, 60 - len(lineage)) + lineage
