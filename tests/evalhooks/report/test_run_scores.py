"""The scores of runs as a table: what PPO is told by, groups, tries, and the columns that are compared by default."""

from typing import Any

import pytest

from evalhooks.halves import halves
from evalhooks.report.run_scores import best_policy, run_findings, table_of
from evalhooks.tasks.task import Judged


def model(number: int, **more: Any) -> dict[str, Any]:
    scores = {"overall": 0.5 + 0.03 * number, "math": 0.4 + 0.05 * ((number * 7) % 5)}
    entry: dict[str, Any] = {"id": f"id{number}", "name": f"rm{number}", "base": "tulu", "data": "mix", "lr": 1e-6, "epochs": 1, "seed": 0}
    entry |= {"flip": 0.0, "control": False, "rewardbench2": scores, "bon": {"average": 0.4 + 0.02 * number, "gsm8k": 0.3 + 0.01 * number}}
    return entry | {"details": {"errors": {"overall": 0.01}}, "protocol": {"max_length": "2048"}} | more


def policy(rm: str, averages: list[float], **more: Any) -> dict[str, Any]:
    rows = [{"step": 10 * k, "downstream_average": value, "on_policy/reward_std": 0.5} for k, value in enumerate(averages)]
    return {"name": f"ppo-{rm}", "rm": rm, "start_average": averages[0], "checkpoints": rows, "same_lineage": "yes"} | more


def summary(**more: Any) -> dict[str, Any]:
    return {"study": "demo", "score": "overall", "reward_models": [model(k) for k in range(6)], "ppo": [], "policy": {}} | more


def test_the_columns_are_the_benchmarks_of_the_study_and_its_downstream_results() -> None:
    found = run_findings(summary())
    assert found is not None
    assert found["benchmarks"] == ["rewardbench2/overall", "rewardbench2/math"]
    assert found["downstream"] == ["bon/average", "bon/gsm8k"]
    assert found["correlation"]["rewardbench2/overall~bon/average"]["pearson"] == pytest.approx(1.0)
    assert found["pick"]["rewardbench2/overall~bon/average"]["model"] == "rm5"
    assert list(found["pick"]) == ["rewardbench2/overall~bon/average"]


def test_columns_can_be_named_and_one_that_no_reward_model_has_is_refused() -> None:
    found = run_findings(summary(), benchmarks=["rewardbench2/math"], downstream=["bon/gsm8k"])
    assert found is not None
    assert next(iter(found["correlation"])) == "rewardbench2/math~bon/gsm8k"
    with pytest.raises(ValueError, match="no reward model has rb3; they have rewardbench2/overall"):
        run_findings(summary(), benchmarks=["rb3"])


def test_ppo_is_the_best_checkpoint_over_all_runs_and_the_tries_are_told() -> None:
    runs = [policy("id0", [0.5, 0.6]), policy("id0", [0.5, 0.7, 0.4], same_lineage="no"), policy("gone", [0.5])]
    table = table_of(summary(ppo=runs))
    [first] = [one for one in table.models if one.name == "rm0"]
    assert first.scores["ppo"] == 0.7
    assert first.scores["on_policy/reward_std"] == 0.5
    assert (first.facts["tries"], first.facts["group"], first.facts["lineage"]) == ("5", "on-policy", "yes")
    assert "ppo-gone was trained by gone, which is no reward model of this report" in table.notes[0]
    assert "that of its best PPO checkpoint, of 5 over all its runs" in table.notes[1]
    assert table.notes[2].startswith("PPO runs of rm0 do not tell these apart")
    assert table.policies[0].scores == {"ppo": 0.5}


def test_the_best_checkpoint_is_chosen_on_one_half_and_told_on_the_other() -> None:
    rows = [
        {"step": 0, "downstream_average": 0.5, "halves/even": 0.5, "halves/odd": 0.5},
        {"step": 1, "downstream_average": 0.6, "halves/even": 0.7, "halves/odd": 0.5},
        {"step": 2, "downstream_average": 0.65, "halves/even": 0.6, "halves/odd": 0.7},
    ]
    assert best_policy([{"checkpoints": rows}]) == (0.5, 3)
    assert best_policy([{"checkpoints": [*rows, {"step": 3, "downstream_average": 0.55}]}]) == (0.65, 4)
    assert best_policy([{"checkpoints": []}]) == (None, 0)


def test_halves_are_means_of_tasks_over_even_and_odd_prompts() -> None:
    tasks = {
        "a": Judged(correct=[[1.0, 0.0], [1.0, 1.0], [0.0, None]], reasons={}),  # even 0.5 and 0, odd 1
        "b": Judged(correct=[[1.0], [0.0]], reasons={}),
    }
    assert halves(tasks) == {"halves/even": (0.25 + 1) / 2, "halves/odd": 0.5}
    assert halves(tasks | {"c": Judged(correct=[[1.0]], reasons={})}) == {}
    assert halves({}) == {}


def test_a_run_on_other_rows_is_of_another_protocol() -> None:
    models = [model(k, protocol={"protocol": "rewardbench2 aaaa" if k < 3 else "rewardbench2 bbbb"}) for k in range(6)]
    found = run_findings(summary(reward_models=models))
    assert found is not None
    assert found["correlation"]["rewardbench2/overall~bon/average"]["pearson"] is None
    assert found["correlation"]["rewardbench2/overall~bon/average (protocol rewardbench2 aaaa)"]["n"] == 3


def test_a_reward_model_of_unknown_protocol_is_no_candidate_beside_those_of_a_known_one() -> None:
    models = [model(k) for k in range(5)] + [model(9, protocol={}, bon={})]
    found = run_findings(summary(reward_models=models))
    assert found is not None
    picked = found["pick"]["rewardbench2/overall~bon/average"]
    assert picked["model"] == "rm4"
    assert "of unknown protocol: rm9" in picked["answer"]
