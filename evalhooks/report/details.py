"""The sections of a report on what its runs were: settings that differ, held-out accuracy, loss, cost, warnings, samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from core import shares
from core.text import duration
from evalhooks.analysis.columns import columns_of_metrics
from evalhooks.metric_names import STEP
from evalhooks.report.charts import FAINT, MAX_ROWS, MIX_COLOURS, STYLE, curve_colour, plain
from evalhooks.report.facts import PpoRun, RewardModel, Study, shorten
from evalhooks.report.prose import names

Run = RewardModel | PpoRun


def runs_of(study: Study) -> list[Run]:
    """All runs of a study."""
    return [*study.models, *study.runs]


def differing(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """The keys in which the settings of runs of one kind differ, and their values by run; empty for fewer than two runs."""
    settings = [run.details.get("settings") or {} for run in runs]
    keys = list(dict.fromkeys(key for own in settings for key in own))
    different = [key for key in keys if len({str(own.get(key, "")) for own in settings}) > 1] if len(runs) > 1 else []
    return different, [[_value(own.get(key)) for key in different] for own in settings]


def held_out_text(run: Run) -> str:
    """Held-out accuracy in points with its standard error and the number of pairs, or n/a."""
    found = run.details.get("held_out") or {}
    if found.get("accuracy") is None:
        return "n/a"
    shown = shares.with_error(found["accuracy"], found.get("error"), "±")
    return shown + (f" ({found['pairs']} pairs)" if found.get("pairs") else "")


def with_error(score: float | None, error: float | None) -> str:
    """A score in points with one standard error."""
    return "n/a" if score is None else shares.with_error(score, error, "±")


def cost_rows(study: Study) -> list[list[str]]:
    """What each run took: its whole time, the training in it, and the waiting for hooks."""
    rows: list[list[str]] = []
    for run in runs_of(study):
        cost = run.details.get("cost") or {}
        hooks, trained = cost.get("hooks_s"), cost.get("train_s")
        share = f" ({hooks / trained:.0%} of training)" if hooks and trained else ""
        rows.append([run.name, duration(cost.get("wall_s")), duration(trained), f"{duration(hooks)}{share}"])
    return rows


COST_HEADS = ["Run", "Time", "Training", "Hooks"]


def warnings_of(study: Study) -> list[str]:
    """The warnings of all runs, a sentence each; runs that say the same share one."""
    groups: dict[str, list[str]] = {}
    for run in runs_of(study):
        for warning in run.details.get("warnings") or []:
            groups.setdefault(str(warning), []).append(run.name)
    return [f"{names(runs)}: {warning}" for warning, runs in groups.items()]


Curve = tuple[Run, list[float], list[float]]
"""A run, steps, and values, those of shares in points of 100."""


def curves(study: Study) -> dict[str, list[Curve]]:
    """The curves in each panel, by its title."""
    found: dict[str, list[Curve]] = {}
    for run in runs_of(study):
        for name, drawn in (run.details.get("curves") or {}).items():
            kind = "PPO" if isinstance(run, PpoRun) else "Reward models"
            steps, values = zip(*drawn, strict=True)
            metric = f"train/{name}"
            known = columns_of_metrics([metric], best_of=study.bon_name)
            unit = known.unit(metric) and f" ({known.unit(metric)})"
            shown = [known.scaled(metric, value) for value in values]
            found.setdefault(f"{kind}: {name.replace('_', ' ')}{unit}", []).append((run, list(steps), shown))
    return found


def write_losses(study: Study, path: Path) -> list[Path]:
    """Draws the curves of the first runs as a PNG at `path`; nothing without any."""
    if not curves(study):
        return []
    with matplotlib.rc_context(STYLE):
        losses(study).savefig(path)
    return [path]


def losses(study: Study) -> Figure:
    """The curves of the first runs, a panel for each kind of them; every run has the colour that it has in the other charts."""
    panels = curves(study)
    width = min(2, len(panels))
    height = -(-len(panels) // width)
    figure = Figure(figsize=(5.4 * width, 3.4 * height), layout="constrained")
    for axes, (title, drawn) in zip(np.ravel(figure.subplots(height, width, squeeze=False)), panels.items(), strict=False):
        for run, steps, values in drawn[:MAX_ROWS]:
            tint = curve_colour(study, run)
            axes.plot(steps, values, "-" if len(steps) > 1 else "o", color=tint, label=plain(run.name), linewidth=1.4)
        axes.set(title=title, xlabel=STEP)
        if len(drawn) <= len(MIX_COLOURS):
            axes.legend(fontsize=7.5, labelcolor=FAINT)
    return figure


def _value(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else shorten(str(value), 60)
