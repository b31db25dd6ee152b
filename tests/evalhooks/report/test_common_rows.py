"""Reward models that a budget had measured on different rows are compared on those in common, or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bon.picks import Pick, write_picks
from core.disk import write_json
from core.hooks.hook import eval_file, rows_file
from core.records import ScoredRow
from evalhooks.report.common_rows import on_common_rows
from evalhooks.report.summary import correlations, protocol
from evalhooks.rewardbench.rows import ScoredBenchmark, write_rows

STEP = 4


def record(folder: Path, name: str, final: Mapping[str, float], rows: Mapping[str, Sequence[int]] | None = None) -> dict[str, Any]:
    """A finished run with its last evaluation; without `rows` it was measured on all."""
    place = folder / f"rm-{name}-00000000"
    (place / "evals").mkdir(parents=True)
    write_json(eval_file(place, STEP), {"checkpoint/step": STEP, **final})
    identity = {"inputs": {"hooks.rewardbench2": "abc"}, "hooks": {"limit": 1.0}}
    return {"job": "rm", "dir": str(place), "final": dict(final), "identity": identity, **({"rows": dict(rows)} if rows else {})}


def scored(run: Mapping[str, Any], rights: Mapping[str, bool]) -> None:
    """Writes which rows of mathematics a run was right on."""
    rows = tuple(
        ScoredRow(id=name, subset="Math", num_correct=1, scores=(1.0, 0.0) if is_right else (0.0, 1.0)) for name, is_right in rights.items()
    )
    write_rows(
        rows_file(Path(run["dir"]), STEP, "rewardbench2"), ScoredBenchmark(rows=rows, details=(None,) * len(rows)), [None] * len(rows)
    )


@pytest.fixture
def two(tmp_path: Path) -> list[dict[str, Any]]:
    """One measured on two of four rows, one on all: 1/2 and 3/4, but on the two in common 1/2 and 1."""
    small = record(tmp_path, "small", {"rewardbench2/math": 0.5}, {"rewardbench2": [2, 4], "held_out": [3, 9]})
    large = record(tmp_path, "large", {"rewardbench2/math": 0.75, "held_out/accuracy": 0.6})
    scored(small, {"a": True, "b": False})
    scored(large, {"a": True, "b": True, "c": False, "d": True})
    return [small, large]


def test_scores_on_different_rows_become_scores_on_the_rows_in_common(two: list[dict[str, Any]]) -> None:
    found, [said] = on_common_rows(two)
    assert [run["final"]["rewardbench2/math"] for run in found] == [0.5, 1.0]
    assert found[1]["final"]["held_out/accuracy"] == 0.6
    assert [run["rows"]["rewardbench2"] for run in found] == [[2, 4], [2, 4]]
    assert protocol(found[0]) == protocol(found[1])
    assert two[1]["final"]["rewardbench2/math"] == 0.75, "what was given stays"
    assert "2 of 4 rows for rm-small-00000000, all rows for rm-large-00000000" in said
    assert "on the 2 rows that all were measured on" in said


def test_where_single_rows_are_gone_the_scores_stay_and_count_as_another_protocol(two: list[dict[str, Any]]) -> None:
    rows_file(Path(two[1]["dir"]), STEP, "rewardbench2").unlink()
    found, [said] = on_common_rows(two)
    assert found == two
    assert protocol(found[0]) != protocol(found[1])
    assert "so that they do not compare; what rm-large-00000000 scored row by row is not there." in said


def test_rows_that_have_none_in_common_are_not_compared(two: list[dict[str, Any]]) -> None:
    scored(two[1], {"c": True})
    found, [said] = on_common_rows(two)
    assert found == two
    assert "share none" in said


@pytest.mark.parametrize("rows", [None, {"rewardbench2": [2, 4]}])
def test_reward_models_of_the_same_rows_stay_as_they_are_without_a_word(tmp_path: Path, rows: Mapping[str, Sequence[int]] | None) -> None:
    runs = [record(tmp_path, name, {"rewardbench2/math": 0.5}, rows) for name in ("a", "b")]
    for run in runs:
        scored(run, {"a": True, "b": False})
    assert on_common_rows(runs) == (runs, [])


def test_best_of_n_is_averaged_over_the_prompts_in_common_and_then_over_tasks(tmp_path: Path) -> None:
    small = record(tmp_path, "small", {"bon/average@2": 0.5}, {"bon/sums": [1, 2], "bon/lists": [1, 1]})
    large = record(tmp_path, "large", {"bon/average@2": 0.25}, {"bon/sums": [2, 2], "bon/lists": [1, 1]})

    def picked(task: str, name: str, correct: float) -> Pick:
        return Pick(task=task, id=name, n=2, correct=correct)

    lists = [picked("lists", "0", 0.0)]
    write_picks(rows_file(Path(small["dir"]), STEP, "bon"), {"sums": [picked("sums", "0", 1.0)], "lists": lists})
    write_picks(rows_file(Path(large["dir"]), STEP, "bon"), {"sums": [picked("sums", "0", 0.0), picked("sums", "1", 1.0)], "lists": lists})
    found, [said] = on_common_rows([small, large])
    assert [run["final"] for run in found] == [
        {"bon/sums@2": 1.0, "bon/lists@2": 0.0, "bon/average@2": 0.5},
        {"bon/sums@2": 0.0, "bon/lists@2": 0.0, "bon/average@2": 0.0},
    ]
    assert found[1]["rows"] == {"bon/sums": [1, 2], "bon/lists": [1, 1]}
    assert said.startswith("bon: ")


def test_policies_of_different_prompts_are_named(tmp_path: Path) -> None:
    runs = [
        {**record(tmp_path, name, {"downstream/sums": 0.5}, {"downstream/sums": [size, 9]}), "job": "ppo"}
        for name, size in (("a", 3), ("b", 4))
    ]
    found, [said] = on_common_rows(runs)
    assert found == runs
    assert "3 of 9 rows for rm-a-00000000, 4 of 9 rows for rm-b-00000000" in said


def test_no_correlation_is_over_several_protocols() -> None:
    models = [
        {"control": False, "rewardbench2": {"overall": place / 10}, "bon": {"average": place / 9}, "protocol": {"protocol": name}}
        for place, name in enumerate("aaabbb")
    ]
    for link in correlations(models).values():
        assert link["pearson"] is None
        assert link["n"] in (0, 6)
    assert correlations(models[:3])["rewardbench2/overall~bon/average"]["pearson"] == pytest.approx(1.0)
