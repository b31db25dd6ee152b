"""Over-optimisation in one picture: proxy and truth over the checkpoints of a PPO run, and against the KL that they cost."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.disk import BrokenFileError
from core.hooks.hook import read_evaluations
from core.runs.identity import clean_name
from core.runs.record import RECORD, read_record
from evalhooks.metric_names import STEP
from evalhooks.report.charts import FAINT, MIX_COLOURS, RUN_COLOURS, STYLE, plain, run_label
from evalhooks.report.facts import PpoRun, Scores, Study

PROXY, TRUTH, ACCURACY, STOP = MIX_COLOURS[1], MIX_COLOURS[2], MIX_COLOURS[0], RUN_COLOURS[1]
"""Orange against teal stays apart without red or green; the proxy is dashed besides."""
TRUTH_LABEL, ACCURACY_LABEL = "downstream average (points)", "RM accuracy (points)"
KL_LABEL = "KL to the start policy (nats per completion, square-root scale)"
TRUTH_NAME, PROXY_NAME, ACCURACY_NAME = (
    "truth: downstream average",
    "proxy: RM score of the same answers",
    "RM accuracy on right and wrong answers",
)

MAX_PICTURES = 12
"""PPO runs with a picture in the report of a study; the page shows all of them, and each has its own in its folder."""

_EVALUATION = re.compile(r"step-(\d{6,})\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A checkpoint: KL in nats per completion, `truth` and `accuracy` in points of 100, `proxy` as its course counts it.

    >>> Point(step=0, kl=0.0, truth=50.0, proxy=0.0, accuracy=None).accuracy is None
    True
    """

    step: int
    kl: float | None
    truth: float | None
    proxy: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """The checkpoints of a PPO run, by step.

    `in_deviations`: the proxy is counted in its standard deviations within a prompt from the start policy's score, else as it was
    given. `truth_std` is that deviation of the truth in points, where both are known: with it the two scales are drawn so that their
    distance is the gap (`evalhooks.on_policy.gap`). `stop_step` is where over-optimisation ended the run, None where it did not.

    >>> Course(name="tulu", points=(), in_deviations=True, truth_std=None, stop_step=None).best is None
    True
    """

    name: str
    points: tuple[Point, ...]
    in_deviations: bool
    truth_std: float | None
    stop_step: int | None

    @property
    def best(self) -> Point | None:
        """The first of the checkpoints whose truth is highest."""
        measured = [point for point in self.points if point.truth is not None]
        return max(measured, key=lambda point: point.truth or 0.0, default=None)


def course_of(run: PpoRun) -> Course:
    """The course of a run in a report."""
    return _course(run_label(run), run.checkpoints, bool(run.stopped_because))


def course_in(run_dir: Path) -> Course:
    """The course of a run on disk, finished or not, from its evals/step-*.json; without any it has no points."""
    files = sorted((run_dir / "evals").glob("step-*.json"))
    steps = [int(match[1]) for file in files if (match := _EVALUATION.fullmatch(file.name))]
    rows: list[Scores] = [{**metrics, "step": step} for step, metrics in read_evaluations(run_dir, steps, skip=print).items()]
    return _course(run_dir.name, rows, _was_stopped(run_dir))


def _was_stopped(run_dir: Path) -> bool:
    """Whether over-optimisation ended the run; False if its record cannot be read, which is said."""
    try:
        return (run_dir / RECORD).is_file() and bool(read_record(run_dir).get("stopped_because"))
    except BrokenFileError as error:
        print(error)
        return False


def _course(name: str, rows: Sequence[Scores], stopped: bool) -> Course:
    """The score on the tasks' own answers is the proxy, where it was measured: truth and accuracy are those of the same answers."""
    start = rows[0] if rows and rows[0].get("step") == 0 else {}
    key = "on_policy/rm_score" if any(row.get("on_policy/rm_score") is not None for row in rows) else "rm_score"
    origin, scale = start.get(key), start.get("on_policy/reward_std")
    counted = key != "rm_score" and origin is not None and scale is not None and scale > 0
    base, unit = (origin, scale) if counted and origin is not None and scale is not None else (0.0, 1.0)
    found = [
        Point(
            step=int(row["step"] or 0),
            kl=_finite(row.get("kl")),
            truth=_finite(row.get("downstream/average", row.get("downstream_average")), factor=100),
            proxy=_finite(row.get(key), less=base, factor=1 / unit),
            accuracy=_finite(row.get("on_policy/rm_accuracy"), factor=100),
        )
        for row in rows
    ]
    return Course(
        name=name,
        points=tuple(found),
        in_deviations=counted,
        truth_std=(_finite(start.get("on_policy/accuracy_std"), factor=100) or None) if counted else None,
        stop_step=found[-1].step if stopped and found else None,
    )


def _finite(value: float | None, *, less: float = 0.0, factor: float = 1.0) -> float | None:
    return factor * (value - less) if value is not None and math.isfinite(value) else None


def picture_names(study: Study) -> list[str]:
    """The names of the pictures of a study's first PPO runs, in the order of the runs."""
    return [f"over_optimisation-{clean_name(f'{number}-{run.name}')}.png" for number, run in enumerate(study.runs[:MAX_PICTURES], 1)]


def write_courses(study: Study, folder: Path) -> list[Path]:
    """Draws a picture of each of the first PPO runs of a study into `folder`."""
    paths = [folder / name for name in picture_names(study)]
    for run, path in zip(study.runs, paths, strict=False):
        _save(course_of(run), path)
    return paths


def write_over_optimisation(run_dir: Path, path: Path) -> Path:
    """Draws the course of the PPO run in `run_dir`, finished or not, into a PNG at `path`.

    Call it after the run's record is closed, which says whether over-optimisation ended it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return _save(course_in(run_dir), path)


def _save(course: Course, path: Path) -> Path:
    with matplotlib.rc_context(STYLE):
        draw_course(course).savefig(path, format="png")
    return path


def root(kl: float) -> float:
    """Where a KL stands on the square-root scale; an estimate below 0 is a small KL in a small sample, and stands at 0."""
    return math.sqrt(max(kl, 0.0))


def kl_ticks(course: Course) -> list[float]:
    """Three to seven round KLs from 0 on, about evenly spread on the square-root scale."""
    highest = max([point.kl for point in course.points if point.kl is not None], default=0.0)
    if highest <= 0:
        return [0.0]
    unit = 10.0 ** math.floor(math.log10(highest))
    ladder = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 9.0]
    fitting = [unit * step for step in ladder if unit * step <= 1.05 * highest]
    kept = [0.0]
    for tick in fitting[1:]:  # labels need room
        if root(tick) - root(kept[-1]) >= root(highest) / 9:
            kept.append(tick)
    return kept


def draw_course(course: Course) -> Figure:
    """Proxy and truth over steps and over the square root of the KL (as in Gao et al. 2023, figure 1); below, the RM's accuracy."""
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    if not any(point.truth is not None or point.proxy is not None for point in course.points):
        figure.text(0.5, 0.5, "No checkpoint of this run was measured yet.", ha="center", va="center", color=FAINT, fontsize=12)
        return figure
    panels = figure.subplots(2, 2, sharex="col", height_ratios=[2, 1])
    steps = [float(point.step) for point in course.points]
    roots = [None if point.kl is None else root(point.kl) for point in course.points]
    for column, places in enumerate((steps, roots)):
        _draw_pair(panels[0, column], course, places, first=column == 0)
        _draw_accuracy(panels[1, column], course, places, first=column == 0)
    for axes, title in zip(panels[0], panel_titles(course), strict=True):
        axes.set_title(title)
    panels[1, 0].set_xlabel(STEP)
    panels[1, 1].set_xlabel(KL_LABEL)
    ticks = kl_ticks(course)
    panels[1, 1].set_xticks([root(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    figure.suptitle(plain(course.name, 90), x=0.01, ha="left", fontsize=11.5, weight="bold")
    figure.legend(handles=_keys(course), loc="outside lower center", ncols=5 if course.stop_step is None else 3, fontsize=8.5)
    return figure


def panel_titles(course: Course) -> tuple[str, str]:
    """Titles of the two upper panels."""
    gap = "" if course.truth_std is None else " (the distance of the curves is the gap)"
    return f"Over training{gap}", "Against the distance from the start"


def _draw_pair(axes: Axes, course: Course, places: Sequence[float | None], *, first: bool) -> None:
    """Truth on the left scale, proxy on the right one."""
    other = axes.twinx()
    other.grid(False)
    other.spines["right"].set_visible(True)
    _line(axes, places, [point.truth for point in course.points], "-o", TRUTH)
    _line(other, places, [point.proxy for point in course.points], "--s", PROXY)
    if (limits := scale_limits(course)) is not None:
        axes.set_ylim(*limits[0])
        other.set_ylim(*limits[1])
        axes.set_yticks(truth_ticks(limits[0]))
    for side, label, tint in ((axes, TRUTH_LABEL, TRUTH), (other, proxy_label(course), PROXY)):
        side.tick_params(axis="y", colors=tint)
        if (side is axes) == first:  # each scale is named once, at the outer edge
            side.set_ylabel(label, color=tint)
    best = course.best
    for point, place in zip(course.points, places, strict=True):
        if place is not None and point is best:
            # On the upper of the two axes, else the proxy's line would cross it.
            spot = (place, point.truth or 0.0)
            other.plot(*spot, "*", color=TRUTH, markersize=16, markeredgecolor="white", zorder=5, transform=axes.transData)
        if place is not None and point.step == course.stop_step:
            axes.axvline(place, color=STOP, linewidth=1.4, linestyle=(0, (2, 2)), zorder=1)


def proxy_label(course: Course) -> str:
    """What stands at the proxy's scale."""
    return "RM score (deviations from the start)" if course.in_deviations else "RM score (as given)"


def scale_limits(course: Course) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Ends of the scales of truth and proxy on which equal heights are equally many deviations; None without a common unit."""
    start = course.points[0].truth if course.points else None
    if course.truth_std is None or start is None:
        return None
    heights = [point.proxy for point in course.points if point.proxy is not None]
    heights += [(point.truth - start) / course.truth_std for point in course.points if point.truth is not None]
    room = 0.08 * (max(heights) - min(heights)) or 0.1
    low, high = min(heights) - room, max(heights) + room
    return (start + low * course.truth_std, start + high * course.truth_std), (low, high)


def truth_ticks(limits: tuple[float, float]) -> list[float]:
    """Round points of 100 between the limits, which may lie where no average can be."""
    low, high = max(limits[0], 0.0), min(limits[1], 100.0)
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]


def _draw_accuracy(axes: Axes, course: Course, places: Sequence[float | None], *, first: bool) -> None:
    values = [point.accuracy for point in course.points]
    axes.axhline(50, color=FAINT, linewidth=1, linestyle=(0, (5, 4)), zorder=1)
    _line(axes, places, values, "-^", ACCURACY)
    measured = [value for value in values if value is not None]
    axes.set_ylim(min([45.0, *(value - 5 for value in measured)]), max([55.0, *(value + 5 for value in measured)]))
    axes.tick_params(axis="y", colors=ACCURACY)
    if first:
        axes.set_ylabel(ACCURACY_LABEL, color=ACCURACY)
    if not measured:
        axes.text(0.5, 0.6, "not measured: it takes several answers to a prompt", transform=axes.transAxes, ha="center", color=FAINT)


def _line(axes: Axes, places: Sequence[float | None], values: Sequence[float | None], style: str, tint: str) -> None:
    drawn = [(x, y) for x, y in zip(places, values, strict=True) if x is not None and y is not None]
    axes.plot(*np.array(drawn).reshape(-1, 2).T, style, color=tint, markersize=5, linewidth=1.8)


def _keys(course: Course) -> list[Line2D]:
    handles = [
        Line2D([], [], color=TRUTH, marker="o", label=TRUTH_NAME),
        Line2D([], [], color=PROXY, marker="s", linestyle="--", label=PROXY_NAME),
        Line2D([], [], color=TRUTH, marker="*", markersize=11, linestyle="", label="best checkpoint"),
        Line2D([], [], color=ACCURACY, marker="^", label=ACCURACY_NAME),
        Line2D([], [], color=FAINT, linestyle="--", label="chance"),
    ]
    if course.stop_step is not None:
        handles.append(Line2D([], [], color=STOP, linestyle=":", linewidth=1.6, label="stopped: over-optimisation"))
    return handles
