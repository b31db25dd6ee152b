"""Pictures of best-of-n: accuracy against n, reward models against tasks, and what reward models pay for beside correctness."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.typing import LineStyleType

from bon.bias import Panel
from bon.ensembles import MEMBERS
from bon.selection import Curve, Selection
from evalhooks.report.charts import FAINT, INK, MIX_COLOURS, RUN_COLOURS, SEQUENTIAL, STYLE, few, plain

MAX_PANELS = 12
"""Tasks with a panel of their own; the file `bon.csv` has all."""
TINTS = [tint for tint in dict.fromkeys((*MIX_COLOURS, *RUN_COLOURS, "#0f6e84", "#8c564b")) if tint != FAINT]
"""One per reward: the grey is that of the bounds."""
BAND = 0.13
"""Opacity of a band."""
_COLUMNS = 3


def draw_curves(path: Path, tasks: Mapping[str, Selection], *, title: str) -> None:
    """Draws accuracy in points of 100 against n, a panel per task, into a PNG at `path`; a band is one standard error either way.

    Raises `ValueError` without a task.
    """
    if not tasks:
        raise ValueError(f"{path}: there is no task whose correctness is known, so there is nothing to draw.")
    shown = list(tasks.items())[:MAX_PANELS]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    names = list(shown[0][1].signals)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6.4, 4.1 * columns), 1.5 + 3.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for axes, (task, found) in zip(panels, shown, strict=False):
            _panel(axes, task, found, names)
        for axes in list(panels)[len(shown) :] if rows > 1 else []:
            axes.set_visible(False)
        left_out = f" (the first {MAX_PANELS} of {len(tasks)} tasks)" if len(tasks) > MAX_PANELS else ""
        figure.suptitle(plain(f"{title}{left_out}", 110), x=0.01, ha="left", fontsize=11)
        figure.legend(handles=_keys(names), loc="outside lower center", ncols=3, fontsize=8.5)
        figure.savefig(path, format="png")


def _panel(axes: Axes, task: str, found: Selection, names: Sequence[str]) -> None:
    sizes = np.arange(1, found.n + 1)
    axes.axhline(100 * found.random.value, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))
    _line(axes, sizes, found.oracle, FAINT, (0, (5, 3)), band=False)
    _line(axes, sizes, found.majority, INK, (0, (3, 1, 1, 1)), band=False)
    for index, name in enumerate(names):
        _line(axes, sizes, found.signals[name].accuracy, _colour(index), _dash(name), band=not _is_ensemble(name))
    axes.set_title(plain(f"{task} ({found.num_prompts} prompts)", 40))
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(int(math.log2(found.n)) + 1)] if found.n > 1 else [1]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="completions to choose among (n)", ylabel="accuracy of the choice (points)")
    axes.margins(0.03, 0.06)


def _line(axes: Axes, sizes: np.ndarray, curve: Curve, tint: str, dash: LineStyleType, *, band: bool) -> None:
    values = np.array([100 * one.value for one in curve])
    errors = np.array([100 * (one.error or 0.0) for one in curve])
    marker = "o" if len(sizes) == 1 else None
    axes.plot(sizes, values, color=tint, linestyle=dash, linewidth=1.6, marker=marker)
    if band:
        low, high = np.clip(values - errors, 0, 100), np.clip(values + errors, 0, 100)  # an accuracy of 0 has an error too
        axes.fill_between(sizes, low, high, color=tint, alpha=BAND, linewidth=0)


def _colour(index: int) -> str:
    return TINTS[index % len(TINTS)]


def _is_ensemble(name: str) -> bool:
    return name.startswith(f"{MEMBERS}-")


def _dash(name: str) -> LineStyleType:
    return (0, (2, 1)) if _is_ensemble(name) else "-"


def _keys(names: Sequence[str]) -> list[Artist]:
    own = [Line2D([], [], color=_colour(index), linestyle=_dash(name), label=plain(name, 44)) for index, name in enumerate(names)]
    bands = [Patch(color=INK, alpha=BAND, linewidth=0, label="band: one standard error")] if names else []
    return [
        *few(own),
        *bands,
        Line2D([], [], color=INK, linestyle=(0, (3, 1, 1, 1)), label="majority vote"),
        Line2D([], [], color=FAINT, linestyle=(0, (5, 3)), label="perfect reward (pass@n)"),
        Line2D([], [], color=FAINT, linestyle=(0, (1, 2)), label="random pick"),
    ]


def draw_table(path: Path, tasks: Mapping[str, Selection], *, n: int) -> None:
    """Draws the accuracy at `n` of every reward model on every task as a heat map with numbers, into a PNG at `path`."""
    rewards = list(next(iter(tasks.values())).signals)
    names = ["random pick", *rewards, "majority vote", "perfect reward"]
    columns = list(tasks)
    values = np.array([[100 * _at(tasks[task], name, n) for task in columns] for name in names])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 + 0.9 * len(columns), 1.5 + 0.34 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto")
        axes.set_title(f"accuracy of the best of {n} (points)", loc="left")
        axes.set_xticks(range(len(columns)), [plain(name, 16) for name in columns], rotation=32, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), [plain(name, 44) for name in names])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            tint = "white" if value > 72 else INK
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=tint)
        figure.savefig(path, format="png")


def _at(found: Selection, name: str, n: int) -> float:
    match name:
        case "random pick":
            return found.random.value
        case "perfect reward":
            return found.oracle[n - 1].value
        case "majority vote":
            return found.majority[n - 1].value
        case _:
            return found.signals[name].accuracy[n - 1].value


def draw_biases(path: Path, panels: Mapping[str, Panel]) -> None:
    """Draws the partial correlations given correctness with their intervals into a PNG at `path`; a filled mark is one that is found."""
    names = list(dict.fromkeys(chain.from_iterable([bias.feature for bias in panel.biases] for panel in panels.values())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 1.8 + len(names) * (0.32 + 0.14 * len(panels))), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=1)
        for index, panel in enumerate(panels.values()):
            tint = _colour(index)
            offset = 0.7 * ((index + 0.5) / len(panels) - 0.5)
            for bias in panel.biases:
                height = names.index(bias.feature) + offset
                axes.plot([bias.low, bias.high], [height, height], color=tint, linewidth=1.6)
                face = tint if bias.is_found else "white"
                axes.plot(bias.given_correct, height, marker="o", color=tint, markerfacecolor=face, markersize=6, linestyle="")
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        knows = all(panel.knows_correct for panel in panels.values())
        known = "given correctness" if knows else "(correctness is not known)"
        axes.set_xlabel(f"penalises it  ←  partial correlation with the reward within prompts, {known}  →  pays for it")
        axes.set_title("What the rewards pay for beside correctness")
        handles = [Line2D([], [], marker="o", color=_colour(index), label=plain(name, 40)) for index, name in enumerate(panels)]
        handles.append(Line2D([], [], marker="o", linestyle="", color=FAINT, markerfacecolor="white", label="hollow: not told from chance"))
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5)
        figure.savefig(path, format="png")
