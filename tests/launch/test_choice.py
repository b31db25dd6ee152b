"""Which of several reward models is taken: by each criterion, and among finished runs."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.disk import atomic_folder, write_json
from core.runs.checkpoints import step_folder
from launch.compose import ConfigError, composed
from launch.rewards.choice import By, Pick, choose
from launch.rewards.config import RewardConfig
from launch.rewards.locate import chosen, locate_reward, with_chosen
from launch.schema import BoNJob, PPOJob
from launch.terminal.preview import preview


def record(name: str, **final: float | str) -> dict[str, Any]:
    known = {"dir": name, "id": name, "lineage": {"base": name}}
    return known | {"final": {key.replace("__", "/"): value for key, value in final.items()}}


def told(line: str) -> None:
    """What a choice says is of no interest here."""


def test_reward_models_are_chosen_by_overall_and_without_one_by_the_mean_that_most_have() -> None:
    whole = record("whole", rewardbench2__overall=0.4, rewardbench2__math=0.9)
    math = [record(f"math {score}", rewardbench2__math=score) for score in (0.5, 0.6)]
    safety = record("safety", rewardbench2__safety=0.99)
    assert choose([*math, whole], say=told) is whole  # another mean never competes with an overall score
    assert choose([*math, whole], pick=Pick.worst, say=told) is whole
    assert choose([*math, safety], say=told) is math[1]
    assert choose([*math, safety], pick=Pick.worst, say=told) is math[0]


@pytest.mark.parametrize("pick", Pick)
@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity"])
def test_a_reward_model_without_a_finite_score_is_neither_best_nor_worst(pick: Pick, bad: str) -> None:
    good = record("good", rewardbench2__overall=bad, rewardbench2__math=0.5)
    broken = [record("a", rewardbench2__overall=bad), record("b", bon__average=0.9)]
    said: list[str] = []
    assert choose([broken[0], good, broken[1]], pick=pick, say=said.append) is good
    assert said == ["not chosen from, without a finite score on RewardBench 2: a, b"]
    with pytest.raises(ValueError, match=r"no reward model to choose: none of a, b has a finite score on RewardBench 2"):
        choose(broken, pick=pick)


def test_a_shared_best_score_is_told_and_the_first_is_taken() -> None:
    records = [record(name, held_out__accuracy=score) for name, score in (("low", 0.5), ("a", 1.0), ("b", 1.0), ("c", 1.0))]
    said: list[str] = []
    assert choose(records, By.held_out, say=said.append) is records[1]
    assert said == ["the best score on held-out accuracy is shared, so the order decides: a is taken, and b, c would do as well"]
    assert choose(records, By.held_out, pick=Pick.worst, say=said.append) is records[0]
    assert len(said) == 1


def test_each_criterion_reads_its_own_score() -> None:
    scores = {"two": (0.9, 0.1, 0.1), "one": (0.1, 0.9, 0.2), "out": (0.2, 0.2, 0.9)}
    records = [record(name, rewardbench2__overall=a, rewardbench1__overall=b, held_out__accuracy=c) for name, (a, b, c) in scores.items()]
    taken = {by: choose(records, by)["id"] for by in (By.rewardbench2, By.rewardbench1, By.held_out)}
    assert taken == {By.rewardbench2: "two", By.rewardbench1: "one", By.held_out: "out"}
    assert choose(records, By.held_out, pick=Pick.worst)["id"] == "two"
    with pytest.raises(ValueError, match=r"RewardBench 1; train with hooks\.rewardbench1=FILE"):
        choose([record("a", rewardbench2__overall=0.5, rewardbench1__overall="NaN")], By.rewardbench1)
    with pytest.raises(ValueError, match=r"held-out accuracy; train with data\.held_out=0\.1 or data\.validation=FILE"):
        choose([record("a", rewardbench2__overall=0.5)], By.held_out)


def test_a_choice_between_scores_on_different_rows_is_told() -> None:
    records = [record("a", rewardbench2__overall=0.6), record("b", rewardbench2__overall=0.5) | {"rows": {"rewardbench2": [4, 9]}}]
    said: list[str] = []
    assert choose(records, say=said.append)["id"] == "a"
    [line] = said
    assert line.startswith("warning: rewardbench2 was measured on different rows (all rows: ")
    assert line.endswith("so that its scores do not compare; set hooks.budget=null, which measures all rows.")
    choose(records, By.random, say=said.append)
    choose(records[:1], say=said.append)
    assert said == [line]


def test_a_draw_is_that_of_its_seed_whatever_the_order_and_whoever_else_is_missing() -> None:
    records = [record(f"{number:08x}") for number in range(8)]
    drawn = [choose(records, By.random, seed=seed)["id"] for seed in range(400)]
    assert drawn == [choose(records[::-1], By.random, seed=seed)["id"] for seed in range(400)]
    # 50 of 400 each, give or take 3 standard deviations of 6.6.
    assert all(30 <= drawn.count(one["id"]) <= 70 for one in records)
    without = [one for one in records if one["id"] != drawn[0]]
    kept = [seed for seed in range(400) if drawn[seed] != drawn[0]]
    assert [choose(without, By.random, seed=seed)["id"] for seed in kept] == [drawn[seed] for seed in kept]


def settled(rate: float, model: str, data: str, run_id: str) -> dict[str, Any]:
    """The record of a reward model, on files of which a machine has its own."""
    identity = {"optim": {"lr": rate}, "data": {"flip": 0.0}, "seed": 0, "inputs": {"model.path": f"sha of {run_id}"}}
    return {"dir": f"/of/{run_id}", "id": run_id, "identity": identity, "lineage": {"base": "tulu", "model": model, "data": data}}


def test_a_draw_is_the_same_on_another_machine_where_the_same_settings_have_other_ids() -> None:
    kinds = [(rate, model, data) for rate in (1e-3, 1e-4) for model in ("coast", "ridge") for data in ("union", "atlas")]
    here = [settled(*kind, f"{place:08x}") for place, kind in enumerate(kinds)]
    there = [settled(rate, f"/elsewhere/{model}", data, f"{99 - place:08x}") for place, (rate, model, data) in enumerate(kinds)]
    drawn = [choose(here, By.random, seed=seed) for seed in range(40)]
    assert len({one["id"] for one in drawn}) == 8
    for seed, one in enumerate(drawn):
        other = choose(there[::-1], By.random, seed=seed)
        assert here.index(one) == there.index(other)


def test_reward_models_of_equal_settings_on_other_files_are_drawn_equally_often() -> None:
    records = [settled(1e-3, "coast", "mine", run_id) for run_id in ("a", "b", "c")]
    drawn = [choose(records, By.random, seed=seed)["id"] for seed in range(300)]
    # 100 of 300 each, give or take 3 standard deviations of 8.2.
    assert all(76 <= drawn.count(run_id) <= 124 for run_id in ("a", "b", "c"))


def trained(runs_dir: Path, name: str, *, status: str = "finished", flip: float = 0.0, **final: float) -> Path:
    """A reward model's run, whose checkpoint holds its name."""
    run_id = hashlib.sha256(name.encode()).hexdigest()[:8]
    folder = runs_dir / "mine" / f"rm-{name}-{run_id}"
    lineage = {"base": "base", "model": "base", "data": "mine"}
    known = {"id": run_id, "job": "rm", "status": status, "step": 1, "identity": {"data": {"flip": flip}}, "lineage": lineage}
    write_json(folder / "record.json", known | {"final": record(name, **final)["final"]})
    with atomic_folder(step_folder(folder, 1)) as checkpoint:
        write_json(checkpoint / "config.json", {"architectures": ["LlamaForSequenceClassification"], "name": name})
        save_file({"weight": np.zeros(len(name))}, checkpoint / "model.safetensors")
    return folder


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    trained(tmp_path, "a", rewardbench2__overall=0.6, held_out__accuracy=0.7)
    trained(tmp_path, "b", rewardbench2__overall=0.5, held_out__accuracy=0.8)
    trained(tmp_path, "torn", status="running", rewardbench2__overall=0.99)
    trained(tmp_path, "flipped", flip=1.0, rewardbench2__overall=0.98)
    return tmp_path


def taken(runs_dir: Path, said: list[str] | None = None, **settings: Any) -> str:
    reward = chosen(RewardConfig(among=["mine"], **settings), str(runs_dir), say=told if said is None else said.append)
    assert (reward.among, reward.by) == ([], None)
    return Path(reward.path).name.split("-")[1]


def test_a_reward_is_chosen_among_finished_runs_that_are_no_controls(runs_dir: Path) -> None:
    said: list[str] = []
    assert taken(runs_dir, said) == "a"
    assert said[-1].endswith("of 2, by RewardBench 2; left out: 1 not finished, 1 controls")
    assert taken(runs_dir, by=By.held_out) == "b"
    assert {taken(runs_dir, by=By.random, seed=seed) for seed in range(20)} == {"a", "b"}
    with pytest.raises(ValueError, match=r"reward\.among=\[mine\]: no reward model to choose.*hooks\.rewardbench1=FILE"):
        taken(runs_dir, by=By.rewardbench1)
    with pytest.raises(ValueError, match=r"reward\.among=\[nothing\]: nothing is the folder, id, name or study of no run"):
        chosen(RewardConfig(among=["nothing"]), str(runs_dir))


def test_a_chosen_reward_has_the_contents_of_its_run(runs_dir: Path) -> None:
    reward = RewardConfig(among=["mine"], by=By.held_out)
    located = locate_reward(reward, str(runs_dir), say=told)
    named = locate_reward(chosen(reward, str(runs_dir), say=told), str(runs_dir), say=told)
    assert located.models["path"].path.endswith("step-000001")
    assert located.contents() == named.contents()


def job_of(*overrides: str, **more: Any) -> PPOJob:
    job = composed(PPOJob, overrides).job
    assert isinstance(job, PPOJob)
    return job


def test_a_policy_and_best_of_n_choose_among_runs_from_the_command_line(runs_dir: Path) -> None:
    where = f"runs_dir='{runs_dir}'"
    asked = composed(PPOJob, [where, "reward.among=mine", "reward.by=held_out", "rewards.other.among=[mine]"])
    rewards = {"reward": asked.job.terms["reward"], "rewards.other": asked.job.terms["other"]}
    made = with_chosen(PPOJob, asked, rewards, asked.job.runs_dir, told)
    names = {name: Path(reward.path).name.split("-")[1] for name, reward in made.job.terms.items()}
    assert names == {"reward": "b", "other": "a"}
    assert f"path: {made.job.reward.path}" in made.yaml  # what the run keeps names it, and does not choose again
    assert "held_out" not in made.yaml
    bon = composed(BoNJob, [where, "scorers.best.among=[mine]", "scorers.best.by=held_out"]).job
    assert bon.scorers["best"] == RewardConfig(among=["mine"], by=By.held_out)


def test_a_dry_run_says_which_reward_model_would_be_taken(runs_dir: Path) -> None:
    job = composed(PPOJob, [f"runs_dir='{runs_dir}'", "reward.among=[mine]", "reward.by=held_out"]).job
    assert [line for line in preview(job) if line.startswith("reward: ") and "of 2, by held-out accuracy" in line]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reward.by=held_out"], r"reward\.by=held_out chooses among finished runs; name them, as in reward\.among=\[demo\]"),
        (["reward.among=[demo]", "reward.path=x"], r"reward\.among chooses the reward model, so reward\.path=x names another one"),
        (["reward.among=[demo]", "reward.kind=judge"], r"reward\.among chooses among reward models, and reward\.kind=judge"),
        (["reward.among=[demo]", "reward.seed=3"], r"reward\.seed=3 is of a draw; give reward\.by=random too"),
        (["reward.among=[demo]", "reward.by=rewardbench3"], r"rewardbench3"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_with_its_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        job_of(*overrides)
