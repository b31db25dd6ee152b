"""What any score is drawn against any other with: columns on the scale they are read on, correlations, and what lies behind the points."""

from typing import Any

from evalhooks.analysis.columns import columns_of_metrics
from evalhooks.analysis.findings import findings
from evalhooks.analysis.table import ScoredModel, ScoreTable
from evalhooks.report.dashboard.explorer import of_findings, of_study
from evalhooks.report.dashboard.frame import explorer
from evalhooks.report.facts import read


def table(*, protocols: bool = False) -> ScoreTable:
    models = [
        ScoredModel(
            name=f"m{place}",
            facts={"base": "juno", "lr": "1e-05"} | ({"protocol": "ab"[place % 2]} if protocols else {}),
            scores={"rewardbench2/overall": 0.1 * place, "rewardbench2/overall_se": 0.01, "elo": 1000.0 + place},
        )
        for place in range(8)
    ]
    policy = ScoredModel(name="start policy", facts={}, scores={"elo": 1002.0})
    columns = columns_of_metrics(["rewardbench2/overall", "elo"], best_of="best of N")
    return ScoreTable(sources=("a.csv",), models=tuple(models), notes=(), policies=(policy,), columns=columns)


def found(**changes: bool) -> dict[str, Any]:
    return findings(table(**changes), benchmarks=["rewardbench2/overall"], downstream=["elo"])


def test_shares_are_in_points_and_other_scores_as_they_are() -> None:
    data = of_findings(found())
    (model,) = [model for model in data["models"] if model["name"] == "m3"]
    assert model["scores"] == {"rewardbench2/overall": 30.0, "elo": 1003.0}
    assert model["errors"] == {"rewardbench2/overall": 1.0}
    assert model["setup"] == "base juno, lr 1e-05"
    assert [column["unit"] for column in data["columns"].values()] == ["points", ""]
    assert [column["name"] for column in data["columns"].values()] == ["RewardBench 2 overall", "elo"]
    assert data["lines"] == {"elo": [[1002.0, "start policy"]]}
    assert data["links"]["rewardbench2/overall~elo"]["pearson"] == 1.0


def test_each_protocol_has_its_own_correlation() -> None:
    data = of_findings(found(protocols=True))
    assert sorted(data["protocols"]) == ["protocol a", "protocol b"]
    assert data["links"]["rewardbench2/overall~elo"]["pearson"] is None
    assert data["links"]["rewardbench2/overall~elo (protocol a)"]["n"] == 4
    assert {model["protocol"] for model in data["models"]} == {"protocol a", "protocol b"}
    assert 'id="explore-protocol"' in explorer(data, "Title")
    assert 'id="explore-protocol"' not in explorer(of_findings(found()), "Title")


def test_published_points_are_on_the_scale_of_their_columns() -> None:
    given = found() | {"reference": [{"points": {"rewardbench2/overall~elo": [(0.5, 990.0)]}}]}
    assert of_findings(given)["published"] == {"rewardbench2/overall~elo": [[50.0, 990.0]]}


def test_two_reward_models_of_one_name_keep_their_own_downstream_results() -> None:
    """The findings of a study know its reward models by name and score alone."""
    models = [
        {"name": "twin", "id": name, "rewardbench2": {"overall": overall}, "bon": {"average": 0.5}}
        for name, overall in (("a", 0.6), ("b", 0.7))
    ]
    entries = [{"name": "twin", "protocol": "", "scores": {"rewardbench2/overall": s, "ppo": p}} for s, p in ((0.6, 0.1), (0.7, 0.2))]
    given = {
        "benchmarks": ["rewardbench2/overall"],
        "downstream": ["bon/average", "ppo"],
        "models": entries,
        "policies": [],
        "shares": ["rewardbench2/overall", "bon/average", "ppo"],
    }
    data = of_study(read({"reward_models": models, "findings": given}))
    assert [model["scores"] for model in data["models"]] == [
        {"rewardbench2/overall": 70.0, "bon/average": 50.0, "ppo": 20.0},
        {"rewardbench2/overall": 60.0, "bon/average": 50.0, "ppo": 10.0},
    ]


def test_a_study_without_findings_has_the_columns_that_its_reward_models_have() -> None:
    model = {"name": "a", "rewardbench2": {"overall": 0.6, "math": 0.5}, "bon": {"average": 0.5, "sums": 0.4}}
    study = {"reward_models": [model], "policy": {"start": {"average": 0.45, "sums": 0.3}, "oracle": {"average": 0.9}}}
    data = of_study(read(study))
    assert data["benchmarks"] == ["rewardbench2/overall", "rewardbench2/math"]
    assert data["downstream"] == ["bon/average", "bon/sums"]
    assert data["lines"] == {"bon/average": [[45.0, "start policy"], [90.0, "oracle"]], "bon/sums": [[30.0, "start policy"]]}


def test_a_study_without_scores_says_so() -> None:
    assert "No scores to compare." in explorer(of_study(read({})), "Title")


def test_the_regret_of_a_pick_is_on_the_scale_of_what_is_lost() -> None:
    candidate = {"name": "m1", "probability": 0.75, "expected": 0.5, "regret": 0.02, "measured": True}
    picks = {"rewardbench2/overall~elo": {"model": "m1", "slope": None, "candidates": [candidate]}}
    picks["rewardbench2/overall~elo2"] = {"model": "m1", "slope": 2.0, "candidates": [candidate]}
    lost = [entry["candidates"] for entry in of_findings(found() | {"pick": picks})["picks"]]
    # Without a fitted relation the regret is one of the benchmark, which is a share.
    assert lost == [[["m1", 0.75, 2.0]], [["m1", 0.75, 0.02]]]
