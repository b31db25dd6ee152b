"""The scores of a run, as lists and summaries show them: at its best checkpoint and at its last."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.hooks.hook import measured_steps, read_evaluations
from evalhooks.rewardbench.domains import LABELS

MAIN = (
    "rewardbench2/overall",
    *(f"rewardbench2/{key}" for key in LABELS),
    "held_out/accuracy",
    "pairs/accuracy",
    "rewardbench1/overall",
    "bon/average",
    "downstream/average",
    "rm_score",
)
"""What a run is told apart by, the first that it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """A run's metric and its value at the best and at the last checkpoint.

    >>> Scores(metric="held_out/accuracy", best=0.7, best_step=4, last=0.6).best_step
    4
    """

    metric: str
    best: float | None
    best_step: int | None
    last: float | None


def evaluations_of(run_dir: Path) -> dict[int, dict[str, float]]:
    """The hooks' metrics of a run at all checkpoints that were measured, by step; what cannot be read is left out, with a line."""
    return read_evaluations(run_dir, measured_steps(run_dir), skip=print)


def scores_of(record: Mapping[str, Any]) -> Scores | None:
    """The scores of a run on the metric that chose its best checkpoint, or else on the first of `MAIN` that it has; None without any."""
    course = evaluations_of(Path(record["dir"]))
    final = {name: float(value) for name, value in record.get("final", {}).items()}
    chosen = record.get("best_metric") or next(iter(record.get("best", {})), "")
    known = [str(chosen), *MAIN] if chosen else [*MAIN]
    for metric in known:
        series = {step: found[metric] for step, found in course.items() if math.isfinite(found.get(metric, math.nan))}
        if series:
            best = max(series, key=lambda step: (series[step], -step))
            return Scores(metric=metric, best=series[best], best_step=best, last=series[max(series)])
        if math.isfinite(final.get(metric, math.nan)):
            return Scores(metric=metric, best=final[metric], best_step=None, last=final[metric])
    return None
