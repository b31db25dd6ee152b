"""A study over seeds, small enough for a test: reward models picked by several criteria, and what that says of the criteria."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launch.tiny_study import HEAD, chosen, short

TINY = f"""{HEAD}
seeds: [0]
reward_models:
  - model=ridge data=union optim.lr=1e-3 data.held_out=0.2 num_checkpoints=1 hooks.best_of=[4]
  - model=ridge data=atlas optim.lr=1e-3 data.held_out=0.2 num_checkpoints=1 hooks.best_of=[4]
ppo:
  rewardbench2:
    reward: {{by: rewardbench2}}
    overrides: {short(1)}
  random:
    reward: {{by: random, seed: 1}}
    overrides: {short(1)}
  recipe:
    reward: {{by: rewardbench2, recipe: true}}
    overrides: {short(1)}
bon:
  held-out:
    reward: {{by: held_out}}
  rewardbench1:
    reward: {{by: rewardbench1}}
"""


def study(folder: Path, *more: str) -> str:
    """Runs the study above to its end and returns what it said."""
    command = [sys.executable, "-m", "launch.study", *chosen(folder, TINY), *more]
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("settle")
    return folder, study(folder)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/tiny/report/summary.json").read_text())


def test_a_study_over_seeds_ends_with_its_sentence(settled: tuple[Path, str]) -> None:
    folder, said = settled
    summary = summary_of(folder)
    assert summary["answer"] in said
    assert summary["answer"].startswith("Over 1 seed, reward models picked by RewardBench 2: in best of 4, against chance ")
    assert "advice to take the recipe and not the checkpoint: in best of 4, " in summary["answer"]
    assert said.strip().endswith("runs/tiny/report/report.html")
    page = (folder / "runs/tiny/report/report.html").read_text()
    assert summary["answer"].partition(":")[0] in page
    assert "Paired differences over the seeds" in page


def test_what_was_picked_stands_beside_what_it_was_worth(settled: tuple[Path, str]) -> None:
    folder, _ = settled
    picks = {row["criterion"]: row for row in summary_of(folder)["picks"]}
    assert set(picks) == {"ppo.rewardbench2", "ppo.random", "ppo.recipe", "bon.held-out", "bon.rewardbench1"}
    best = max(records(folder, "rm-ridge*"), key=lambda record: record["final"]["rewardbench2/overall"])
    first = picks["ppo.rewardbench2"]
    assert (first["id"], first["score"]) == (best["id"], best["final"]["rewardbench2/overall"])
    assert first["worth"]["best of 4"] == best["final"]["bon/average@4"]
    [trained] = records(folder, "rm-coast*")
    assert picks["ppo.recipe"]["id"] == trained["id"]
    assert trained["identity"]["data"]["name"] == best["identity"]["data"]["name"]
    held_out = max(records(folder, "rm-ridge*"), key=lambda record: record["final"]["held_out/accuracy"])
    assert picks["bon.held-out"]["id"] == held_out["id"]
    assert picks["bon.held-out"]["worth"] == {"best of 4": held_out["final"]["bon/average@4"]}


def test_equal_picks_share_one_run(settled: tuple[Path, str]) -> None:
    folder, _ = settled
    picks = [row for row in summary_of(folder)["picks"] if row["criterion"].startswith("ppo.")]
    assert len({row["run"] for row in picks}) == len({row["id"] for row in picks}) == len(records(folder, "ppo-*"))


@pytest.mark.long
def test_a_further_seed_leaves_the_finished_ones_as_they_are(settled: tuple[Path, str]) -> None:
    folder, _ = settled
    before = {file: file.stat().st_mtime_ns for file in folder.glob("runs/tiny-seed0/*/record.json")}
    first = summary_of(folder)["picks"]
    study(folder, "seeds=[0,1]")
    assert {file: file.stat().st_mtime_ns for file in folder.glob("runs/tiny-seed0/*/record.json")} == before
    summary = summary_of(folder)
    assert [row for row in summary["picks"] if row["seed"] == 0] == first
    assert {row["seed"] for row in summary["picks"]} == {0, 1}
    assert summary["answer"].startswith("Over 2 seeds, ")


def records(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"runs/tiny-seed0/{pattern}/record.json"))]
