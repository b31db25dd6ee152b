"""`rewardloop report runs=[...]`: finished runs of any studies in one report, and a study that never had one."""

from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.hooks.hook import eval_file
from core.records import AXIS
from core.runs.record import Run, finish_run, open_run
from evalhooks.report.summary import read_summary
from launch import report
from launch.entry import composed
from launch.jobs.serve import live_summary
from launch.schema import ReportJob


def trained(runs_dir: Path, study: str, name: str, accuracy: float, *, finished: bool = True) -> Run:
    identity: dict[str, Any] = {"optim": {"lr": accuracy}, "epochs": 1, "seed": 0, "data": {"flip": 0.0}}
    facts = {"lineage": {"base": "base", "model": "base", "data": "tulu"}}
    run, _ = open_run(runs_dir=runs_dir, study=study, job="rm", name=name, identity=identity, config_yaml="", extra=facts)
    write_json(eval_file(run.dir, 5), {AXIS: 5, "held_out/accuracy": accuracy})
    if finished:
        finish_run(run, final={"held_out/accuracy": accuracy}, step=5, best_step=5)
    return run


def draw(*overrides: str) -> None:
    report._command(composed(ReportJob, overrides))  # pyright: ignore[reportPrivateUsage]


def test_runs_of_two_sweeps_stand_in_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = trained(tmp_path, "tuesday", "a", 0.6), trained(tmp_path, "tuesday", "b", 0.7)
    trained(tmp_path, "friday", "c", 0.8)
    trained(tmp_path, "friday", "torn", 0.9, finished=False)
    draw(f"runs_dir={tmp_path}", f"runs=[{first.id},friday]", f"out={tmp_path}/both")
    said = capsys.readouterr().out
    assert "is left out: it is not finished (running)" in said
    assert "80.0" in said
    assert {model["name"] for model in read_summary(tmp_path / "both")["reward_models"]} == {"a", "c"}


def benchmarked(runs_dir: Path, study: str, name: str, reward: str, *, trained_by: str = "", **final: float) -> None:
    own: dict[str, Any] = {"extra": {"lineage": {"run": trained_by, "base": "base"}}} if trained_by else {}
    run, _ = open_run(runs_dir=runs_dir, study=study, job="bench", name=name, identity={"reward": reward, **final}, config_yaml="", **own)
    scores = {"rewardbench2/overall": 0.625, "rewardbench2_se/overall": 0.011}
    finish_run(run, final={name.replace("__", "/"): value for name, value in final.items()} or scores, reward=reward)


def test_a_benchmark_of_a_reward_model_of_the_report_is_no_further_one(tmp_path: Path) -> None:
    run = trained(tmp_path, "tuesday", "a", 0.6)
    benchmarked(tmp_path, "tuesday", "of-a", f"{run.dir}/checkpoints/step-000005")
    benchmarked(tmp_path, "tuesday", "published", "org/published")
    draw(f"runs_dir={tmp_path}", "runs=[tuesday]", f"out={tmp_path}/all")
    summary = read_summary(tmp_path / "all")
    assert {model["name"] for model in summary["reward_models"]} == {"a", "published"}
    [note] = summary["notes"]
    assert "is a benchmark of a (RewardBench 2 overall 62.5) and no further reward model; its scores stand there" in note


def test_a_benchmark_that_knows_the_run_of_its_reward_model_belongs_to_it_and_a_second_one_says_where_its_scores_are(
    tmp_path: Path,
) -> None:
    run = trained(tmp_path, "tuesday", "a", 0.6)
    benchmarked(tmp_path, "tuesday", "first", "moved/elsewhere", trained_by=run.id)
    benchmarked(tmp_path, "tuesday", "second", "moved/elsewhere", trained_by=run.id, rewardbench2__overall=0.5)
    benchmarked(tmp_path, "tuesday", "third", "moved/elsewhere", trained_by=run.id, pairs__accuracy=0.5)
    benchmarked(tmp_path, "tuesday", "x1", "org/x", trained_by="org/x", rewardbench2__overall=0.5)
    benchmarked(tmp_path, "tuesday", "x2", "org/x", trained_by="org/x", rewardbench1__overall=0.75)
    benchmarked(tmp_path, "tuesday", "x3", "org/x", trained_by="org/x", rewardbench2__overall=0.25)
    draw(f"runs_dir={tmp_path}", "runs=[tuesday]", f"out={tmp_path}/all")
    summary = read_summary(tmp_path / "all")
    scores = {
        model["name"]: (model["rewardbench2"]["overall"], (model.get("rewardbench1") or {}).get("overall"))
        for model in summary["reward_models"]
    }
    assert scores == {"a": (0.625, None), "x1": (0.5, 0.75)}
    said = {note.partition(" is a benchmark of ")[2].partition(" and no")[0]: note.rpartition("; ")[2] for note in summary["notes"]}
    assert said["a (RewardBench 2 overall 50.0)"] == "the scores there are those of the benchmark before it."
    assert said["a"] == "no score of it is one that this report compares."
    assert said["x1 (RewardBench 2 overall 25.0)"] == "the scores there are those of the benchmark before it."
    own = next(model for model in summary["reward_models"] if model["name"] == "a")
    assert (own["rewardbench2"]["overall"], own["details"]["errors"]) == (0.625, {"overall": 0.011})
    assert "rewardbench2_reason" not in own


def test_runs_of_one_name_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    runs = [trained(tmp_path, study, "a", accuracy) for study, accuracy in (("tuesday", 0.6), ("friday", 0.7))]
    draw(f"runs_dir={tmp_path}", "runs=[tuesday,friday]", f"out={tmp_path}/both")
    assert {model["name"] for model in read_summary(tmp_path / "both")["reward_models"]} == {f"a {run.id}" for run in runs}


def test_a_sweep_that_no_study_made_is_reported_by_its_name(tmp_path: Path) -> None:
    trained(tmp_path, "sweep", "a", 0.6)
    draw(f"runs_dir={tmp_path}", "study=sweep")
    assert [model["name"] for model in read_summary(tmp_path / "sweep" / "report")["reward_models"]] == ["a"]


def test_runs_whose_records_lack_all_that_is_not_required_stand_in_a_report(tmp_path: Path) -> None:
    """As something else may have written them; `rewardloop report` and the page that follows runs."""
    trained(tmp_path, "bare", "whole", 0.6)
    for job in ("rm", "ppo", "bench", "bon"):
        folder = tmp_path / "bare" / f"{job}-bare-{job}"
        write_json(folder / "record.json", {"id": job, "job": job, "identity": {}, "status": "finished"})
    write_json(eval_file(tmp_path / "bare" / "ppo-bare-ppo", 0), {AXIS: 0, "downstream/average": 0.5})
    draw(f"runs_dir={tmp_path}", "study=bare")
    summary = read_summary(tmp_path / "bare" / "report")
    assert {(model["id"], model["base"]) for model in summary["reward_models"]} >= {("rm", None), ("bench", "")}
    assert [(run["id"], run["rm"]) for run in summary["ppo"]] == [("ppo", None)]
    assert [run["id"] for run in live_summary(tmp_path / "bare")["ppo"]] == ["ppo"]


def test_what_is_not_there_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a study by study=NAME, or runs by"):
        draw(f"runs_dir={tmp_path}", "study=nope")
    trained(tmp_path, "sweep", "torn", 0.6, finished=False)
    with pytest.raises(ValueError, match="nope is the folder, id, name or study of no run"):
        draw(f"runs_dir={tmp_path}", "runs=[nope]")
    with pytest.raises(ValueError, match="no finished run"):
        draw(f"runs_dir={tmp_path}", "runs=[sweep]")
    assert not list(tmp_path.glob("**/report.html"))
