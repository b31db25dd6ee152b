"""The RewardBench 2 paper in small, `rewardloop study experiment=rb2_tiny`, from an empty folder to the report, and then in parts.

It takes minutes: `make long` runs it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

STUDY = "runs/rb2_tiny"


def given(folder: Path, *arguments: str) -> str:
    """Gives a command and returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "REWARDLOOP_TRACE")}
    line = [str(Path(sys.executable).with_name("rewardloop")), *arguments]
    ended = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=3600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def summary_of(folder: Path, study: str = STUDY) -> dict[str, Any]:
    return json.loads((folder / study / "report" / "summary.json").read_text())


def weights(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.glob(f"{STUDY}/*/checkpoints/*/model.safetensors")}


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study, of which one reward model was trained as a part, and one by `rewardloop rm`."""
    folder = tmp_path_factory.mktemp("paper")
    recipe = ["optim.lr=1e-3", "num_checkpoints=1", "tracker=files"]
    line = f"model=coast data=union {' '.join(recipe[:2])} hooks.pools=\\'\\'"
    given(folder, "study", "experiment=rb2_tiny", "parts=[rm]", f"reward_models=['{line}']")
    given(folder, "rm", "model=ridge", "data=harbor", *recipe, "hooks.pools=''", "study=rb2_tiny", f"world={STUDY}/world-0")
    before = weights(folder)
    assert len(before) == 2
    given(folder, "study", "experiment=rb2_tiny")
    assert weights(folder).items() >= before.items()
    return folder


def test_the_report_has_the_papers_tables_and_figures(paper: Path) -> None:
    summary = summary_of(paper)
    assert (len(summary["reward_models"]), len(summary["ppo"])) == (17, 5)
    assert all(model["bon"]["average"] is not None and model["bon_n"] == 16 for model in summary["reward_models"])
    tables = {title.partition("(")[2].rstrip(")") for title in summary["findings"]["tables"]}
    assert {"table 3", "table 4", "table 5", "table 7", "table 8"} <= tables
    groups = {row["group"] for rows in summary["findings"]["tables"].values() for row in rows if "group" in row}
    assert {"on-policy", "off-policy", "controls"} <= groups
    assert {"rewardbench2/overall~bon/average", "rewardbench2/overall~ppo"} <= set(summary["correlation"])
    assert {entry["task"] for entry in summary["findings"]["overlap"]} == {"facts", "lists", "sums", "requests", "topics", "choices"}
    assert all(entry["equal"] == 0 for entry in summary["findings"]["overlap"])
    for picture in ("correlation_grid.png", "benchmark_vs_downstream.png", "downstream_grid.png"):
        assert (paper / STUDY / "report" / picture).stat().st_size > 0


def test_a_second_start_trains_nothing_and_says_the_same(paper: Path) -> None:
    before, summary = weights(paper), summary_of(paper)
    given(paper, "study", "experiment=rb2_tiny")
    assert weights(paper) == before
    assert summary_of(paper)["correlation"] == summary["correlation"]


def test_parts_are_done_from_what_is_there(paper: Path) -> None:
    before = weights(paper)
    said = given(paper, "study", "experiment=rb2_tiny", "parts=[bon]")
    assert "report.html" in said
    assert weights(paper) == before
    assert summary_of(paper)["ppo"] == []
    assert len(summary_of(paper)["reward_models"]) == 17


def test_a_reward_model_of_others_is_benchmarked_given_the_pools_and_trained_against_in_two_processes(paper: Path) -> None:
    run = min(paper.glob(f"{STUDY}/rm-ridge-union-*"))
    [other] = run.glob("checkpoints/step-*")
    policy = f"reward.path={other} num_batches=2 num_checkpoints=1 batch_size=16 minibatch_size=16 micro_batch_size=16 engine=fsdp2"
    rows, pools = paper / STUDY / "world-0/benchmark/rewardbench2.jsonl", paper / STUDY / "world-0/pools"
    given(
        paper,
        *("study", "experiment=rb2_tiny", "study=others", "parts=[bon,ppo]", "processes=2", "embedded=false"),
        f"pools=['pools={pools}', 'pool.limit=10']",
        *(f"policies=['{policy}']", f"bench=['rows={rows}']", f"common=['tracker=files', 'world={paper / STUDY / 'world-0'}']"),
    )
    summary = summary_of(paper, "runs/others")
    [model], [policy_run] = summary["reward_models"], summary["ppo"]
    assert model["id"] == policy_run["rm"] == run.name.rpartition("-")[2]
    assert model["rewardbench2"]["overall"] > 0
    assert set(model["bon"]) == {"facts", "lists", "sums", "requests", "topics", "choices", "average"}
    assert policy_run["best_average"] is not None
