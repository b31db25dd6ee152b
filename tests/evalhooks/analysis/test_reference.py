"""Published numbers beside one's own: on one scale, and one's best where it would stand among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evalhooks.analysis.reference import references
from evalhooks.analysis.table import ScoredModel, ScoreTable


def reference(folder: Path, own: Sequence[float], published: Sequence[float], used: Sequence[float] = ()) -> dict[str, Any]:
    """What a file with these scores has beside a table with `own`; both also have a column of downstream results, in shares."""
    models = tuple(ScoredModel(name=f"rm{place}", facts={}, scores={"rb2": score, "ppo": 0.5}) for place, score in enumerate(own))
    rows = [f"m{place},{score},{use}" for place, (score, use) in enumerate(zip(published, used or [0.5] * len(published), strict=True))]
    file = folder / "published.csv"
    file.write_text("\n".join(["model,rb2,ppo", *rows]) + "\n", encoding="utf-8")
    [found] = references([str(file)], ScoreTable(sources=(), models=models, notes=()), benchmarks=["rb2"], downstream=["ppo"])
    return found


@pytest.mark.parametrize(
    ("own", "published", "shown"),
    [
        ([0.61, 0.7], [72.0, 55.0], [0.72, 0.55]),  # shares beside points of 100
        ([61.0, 70.0], [0.72, 0.55], [72.0, 55.0]),
        ([0.61, 0.7], [0.72, 0.55], [0.72, 0.55]),
        ([61.0, 70.0], [72.0, 55.0], [72.0, 55.0]),
        ([1.01, 0.7], [1.2, 0.55], [1.2, 0.55]),  # shares, of Ties also above 1
        ([0.7], [1.5, 0.2], [1.5, 0.2]),
        ([0.7], [1.6, 0.2], [0.016, 0.002]),
    ],
)
def test_published_scores_are_brought_to_the_scale_of_ones_own(
    tmp_path: Path, own: list[float], published: list[float], shown: list[float]
) -> None:
    found = reference(tmp_path, own, published)
    assert [x for x, _ in found["points"]["rb2~ppo"]] == pytest.approx(shown)
    assert [y for _, y in found["points"]["rb2~ppo"]] == [0.5, 0.5]
    assert found["standing"]["rb2"]["highest"] == pytest.approx(max(shown))


@pytest.mark.parametrize(("best", "rank"), [(0.95, 1), (0.9, 1), (0.85, 2), (0.8, 2), (0.7, 4), (0.1, 5)])
def test_ones_best_shares_the_place_of_those_that_are_as_good(tmp_path: Path, best: float, rank: int) -> None:
    # Of 0.9, 0.8, 0.8 and 0.7, those above 0.8 are one, and those above 0.7 are three.
    standing = reference(tmp_path, [0.05, best], [0.8, 0.9, 0.7, 0.8])["standing"]["rb2"]
    assert standing == {"best": best, "rank": rank, "of": 4, "highest": 0.9}


def test_the_published_correlation_is_that_of_the_published_points(tmp_path: Path) -> None:
    # Deviations -10, 0, 10 and -0.1, 0.1, 0: products 1 + 0 + 0 = 1, squares 200 and 0.02.
    assert reference(tmp_path, [0.6], [50.0, 60.0, 70.0], [0.4, 0.6, 0.5])["pearson"]["rb2~ppo"] == pytest.approx(0.5)
