"""The paper's own numbers, where its tables lie beside the project: correlations to three digits, and the answers they allow."""

import json
from pathlib import Path
from typing import Any

import pytest

from evalhooks.analysis.findings import findings
from evalhooks.analysis.relations import relation
from evalhooks.analysis.table import read_table

DATA = Path(__file__).parents[4] / "shared" / "data"
TABLE8 = DATA / "rb2_paper_downstream17.jsonl"
pytestmark = pytest.mark.skipif(not TABLE8.is_file(), reason="the published tables do not lie beside the project")


def of_table8() -> dict[str, Any]:
    table = read_table([str(TABLE8)], ["rb2", "bon", "ppo"])
    return findings(table, benchmarks=["rb2"], downstream=["bon", "ppo"])


def test_table_8s_correlations_come_out_to_three_digits_with_intervals_and_n() -> None:
    found = of_table8()["correlation"]
    figures = {key: (round(link["pearson"], 3), link["n"]) for key, link in found.items() if link["pearson"] is not None}
    assert figures["rb2~bon"] == (0.915, 17)
    assert figures["rb2~ppo"] == (0.717, 17)
    assert figures["rb2~ppo (on-policy)"] == (-0.255, 9)
    assert figures["rb2~bon (without controls)"] == (0.663, 14)
    assert found["rb2~ppo (on-policy)"]["ci95"] == pytest.approx([-0.786, 0.492], abs=1e-3)


def test_for_ppo_the_pick_is_no_reward_model_of_another_lineage_although_these_lead_the_benchmark() -> None:
    picked = of_table8()["pick"]["rb2~ppo"]
    assert picked["highest_score"] == "13"
    assert picked["model"] in {"1", "2", "3", "8"}
    assert picked["regret"] < 1 < picked["highest_score_regret"]
    assert "run against each other" in picked["answer"]


def test_both_leaderboards_share_45_reward_models() -> None:
    columns = ["rb1_leaderboard/Score", "rb2_leaderboard/Score"]
    table = read_table([str(DATA / "rb1_leaderboard.jsonl"), str(DATA / "rb2_leaderboard.jsonl")], columns)
    found = relation(table, *columns)["~".join(columns)]
    assert found.pearson is not None
    assert (round(found.pearson, 3), found.n) == (0.929, 45)


def test_whether_rewardbench_1_or_2_predicts_better_cannot_be_told_from_two_reward_models(tmp_path: Path) -> None:
    ones = {row["model"]: row["Score"] for row in map(json.loads, (DATA / "rb1_leaderboard.jsonl").read_text().splitlines())}
    known = {1: "allenai/Llama-3.1-Tulu-3-8B-RL-RM-RB2", 13: "allenai/Llama-3.1-8B-Instruct-RM-RB2"}
    rows = [json.loads(line) for line in TABLE8.read_text().splitlines()]
    merged = [row | {"rb1": ones.get(known.get(row["id"], ""))} for row in rows]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, merged)))
    table = read_table([str(tmp_path / "both.jsonl")], ["rb1", "rb2", "ppo"])
    [entry] = findings(table, benchmarks=["rb2", "rb1"], downstream=["ppo"])["head_to_head"]
    assert entry["answer"].startswith("For ppo: cannot tell with n = 2 ")
