"""Which rows runs were measured on, and whether their scores compare."""

from typing import Any

import pytest

from evalhooks.measured_rows import different_rows


def run(metric: str, *, rows: dict[str, list[int]] | None = None, limit: float | None = 1.0, file: str = "a" * 64) -> dict[str, Any]:
    """The record of a finished run with this metric; None as `limit` stands for a record that does not know it."""
    key = f"hooks.{'pools' if metric.startswith('bon') else metric.partition('/')[0]}"
    settings = {"hooks": {"limit": limit}, "inputs": {key: file, "data.0.a": "b" * 64}}
    return {"identity": settings, "final": {metric: 0.5}} | ({"rows": rows} if rows else {})


def apart(metric: str, *runs: dict[str, Any]) -> str:
    return different_rows({f"job {number}": record for number, record in enumerate(runs, 1)}, metric)


BUDGET = "set hooks.budget=null, which measures all rows."


def test_scores_on_the_same_rows_compare() -> None:
    for metric in ("rewardbench2/overall", "bon/average@16", "downstream/average", "held_out/accuracy"):
        assert apart(metric, run(metric), run(metric), run(metric)) == ""
        part = {metric.partition("/")[0] + ("/sums" if "average" in metric else ""): [3, 10]}
        assert apart(metric, run(metric, rows=part), run(metric, rows=part)) == ""
    # One that was not measured, one whose record does not know its settings, and the rows of another benchmark take no part.
    own = run("rewardbench2/overall")
    assert apart("rewardbench2/overall", own, {"final": {}, "identity": {}}, {"rows": {"rewardbench2": [1, 2]}}) == ""
    assert apart("rewardbench2/overall", own, {"final": own["final"], "identity": {}}, own | {"rows": {"rewardbench1": [1, 2]}}) == ""


@pytest.mark.parametrize(
    ("metric", "changes", "told"),
    [
        ("rewardbench2/overall", {"rows": {"rewardbench2": [3, 10]}}, f"(3 of 10 rows: job 1; all rows: job 2, job 3), {{}}; {BUDGET}"),
        ("downstream/average", {"rows": {"downstream/a": [1, 2]}}, f"(1 of 2 rows: job 1; all rows: job 2, job 3), {{}}; {BUDGET}"),
        ("bon/average@4", {"file": "c" * 64}, "(file cccccccc: job 1; file aaaaaaaa: job 2, job 3), {}; set hooks.pools to one file."),
        (
            "rewardbench1/overall",
            {"limit": 0.5},
            "(hooks.limit=0.5: job 1; hooks.limit=1.0: job 2, job 3), {}; set hooks.limit to one value.",
        ),
        (
            "rewardbench2/overall",
            {"limit": 0.5, "file": "c" * 64},
            "(hooks.limit=0.5, file cccccccc: job 1; hooks.limit=1.0, file aaaaaaaa: job 2, job 3), {}; set hooks.limit to one value, and "
            "hooks.rewardbench2 to one file.",
        ),
    ],
)
def test_scores_on_different_rows_are_told_with_the_key_to_set(metric: str, changes: dict[str, Any], told: str) -> None:
    said = apart(metric, run(metric, **changes), run(metric), run(metric))
    assert said == f"{metric.partition('/')[0]} was measured on different rows {told.format('so that its scores do not compare')}"


def test_held_out_pairs_of_other_data_are_each_run_s_own() -> None:
    metric = "held_out/accuracy"
    assert apart(metric, run(metric, rows={"held_out": [3, 10]}), run(metric, rows={"held_out": [4, 12]})) == ""
    said = apart(metric, run(metric, rows={"held_out": [3, 10]}), run(metric, rows={"held_out": [4, 10]}))
    assert said.startswith("held_out was measured on different rows (3 of 10 rows: job 1; 4 of 10 rows: job 2)")
