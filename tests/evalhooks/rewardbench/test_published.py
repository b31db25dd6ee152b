"""The formulas against what was published: leaderboards, the tables of a paper, real rows of Ties."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.records import ScoredRow
from evalhooks.rewardbench import v1, v2
from evalhooks.rewardbench.rows import load_rewardbench2, score_rows
from tests.fakes import LengthScorer

DATA = Path(__file__).parents[3].parent / "shared" / "data"
"""Published tables as JSONL, which are not part of the project."""

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published tables are not beside the project")

LEADERBOARD2 = [
    # Factuality, Precise IF, Math, Safety, Focus, Ties, Score; two of the best, one between, and the last of the leaderboard.
    (0.8463, 0.6625, 0.776, 0.9667, 0.9838, 0.8124, 0.8413),
    (0.8716, 0.5437, 0.7268, 0.9133, 0.9677, 0.9014, 0.8208),
    (0.7326, 0.4375, 0.6339, 0.7778, 0.6061, 0.5043, 0.6154),
    (0.04, 0.1313, 0.0546, 0.0489, 0.0808, -0.01, 0.0576),
]

LEADERBOARD1 = [
    # Chat, Chat Hard, Safety, Reasoning, prior sets (None: not measured), Score.
    (0.9665, 0.9101, 0.9365, 0.9912, None, 0.9511),
    (0.9693, 0.5724, 0.877, 0.8845, 0.7137, 0.8133),
    (0.6397, 0.3728, 0.5041, 0.5672, 0.5427, 0.5233),
]


def published(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def agrees(ours: float | None, row: Mapping[str, Any], *, last_digit: float) -> bool:
    """Equal up to what rounding can do: half a last digit in the published score and as much in the mean of its parts."""
    return ours is not None and math.isclose(ours, row["Score"], rel_tol=0, abs_tol=last_digit + 1e-9)


def test_overall_of_rewardbench_2_is_the_published_one_to_its_last_digit() -> None:
    for *domains, score in LEADERBOARD2:
        ours = v2.overall_score(dict(zip(v2.DOMAINS.values(), domains, strict=True)))
        assert agrees(ours, {"Score": score}, last_digit=1e-4)


def test_overall_of_rewardbench_1_is_the_published_one_to_its_last_digit() -> None:
    for *sections, prior_sets, score in LEADERBOARD1:
        ours = v1.overall_score(dict(zip(v1.COUNTS, sections, strict=True)), prior_sets)
        assert agrees(ours, {"Score": score}, last_digit=1e-4)


@needs_data
def test_overall_of_every_model_of_the_rewardbench_2_leaderboard_is_reproduced() -> None:
    rows = published("rb2_leaderboard.jsonl")
    assert len(rows) == 197
    assert [row["model"] for row in rows if not agrees(v2.overall_score(row), row, last_digit=1e-4)] == []
    assert min(row["Ties"] for row in rows) == -0.01, "the lower end of the scale of Ties occurs"


@needs_data
def test_overall_of_every_model_of_the_papers_tables_is_reproduced() -> None:
    rows = published("rb2_paper_tables.jsonl")
    assert len(rows) == 43
    # In points of 100 with one digit.
    assert [row["model"] for row in rows if not agrees(v2.overall_score(row), row, last_digit=0.1)] == []


@needs_data
def test_overall_of_every_model_of_the_rewardbench_1_leaderboard_is_reproduced_where_all_sections_are_there() -> None:
    rows = published("rb1_leaderboard.jsonl")
    assert len(rows) == 187
    whole = [row for row in rows if all(section in row for section in v1.COUNTS)]
    assert len(whole) == 172
    for row in whole:
        prior_sets = row.get("Prior Sets (0.5 weight)") or None  # 0 stands for not measured
        assert agrees(v1.overall_score(row, prior_sets), row, last_digit=1e-4), row
    # The leaderboard averages the sections that it has for the others; here a missing one leaves no overall.
    assert all(v1.overall_score(row) is None for row in rows if row not in whole)


@needs_data
def test_real_rows_of_ties_are_read_and_scored_as_they_stand() -> None:
    rows = load_rewardbench2(str(DATA / "rb2_ties_sample.jsonl"))
    assert [row.id for row in rows[:2]] == ["tied:42", "ref:42"]
    assert len(rows) == 10
    assert all(row.num_correct == 1 for row in rows if row.id.startswith("ref:"))
    assert (rows[0].num_correct, len(rows[0].completions)) == (7, 20)
    perfect = [
        scored_as(row.id, row.num_correct, [1.0] * row.num_correct + [0.0] * (len(row.completions) - row.num_correct)) for row in rows
    ]
    assert v2.ties_score(perfect).score == pytest.approx(1.01)
    assert v2.ties_score(perfect).num_pairs == 5

    result = v2.scores(score_rows(rows, LengthScorer()).rows)
    assert result.refusals == ()
    assert result.ties is not None
    # Long wrong answers stand in every row, so length alone is never accurate and no margin exceeds its spread.
    assert (result.ties.accuracy_tied, result.ties.accuracy_ref, result.ties.preferred, result.ties.preferred_hard) == (0, 0, 0, 0)
    assert -0.01 <= result.ties.score < 0


def scored_as(id: str, num_correct: int, scores: Sequence[float]) -> ScoredRow:
    return ScoredRow(id=id, subset="Ties", num_correct=num_correct, scores=tuple(scores))
