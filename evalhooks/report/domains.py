"""One model's benchmark scores as a chart: a bar per domain and overall, with the noise of the choice of prompts."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evalhooks.report.charts import FAINT, INK, MIX_COLOURS, STYLE, plain

OVERALL = "overall"

_BAR, _OVERALL_BAR = MIX_COLOURS[0], MIX_COLOURS[2]
_CHANCE = MIX_COLOURS[1]
_MAX_TITLE = 240


def draw_domains(
    path: Path, scores: Mapping[str, float], errors: Mapping[str, float], *, title: str, chance: Mapping[str, float] | None = None
) -> None:
    """Draws `scores` (0..1, by domain, and `overall`) in points of 100 into a PNG at `path`.

    The order is that of `scores`, overall last. A whisker is one standard error of `errors` either way; a score without one
    has none. `chance` is the score of guessing (for best of four 0.25) by domain, marked where it is given. Raises
    `ValueError` where there is nothing to draw.
    """
    if not scores:
        raise ValueError(f"{path}: there are no scores to draw; what was refused or missing says the result's `reason`.")
    names = [*(name for name in scores if name != OVERALL), *(name for name in scores if name == OVERALL)]
    lines = textwrap.wrap(plain(title, _MAX_TITLE), 34 + 9 * len(names)) or [""]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 0.85 * len(names), 3.6 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        _draw_bars(axes, names, scores, errors)
        handles = (
            [Line2D([], [], color=INK, marker="|", linestyle="-", label="± 1 standard error of the choice of prompts")] if errors else []
        )
        guesses = {index: 100 * chance[name] for index, name in enumerate(names) if name in chance} if chance else {}
        for index, height in guesses.items():
            axes.plot([index - 0.42, index + 0.42], [height, height], color=_CHANCE, linewidth=1.6, linestyle=(0, (3, 2)), zorder=4)
        if guesses:
            handles.append(Line2D([], [], color=_CHANCE, linewidth=1.6, linestyle=(0, (3, 2)), label="chance"))
        axes.set_title("\n".join(lines), pad=10)
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5)
        figure.savefig(path, format="png")


def _draw_bars(axes: Axes, names: list[str], scores: Mapping[str, float], errors: Mapping[str, float]) -> None:
    for index, name in enumerate(names):
        score, error = 100 * scores[name], 100 * errors.get(name, 0.0)
        axes.bar(index, score, width=0.66, color=_OVERALL_BAR if name == OVERALL else _BAR, zorder=2)
        if name in errors:
            axes.errorbar(index, score, yerr=error, color=INK, linewidth=1.2, capsize=4, zorder=3)
        weight = "bold" if name == OVERALL else "normal"
        axes.annotate(
            f"{score:.1f}",
            (index, max(score + error, 0)),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            weight=weight,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # the line of chance may run behind it
            zorder=5,
        )
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=3)
    lowest = min(100 * (scores[name] - errors.get(name, 0.0)) for name in names)
    highest = max(100 * (scores[name] + errors.get(name, 0.0)) for name in names)
    axes.set_ylim(min(0, 1.1 * lowest), max(100, highest) + 8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(names)), ["Overall" if name == OVERALL else plain(name, 16) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("points")
