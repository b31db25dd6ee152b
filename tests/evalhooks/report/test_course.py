"""The picture of over-optimisation: what is drawn is what the evaluations of a run hold."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from core.disk import write_json
from core.hooks.hook import eval_file
from evalhooks.report.course import (
    Course,
    Point,
    course_in,
    course_of,
    draw_course,
    kl_ticks,
    proxy_label,
    root,
    scale_limits,
    truth_ticks,
    write_over_optimisation,
)
from evalhooks.report.dashboard.payload import payload
from evalhooks.report.facts import read

START = {
    "kl": 0.0,
    "rm_score": 7.0,
    "downstream/average": 0.5,
    "on_policy/rm_score": 2.0,
    "on_policy/reward_std": 4.0,
    "on_policy/accuracy_std": 0.25,
    "on_policy/rm_accuracy": 0.8,
}
RISEN = {"kl": 1.0, "rm_score": 8.0, "downstream/average": 0.6, "on_policy/rm_score": 4.0, "on_policy/rm_accuracy": 0.7}
FALLEN = {"kl": 4.0, "rm_score": 9.0, "downstream/average": 0.4, "on_policy/rm_score": 10.0, "on_policy/rm_accuracy": 0.45}


def run_in(run_dir: Path, *evaluations: dict[str, float], **record: Any) -> Path:
    """A run with these evaluations at steps 0, 10, 20, ..."""
    for number, metrics in enumerate(evaluations):
        write_json(eval_file(run_dir, 10 * number), {"checkpoint/step": 10 * number, **metrics})
    if record:
        write_json(run_dir / "record.json", {"id": "0123abcd", "job": "ppo", "identity": {}, "status": "running", **record})
    return run_dir


def test_a_course_is_in_points_and_in_deviations_of_the_start(tmp_path: Path) -> None:
    course = course_in(run_in(tmp_path / "ppo-a", START, RISEN, FALLEN, stopped_because="downstream/average fell"))
    # (4 - 2) / 4 and (10 - 2) / 4 deviations
    assert course.points == (
        Point(step=0, kl=0.0, truth=50.0, proxy=0.0, accuracy=80.0),
        Point(step=10, kl=1.0, truth=60.0, proxy=0.5, accuracy=70.0),
        Point(step=20, kl=4.0, truth=40.0, proxy=2.0, accuracy=45.0),
    )
    assert (course.name, course.in_deviations, course.truth_std, course.stop_step) == ("ppo-a", True, 25.0, 20)
    assert course.best == course.points[1]


def test_a_run_that_still_trains_has_the_course_so_far(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path, START, RISEN, status="running")
    (tmp_path / "evals" / "step-000010.rewardbench2.json").write_text("not an evaluation")
    course = course_in(run_dir)
    assert [point.step for point in course.points] == [0, 10]
    assert course.stop_step is None


def test_without_deviations_the_score_is_drawn_as_it_is(tmp_path: Path) -> None:
    lone = {name: value for name, value in START.items() if not name.endswith(("_std", "rm_accuracy"))}
    course = course_in(run_in(tmp_path / "n1", lone, RISEN))
    assert [point.proxy for point in course.points] == [2.0, 4.0]
    assert (course.truth_std, proxy_label(course), course.points[0].accuracy) == (None, "RM score (as given)", None)
    # Without tasks, it is the score of the training prompts.
    course = course_in(run_in(tmp_path / "no-tasks", {"kl": 0.0, "rm_score": 7.0}, {"kl": -0.1, "rm_score": 8.0}))
    assert [(point.proxy, point.truth) for point in course.points] == [(7.0, None), (8.0, None)]
    assert course.best is None


def test_a_run_in_a_report_has_the_course_that_it_has_on_disk(tmp_path: Path) -> None:
    on_disk = course_in(run_in(tmp_path / "ppo-a", START, RISEN, FALLEN, stopped_because="it fell"))
    rows = [{**row, "step": 10 * i, "downstream_average": row["downstream/average"]} for i, row in enumerate((START, RISEN, FALLEN))]
    run = read({"ppo": [{"name": "ppo-a", "checkpoints": rows, "stopped_because": "it fell"}]}).runs[0]
    assert course_of(run) == on_disk


def test_on_the_two_scales_equal_heights_are_equally_many_deviations(tmp_path: Path) -> None:
    limits = scale_limits(course_in(run_in(tmp_path, START, RISEN, FALLEN)))
    assert limits is not None
    (truth_low, truth_high), (low, high) = limits
    # Truth is 0, +0.4 and -0.4 deviations of 25 points from 50, the proxy 0, 0.5 and 2: from -0.4 to 2 and 8% room.
    assert (low, high) == pytest.approx((-0.4 - 0.08 * 2.4, 2 + 0.08 * 2.4))
    assert (truth_low, truth_high) == pytest.approx((50 + 25 * low, 50 + 25 * high))
    assert scale_limits(course_in(run_in(tmp_path / "raw", RISEN, FALLEN))) is None


def test_ticks_are_round_and_where_a_value_can_be() -> None:
    def at(kl: float) -> Course:
        return Course(
            name="",
            points=(Point(step=1, kl=kl, truth=None, proxy=None, accuracy=None),),
            in_deviations=False,
            truth_std=None,
            stop_step=None,
        )

    # Roots 0, 0.22, 0.5, 1, 1.41 and 2: 0.1 (0.32) and 0.5 (0.71) would stand closer than 2/9 to the tick before them.
    assert kl_ticks(at(4.0)) == [0.0, 0.05, 0.25, 1.0, 2.0, 4.0]
    assert kl_ticks(at(-0.2)) == [0.0]
    for kl in (0.003, 0.4, 0.99, 1.0, 2.77, 9.9, 30.0, 250.0):
        places = [root(tick) for tick in kl_ticks(at(kl))]
        assert 3 <= len(places) <= 8
        assert places[-1] >= 0.7 * root(kl)
        assert all(later - earlier > root(kl) / 10 for earlier, later in pairwise(places))
    assert (root(-0.2), root(9.0)) == (0.0, 3.0)
    assert truth_ticks((-30.0, 150.0)) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]


def data(line: Line2D) -> list[tuple[float, float]]:
    x, y = (np.atleast_1d(np.asarray(values, dtype=float)) for values in line.get_data())
    return list(zip(x.tolist(), y.tolist(), strict=True))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_picture_shows_both_curves_over_steps_and_over_the_root_of_the_kl(tmp_path: Path) -> None:
    course = course_in(run_in(tmp_path, START, RISEN, FALLEN, stopped_because="it fell"))
    figure = draw_course(course)
    over_steps, over_kl, _, accuracy_over_kl, proxies, proxies_over_kl = figure.axes
    for axes, places in ((over_steps, [0, 10, 20]), (over_kl, [0, 1, 2])):
        assert data(axes.lines[0]) == list(zip(places, (50, 60, 40), strict=True))
        assert data(axes.lines[1])[0][0] == places[-1]  # where it was stopped
    assert data(proxies.lines[0]) == [(0, 0), (10, 0.5), (20, 2)]
    assert (data(proxies.lines[1])[0][0], data(proxies_over_kl.lines[1])[0][0]) == (10, 1)  # the star
    assert data(accuracy_over_kl.lines[1]) == [(0, 80), (1, 70), (2, 45)]
    assert "stopped: over-optimisation" in texts(figure)
    assert "stopped: over-optimisation" not in texts(draw_course(course_in(run_in(tmp_path / "b", START, RISEN))))


def test_the_data_of_the_page_holds_the_same_numbers() -> None:
    rows = [{**row, "step": 10 * i, "downstream_average": row["downstream/average"]} for i, row in enumerate((START, RISEN, FALLEN))]
    drawn = payload(read({"ppo": [{"name": "ppo-a", "checkpoints": rows, "stopped_because": "it fell"}]}))["runs"][0]["course"]
    assert (drawn["steps"], drawn["roots"]) == ([0, 10, 20], [0, 1, 2])
    assert (drawn["truth"], drawn["proxy"], drawn["accuracy"]) == ([50, 60, 40], [0, 0.5, 2], [80, 70, 45])
    assert (drawn["best"], drawn["stop"]) == (1, 20)


@pytest.mark.parametrize("evaluations", [(), (START,), (START, RISEN, FALLEN), ({"kl": math.nan, "rm_score": 1.0},)])
def test_any_run_gives_a_picture(evaluations: tuple[dict[str, float], ...], tmp_path: Path) -> None:
    path = write_over_optimisation(run_in(tmp_path / "run", *evaluations), tmp_path / "new" / "picture.png")
    with Image.open(path) as image:
        assert image.width > 1000
