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


def benchmarked(runs_dir: Path, study: str, name: str, reward: str) -> None:
    run, _ = open_run(runs_dir=runs_dir, study=study, job="bench", name=name, identity={"reward": reward}, config_yaml="")
    finish_run(run, final={"rewardbench2/overall": 0.625, "rewardbench2_se/overall": 0.011}, reward=reward)


def test_a_benchmark_of_a_reward_model_of_the_report_is_no_further_one(tmp_path: Path) -> None:
    run = trained(tmp_path, "tuesday", "a", 0.6)
    benchmarked(tmp_path, "tuesday", "of-a", f"{run.dir}/checkpoints/step-000005")
    benchmarked(tmp_path, "tuesday", "published", "org/published")
    draw(f"runs_dir={tmp_path}", "runs=[tuesday]", f"out={tmp_path}/all")
    summary = read_summary(tmp_path / "all")
    assert {model["name"] for model in summary["reward_models"]} == {"a", "published"}
    [note] = summary["notes"]
    assert "is a benchmark of a (rewardbench2/overall 62.5) and no further reward model" in note
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


def test_what_is_not_there_is_refused_and_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name a study by study=NAME, or runs by"):
        draw(f"runs_dir={tmp_path}", "study=nope")
    trained(tmp_path, "sweep", "torn", 0.6, finished=False)
    with pytest.raises(ValueError, match="nope is the folder, id, name or study of no run"):
        draw(f"runs_dir={tmp_path}", "runs=[nope]")
    with pytest.raises(ValueError, match="no finished run"):
        draw(f"runs_dir={tmp_path}", "runs=[sweep]")
    assert not list(tmp_path.glob("**/report.html"))
