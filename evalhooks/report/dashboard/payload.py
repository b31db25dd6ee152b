"""What the scripts of the page draw from: the numbers of a study as plain data, thinned so that hundreds of runs fit in one page.

The keys of this data are read by the files in `assets/`, and nowhere else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evalhooks.metric_names import STEP
from evalhooks.report import charts, course
from evalhooks.report.dashboard.biases import ERROR, shown_biases
from evalhooks.report.dashboard.explorer import setup
from evalhooks.report.facts import PpoRun, RewardModel, Scores, Study
from evalhooks.rewardbench.domains import DOMAINS

MAX_CURVE_POINTS = 40_000
"""Points of all curves of training together; each run has its share of them, and at least `MIN_POINTS` a curve."""
MIN_POINTS = 20

Data = dict[str, Any]


def payload(study: Study) -> Data:
    """The data of a study, by the names that the scripts know."""
    num_points = MAX_CURVE_POINTS // max(1, sum(len(run.details.get("curves") or {}) for run in (*study.models, *study.runs)))
    return {
        "scoreKey": study.score_key,
        "scoreName": study.score_name,
        "scoreTitle": study.score_title,
        "bonName": study.bon_name,
        "stepName": STEP,
        "tasks": study.tasks,
        "domains": dict(DOMAINS),
        "mixes": study.mixes,
        "bases": study.bases,
        "mixColours": charts.MIX_COLOURS,
        "runColours": charts.RUN_COLOURS,
        "marks": [mark for _, mark in charts.MARKS],
        "references": [{"height": _short(height), "label": label} for height, label in charts.reference_lines(study)],
        "startLines": [{"height": _short(height), "label": label} for height, label in charts.start_line(study)],
        "models": [_model(study, rm, max(MIN_POINTS, num_points)) for rm in study.models],
        "runs": [_run(run, max(MIN_POINTS, num_points)) for run in study.runs],
    }


def _model(study: Study, rm: RewardModel, num_points: int) -> Data:
    return {
        "name": rm.name,
        "id": rm.id,
        "setup": setup(rm),
        "data": rm.data,
        "base": rm.base,
        "control": rm.control,
        "benchmark": {key: _short(rm.benchmark.get(key)) for key in (rm.score_key, *DOMAINS)},
        "bon": {task: _short(value) for task, value in rm.bon.items()},
        "biases": shown_biases(rm),
        "bestOf": best_of_n(rm, study.start.get("average")),
        "checkpoints": _columns(rm.checkpoints),
        "curves": _curves(rm.details, num_points),
    }


def _run(run: PpoRun, num_points: int) -> Data:
    return {
        "name": run.name,
        "id": run.id,
        "label": charts.run_label(run),
        "rm": run.rm,
        "status": run.status,
        "biases": shown_biases(run),
        "start": _short(run.start),
        "best": _short(run.best),
        "bestStep": run.best_step,
        "checkpoints": _columns(run.checkpoints),
        "curves": _curves(run.details, num_points),
        "course": _course(course.course_of(run)),
    }


def best_of_n(rm: RewardModel, start: float | None = None) -> list[tuple[int, float]]:
    """N and the best-of-N average at the newest checkpoint that has one, for every N that was measured, ascending.

    `start` is the average of the policy alone, which is what best of 1 gives.
    """
    for checkpoint in reversed(rm.checkpoints):
        sizes = {int(key.partition("@")[2]): value for key, value in checkpoint.items() if key.startswith("bon/average@")}
        found = [(n, _short(value)) for n, value in sorted(sizes.items()) if value is not None]
        if found:
            first = [] if start is None or 1 in sizes else [(1, float(f"{start:.6g}"))]
            return [*first, *((n, value) for n, value in found if value is not None)]
    return []


def _columns(checkpoints: Sequence[Scores]) -> Data:
    """The metrics of checkpoints by name, each a list over `step` with null where a checkpoint lacks it; standard errors are left out."""
    names = dict.fromkeys(name for row in checkpoints for name in row if not name.startswith(("rewardbench2_se/", "downstream_se/", ERROR)))
    return {name: [_short(row.get(name)) for row in checkpoints] for name in names}


def _curves(details: Mapping[str, Any], num_points: int) -> dict[str, list[list[float | None]]]:
    """By name of a metric its steps and its values, at most about `num_points` of them."""
    return {name: _thinned(points, num_points) for name, points in (details.get("curves") or {}).items()}


def _thinned(points: Sequence[Sequence[float]], num_points: int) -> list[list[float | None]]:
    kept = list(points[:: math.ceil(len(points) / num_points)] if points else [])
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return [[point[0] for point in kept], [_short(point[1]) for point in kept]]


def _course(drawn: course.Course) -> Data:
    ticks, limits = course.kl_ticks(drawn), course.scale_limits(drawn)
    points = drawn.points
    return {
        "steps": [point.step for point in points],
        "kl": [_short(point.kl) for point in points],
        "roots": [None if point.kl is None else _short(course.root(point.kl)) for point in points],
        "truth": [_short(point.truth) for point in points],
        "proxy": [_short(point.proxy) for point in points],
        "accuracy": [_short(point.accuracy) for point in points],
        "best": None if drawn.best is None else points.index(drawn.best),
        "stop": drawn.stop_step,
        "titles": course.panel_titles(drawn),
        "proxyLabel": course.proxy_label(drawn),
        "klTicks": [[_short(course.root(tick)) for tick in ticks], [f"{tick:g}" for tick in ticks]],
        "limits": limits,
        "truthTicks": None if limits is None else course.truth_ticks(limits[0]),
    }


def _short(value: float | None) -> float | None:
    """Six digits, which is more than a figure shows."""
    return None if value is None else float(f"{value:.6g}")


def cut(texts: Iterable[str], limit: int) -> list[str]:
    """The texts, each at most `limit` characters long, with three dots where something is left out."""
    return [text if len(text) <= limit else f"{text[: limit - 1]}\u2026" for text in texts]
