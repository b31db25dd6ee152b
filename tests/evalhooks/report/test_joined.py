"""Runs of best-of-N and of benchmarks belong to the reward models that they scored."""

from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from evalhooks.report.joined import reranked, with_rewards
from evalhooks.report.summary import summarize


def trained(folder: Path, run_id: str, final: dict[str, float] | None = None, *, status: str = "finished") -> dict[str, Any]:
    identity = {"optim": {"lr": 1e-6}, "epochs": 1, "seed": 0, "data": {"flip": 0.0}}
    record = {"id": run_id, "job": "rm", "name": run_id, "identity": identity, "status": status, "final": final or {}}
    record |= {"lineage": {"base": "tulu", "model": "tulu", "data": "mix"}}
    run = folder / f"rm-{run_id}-{run_id}"
    write_json(run / "record.json", record)
    (run / "checkpoints" / "step-000004").mkdir(parents=True)
    return {**record, "dir": str(run)}


def chosen(models: dict[str, dict[str, str]], **final: float) -> dict[str, Any]:
    return {"id": "bon", "job": "bon", "identity": {}, "lineage": {"reward_models": models}, "final": final, "dir": "bon", "finished": "1"}


def of_run(run: dict[str, Any]) -> dict[str, str]:
    return {"run": run["id"], "path": f"{run['dir']}/checkpoints/step-000004", "base": "tulu", "data": "mix"}


def benched(run: str, **final: float) -> dict[str, Any]:
    record = {"id": f"b{run}", "job": "bench", "identity": {}, "reward": run, "dir": f"runs/s/bench-{run}-0", "final": final}
    return {**record, "lineage": {"run": run, "path": run, "base": "llama", "data": ""}}


def entries(*records: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = summarize(study="s", wall_s=1.0, records=records, pools=None, policy_lineage="", notes=())
    return {model["id"]: model for model in found["reward_models"]}


def test_what_a_reward_model_chose_in_a_run_of_best_of_n_is_its_own_result(tmp_path: Path) -> None:
    rm = trained(tmp_path, "aaaaaaaa", {"rewardbench2/overall": 0.5})
    final = {"bon/mine/gsm8k@8": 0.4, "bon/mine/gsm8k@16": 0.5, "bon/mine/average@16": 0.5, "bon/mine/gsm8k/variance": 2.0}
    run = chosen({"mine": of_run(rm)}, **final, **{"bon/other/gsm8k@16": 0.9, "bon/random/gsm8k@16": 0.1})
    assert reranked([run]) == {"aaaaaaaa": {"bon/gsm8k@8": 0.4, "bon/gsm8k@16": 0.5, "bon/average@16": 0.5}}
    entry = entries(rm, run)["aaaaaaaa"]
    assert (entry["bon"], entry["bon_n"]) == ({"gsm8k": 0.5, "average": 0.5}, 16)
    # The hooks of its own training count more: they are what its other numbers were measured beside.
    own = trained(tmp_path, "bbbbbbbb", {"bon/gsm8k@16": 0.7})
    assert entries(own, chosen({"mine": of_run(own)}, **final))["bbbbbbbb"]["bon"] == {"gsm8k": 0.7}


def test_reward_models_that_only_chose_from_pools_stand_in_the_report_too(tmp_path: Path) -> None:
    done, torn = trained(tmp_path, "aaaaaaaa"), trained(tmp_path, "bbbbbbbb", status="running")
    gone = {"run": "org/name", "path": "org/name", "base": "llama", "data": ""}
    run = chosen({"a": of_run(done), "b": of_run(torn), "c": gone}, **{"bon/a/gsm8k@4": 0.5})
    assert [record["id"] for record in with_rewards([run])] == ["bon", "aaaaaaaa"]
    assert [record["id"] for record in with_rewards([run, done])] == ["bon", "aaaaaaaa"]
    assert set(entries(run)) == {"aaaaaaaa", "bbbbbbbb", "org/name"}


def test_a_benchmark_adds_to_a_reward_model_that_was_trained_here_and_stands_for_any_other(tmp_path: Path) -> None:
    rm = trained(tmp_path, "aaaaaaaa", {"rewardbench2/overall": 0.5})
    found = entries(
        rm,
        benched("aaaaaaaa", **{"rewardbench2/overall": 0.9}),
        benched("aaaaaaaa", **{"rewardbench1/overall": 0.8}),
        benched("org/name", **{"rewardbench2/overall": 0.7}),
        benched("org/name", **{"rewardbench1/overall": 0.6}),
        chosen({"x": {"run": "org/name", "path": "org/name", "base": "llama", "data": ""}}, **{"bon/x/average@16": 0.3}),
    )
    assert set(found) == {"aaaaaaaa", "org/name"}
    assert (found["aaaaaaaa"]["rewardbench2"]["overall"], found["aaaaaaaa"]["rewardbench1"]) == (0.5, {"overall": 0.8})
    other = found["org/name"]
    assert (other["rewardbench2"]["overall"], other["rewardbench1"], other["bon"]) == (0.7, {"overall": 0.6}, {"average": 0.3})
    assert other["base"] == "llama"


@pytest.mark.parametrize("mode", ["ratings", "rankings"])
def test_a_judge_says_what_it_was_asked_for(mode: str) -> None:
    record = benched("gpt", **{"rewardbench2/overall": 0.7}) | {"identity": {"reward": {"kind": "judge", "judge": {"mode": mode}}}}
    del record["lineage"]
    [entry] = entries(record).values()
    assert (entry["mode"], entry["recipe"]) == (mode, "gpt")
