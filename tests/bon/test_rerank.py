"""Reranking of pools by a reward model, with numbers that can be worked out by hand."""

from collections.abc import Sequence

import pytest

from bon.picks import rerank
from bon.pools import bounds
from bon.rows import PoolRow
from core.records import Dialogue, user
from tests.fakes import LengthScorer


def pool(*rows: Sequence[tuple[str, float]]) -> list[PoolRow]:
    return [
        PoolRow(id=str(i), prompt=user("?"), completions=tuple(text for text, _ in row), correct=tuple(correct for _, correct in row))
        for i, row in enumerate(rows)
    ]


def test_reranking_is_the_mean_over_prompts_and_then_over_tasks() -> None:
    # LengthScorer prefers the longer. In "a", the longest is right in the first row and wrong in the second:
    #   @1: means 1/3 and 1/3, so 1/3. @3: 1 and 0, so 1/2.
    #   @2: pairs {ccc,bb} {ccc,a} {bb,a} pick 1, 1, 0: 2/3; {dd,e} {dd,ffff} {e,ffff} pick 1, 0, 0: 1/3; so 1/2.
    # In "b" the two longest tie, one of them right: @1 2/3; @2: {yy,zz} 1/2, {yy,x} 1, {zz,x} 0: 1/2; @3 1/2.
    # The averages weigh tasks, not prompts: (1/3 + 2/3) / 2 = 1/2 (over prompts it would be 4/9).
    pools = {
        "a": pool([("a", 0.0), ("bb", 0.0), ("ccc", 1.0)], [("dd", 1.0), ("e", 0.0), ("ffff", 0.0)]),
        "b": pool([("x", 1.0), ("yy", 1.0), ("zz", 0.0)]),
    }
    scorer = LengthScorer()
    metrics = rerank(pools, scorer, [1, 2, 3])
    assert metrics == pytest.approx(
        {
            "bon/a@1": 1 / 3,
            "bon/b@1": 2 / 3,
            "bon/average@1": 1 / 2,
            "bon/a@2": 1 / 2,
            "bon/b@2": 1 / 2,
            "bon/average@2": 1 / 2,
            "bon/a@3": 1 / 2,
            "bon/b@3": 1 / 2,
            "bon/average@3": 1 / 2,
        },
        abs=1e-12,
    )
    assert len(scorer.calls) == 1, "all sizes come from one pass of the reward model"


def test_bounds_are_the_share_of_right_completions_and_the_chance_that_n_hold_one() -> None:
    # "a": shares 1/4 and 0, mean 1/8; pass@2 = 1 - C(3,2)/C(4,2) = 1/2 and 0, mean 1/4. "b": 1 and 1.
    pools = {"a": pool([("p", 1.0), ("q", 0.0), ("r", 0.0), ("s", 0.0)], [("p", 0.0)] * 4), "b": pool([("p", 1.0)] * 4)}
    assert bounds(pools, 2) == {
        "random": {"a": pytest.approx(1 / 8), "b": 1.0, "average": pytest.approx(9 / 16)},
        "oracle": {"a": pytest.approx(1 / 4), "b": 1.0, "average": pytest.approx(5 / 8)},
    }


def test_a_pool_smaller_than_n_is_refused() -> None:
    with pytest.raises(ValueError, match="best-of-16 needs"):
        rerank({"a": pool([("x", 1.0)])}, LengthScorer(), [16])


class Fixed:
    """Gives the numbers that the completions spell."""

    def score(self, prompts: Sequence[Dialogue], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(text) for text in texts] for texts in completions]


def test_a_nan_picks_nothing_right_and_is_named_and_a_task_of_nothing_else_is_left_out() -> None:
    pools = {
        "a": pool([("nan", 1.0), ("1", 1.0)], [("2", 1.0), ("1", 0.0)], [("inf", 1.0), ("1", 0.0)]),
        "b": pool([("nan", 1.0), ("nan", 1.0)]),
    }
    said: list[str] = []
    assert rerank(pools, Fixed(), [2], said.append) == {"bon/a@2": pytest.approx(2 / 3)}  # no average of one of two tasks
    assert said == [
        "best-of-n: 2 of 3 rows of a have scores that are NaN or infinite, and a NaN counts as a wrong pick in bon/a: 0, 2",
        "best-of-n: 1 of 1 rows of b have scores that are NaN or infinite, which leaves no row to measure, so there is no bon/b: 0",
    ]
