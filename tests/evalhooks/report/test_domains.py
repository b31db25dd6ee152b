"""The chart of one model's domains: a PNG for whatever can be drawn, with bars, whiskers and marks where they belong."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from evalhooks.report.charts import INK, MIX_COLOURS
from evalhooks.report.domains import draw_domains

SCORES = {"Factuality": 0.81, "Precise IF": 0.42, "Math": 0.7, "Safety": 0.88, "Focus": 1.0, "Ties": -0.01, "overall": 0.63}
ERRORS = dict.fromkeys(SCORES, 0.02)
BAR, CHANCE, OVERALL = MIX_COLOURS[0], MIX_COLOURS[1], MIX_COLOURS[2]


def is_of(pixels_HWC: np.ndarray, colour: str) -> np.ndarray:
    """Where the picture has this colour, up to smoothing of edges."""
    return np.all(np.abs(pixels_HWC[..., :3] - np.array(to_rgb(colour))) < 0.02, axis=-1)


def picture(path: Path) -> np.ndarray:
    assert path.read_bytes().startswith(b"\x89PNG")
    return imread(path)


def test_every_domain_has_a_bar_as_high_as_its_score_and_overall_comes_last(tmp_path: Path) -> None:
    draw_domains(tmp_path / "deep" / "a.png", {"overall": 0.4, "Math": 0.2, "Focus": 0.8}, {}, title="rm")
    pixels = picture(tmp_path / "deep" / "a.png")
    # Columns of the picture by how high their colour stands.
    heights, overall = is_of(pixels, BAR).sum(axis=0), is_of(pixels, OVERALL).sum(axis=0)
    columns = np.flatnonzero(heights)
    gap = columns[np.flatnonzero(np.diff(columns) > 5)[0]]
    low, high = np.median(heights[columns[columns <= gap]]), np.median(heights[columns[columns > gap]])
    assert high / low == pytest.approx(4, rel=0.05)
    assert np.median(overall[overall > 0]) / low == pytest.approx(2, rel=0.05)
    assert np.flatnonzero(overall).min() > columns.max()


def test_chance_is_marked_where_it_is_given_at_its_height(tmp_path: Path) -> None:
    chance = {"Math": 0.25, "unknown": 0.5}
    draw_domains(tmp_path / "with.png", {"Math": 0.25, "Ties": 0.75}, {}, title="rm", chance=chance)
    draw_domains(tmp_path / "without.png", {"Math": 0.25, "Ties": 0.75}, {}, title="rm")
    marked, plain = picture(tmp_path / "with.png"), picture(tmp_path / "without.png")
    assert not is_of(plain, CHANCE).any()
    # The line lies on the top edge of the bar, which is a third as high as that of Ties.
    rows, columns = np.nonzero(is_of(marked, CHANCE)[: int(0.85 * len(marked))])
    bars = is_of(marked, BAR)
    top_of_math = np.flatnonzero(bars[:, columns.min() : columns.max()].any(axis=1)).min()
    assert abs(np.median(rows) - top_of_math) < 5
    assert columns.max() < marked.shape[1] / 2 + 30, "Ties has no mark"


def test_a_whisker_is_one_standard_error_either_way(tmp_path: Path) -> None:
    draw_domains(tmp_path / "a.png", {"Math": 0.5}, {"Math": 0.1}, title="")
    pixels = picture(tmp_path / "a.png")
    bars = is_of(pixels, BAR)
    height = int(bars.sum(axis=0).max())
    middle = int(np.flatnonzero(bars.any(axis=0)).mean())
    whisker = np.any(is_of(pixels, INK)[:, middle - 3 : middle + 4], axis=1)
    inside = whisker[np.flatnonzero(bars.any(axis=1)).min() : np.flatnonzero(bars.any(axis=1)).max()]
    # The lower half of the whisker hides a fifth of the bar of 50 points.
    assert np.count_nonzero(inside) / height == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("title", ["", "_hidden $x_1 {a} \\n", "a" * 1000, "two\nlines", "\u4e2d\u6587 \U0001f600"])
def test_any_title_can_be_drawn(tmp_path: Path, title: str) -> None:
    draw_domains(tmp_path / "a.png", SCORES, ERRORS, title=title, chance=dict.fromkeys(["Math", "Focus"], 0.25))
    assert picture(tmp_path / "a.png").shape[0] > 300


def test_a_long_title_makes_the_picture_higher_not_wider(tmp_path: Path) -> None:
    for name, title in (("short", "rm"), ("long", "runs/demo/rm-a-very-long-name " * 6)):
        draw_domains(tmp_path / f"{name}.png", SCORES, ERRORS, title=title)
    short, long = picture(tmp_path / "short.png"), picture(tmp_path / "long.png")
    assert short.shape[1] == long.shape[1]
    assert long.shape[0] > short.shape[0] + 30


def test_scores_below_0_above_1_and_without_errors_are_drawn_and_none_at_all_are_refused(tmp_path: Path) -> None:
    draw_domains(tmp_path / "a.png", {"Ties": -0.01, "Focus": 1.01}, {"Ties": 0.2}, title="rm")
    with pytest.raises(ValueError, match=r"b.png: there are no scores to draw"):
        draw_domains(tmp_path / "b.png", {}, {}, title="rm")
    assert not (tmp_path / "b.png").exists()
