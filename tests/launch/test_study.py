"""A whole study on a world small enough for a test: two reward models, best-of-N, one PPO run, and the report."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.disk import write_json
from core.runs.lock import locked
from launch.entry import composed
from launch.schema import PPOJob, StudyJob
from launch.studies.plan import plan
from launch.studies.superseded import supersede
from microworld.skills import SKILLS
from tests.launch.tiny_study import HEAD, chosen, short

TINY = f"""{HEAD}
reward_models:
  - model=coast data=union,atlas optim.lr=1e-3 num_checkpoints=1 hooks.best_of=[4]
  - model=coast data=union data.flip=1.0 num_checkpoints=1 hooks.best_of=[4]
ppo:
  same-lineage:
    reward: {{lineage: same}}
    overrides: {short(2)}
notes: ["A note <b>of</b> the study."]
"""


def start(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "launch.study", *chosen(folder, TINY)]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def timeless(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without how long it took."""
    without = json.loads(json.dumps(summary))
    del without["wall_s"]
    for model in without["reward_models"]:
        for checkpoint in model["checkpoints"]:
            for key in [key for key in checkpoint if key.startswith("seconds/")]:
                del checkpoint[key]
    for run in (*without["reward_models"], *without["ppo"]):
        del run["details"]["cost"]
    return without


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "torch.py").write_text("raise SystemExit('this is not the package')")  # no process of the study takes it for torch
    process = start(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder, output


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/tiny/report/summary.json").read_text())


def test_the_summary_holds_every_model_with_its_domains_tasks_and_settings(studied: tuple[Path, str]) -> None:
    summary = read_summary(studied[0])
    assert sorted((model["data"], model["control"]) for model in summary["reward_models"]) == [
        ("atlas", False),
        ("union", False),
        ("union", True),
    ]
    for model in summary["reward_models"]:
        assert set(model["rewardbench2"]) == {"overall", "factuality", "precise_if", "math", "safety", "focus", "ties"}
        assert model["rewardbench2"]["overall"] == pytest.approx(
            sum(value for key, value in model["rewardbench2"].items() if key != "overall") / 6
        )
        assert set(model["bon"]) == {*SKILLS, "average"}
        assert (model["base"], model["epochs"], model["seed"], model["lr"]) == ("coast", 1, 0, 1e-3)
    assert summary["correlation"]["rewardbench2/overall~bon/average"]["n"] == 3
    (ppo,) = summary["ppo"]
    assert [checkpoint["step"] for checkpoint in ppo["checkpoints"]] == [0, 1, 2]
    assert ppo["best_average"] == max(checkpoint["downstream_average"] for checkpoint in ppo["checkpoints"])


def test_the_summary_says_what_the_runs_on_disk_say(studied: tuple[Path, str]) -> None:
    for model in read_summary(studied[0])["reward_models"]:
        folder = studied[0] / model["dir"]
        final = json.loads((folder / "record.json").read_text())["final"]
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in logged if line["axis"] == "checkpoint/step"][-1]
        assert model["rewardbench2"]["math"] == final["rewardbench2/math"] == last["rewardbench2/math"]
        assert model["bon"]["average"] == final["bon/average@4"] == last["bon/average@4"]


def test_the_terminal_ends_with_the_tables_and_the_report(studied: tuple[Path, str]) -> None:
    folder, output = studied
    assert "95% interval" in output
    assert "A note <b>of</b> the study." in output
    assert "report.html" in output.strip().splitlines()[-1]
    assert "A note &lt;b&gt;of&lt;/b&gt; the study." in (folder / "runs/tiny/report/report.html").read_text()


def test_a_second_start_reuses_all_runs_and_gives_the_same_summary(studied: tuple[Path, str]) -> None:
    folder, _ = studied
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/*/checkpoints/*/model.safetensors")}
    summary = read_summary(folder)
    process = start(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/tiny/*/checkpoints/*/model.safetensors")} == before
    assert timeless(read_summary(folder)) == timeless(summary)
    assert read_summary(folder)["wall_s"] == pytest.approx(summary["wall_s"], abs=1.0)  # nothing had to run


def test_a_study_killed_halfway_completes_with_the_same_summary(studied: tuple[Path, str], tmp_path: Path) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/tiny/rm-*/checkpoints/*/COMPLETE")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    spent = tmp_path / "runs/tiny/time.json"
    assert json.loads(spent.read_text())["wall_s"] > 0.0  # noted when the jobs before had ended
    write_json(spent, {"wall_s": 50_000.0})
    again = start(tmp_path)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert timeless(read_summary(tmp_path)) == timeless(read_summary(studied[0]))
    assert 50_000 < read_summary(tmp_path)["wall_s"] < 50_300
    assert "tiny took 13 h 5" in output  # 50,000 s are 13 h 53 min


def study_of(folder: Path, *more: str) -> StudyJob:
    job = composed(StudyJob, [*chosen(folder, TINY), *more]).job
    assert isinstance(job, StudyJob)
    return job


def test_the_plan_lets_every_job_wait_for_what_it_needs(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    jobs = {job.key: job for job in plan(study, Path("runs/tiny")).jobs}
    assert jobs["policy-coast"].after == ("world",)
    assert jobs["pools"].after == ("policy-coast",)
    assert jobs["rm-03"].after == ("policy-coast", "pools")
    # The third is a control, and the PPO run chooses among the others.
    assert (jobs["ppo-same-lineage"].after, jobs["ppo-same-lineage"].any_of) == (("policy-coast",), ("rm-01", "rm-02"))


def test_what_is_made_of_an_embedded_world_is_waited_for_by_all_that_use_it_whatever_else_does(tmp_path: Path) -> None:
    # Policies and pools are of coast; all reward models are of ridge, or of a model that is no part of the world, and have no pools.
    lines = """["model=ridge data=union hooks.pools=''", "model=custom model.path=org/base data=union hooks.pools=''"]"""
    entries = ["bon.mine.reward.by=rewardbench2", "ppo.recipe.reward.recipe=true", f"reward_models={lines}"]
    study = study_of(tmp_path, *entries, "policies=['reward.path=rm-01 name=own']", "ppo.same-lineage.reward.lineage=other")
    jobs = {job.key: job for job in plan(study, Path("runs/tiny")).jobs}
    assert jobs["rm-01"].after == ("policy-ridge",)
    assert jobs["rm-02"].after == ("world",)
    assert jobs["ppo-same-lineage"].after == jobs["ppo-recipe"].after == jobs["rm-for-ppo-recipe"].after == ("policy-coast",)
    assert jobs["ppo-own"].after == ("policy-coast", "rm-01")
    assert jobs["bon-mine"].after == ("pools",)


def test_only_the_ppo_run_against_the_chosen_reward_model_stays_in_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = tmp_path / "ppo-best-cccccccc"
    write_json(unknown / "record.json", {"id": "cccccccc", "job": "ppo", "identity": {}, "status": "finished", "name": "best"})

    def left(reward_run: str, name: str = "best", at: Path = tmp_path) -> Path:
        run = at / f"ppo-{name}-{reward_run}"
        record = {"id": reward_run, "job": "ppo", "identity": {}, "status": "finished"}
        write_json(run / "record.json", {**record, "name": name, "lineage": {"reward_run": reward_run}})
        return run

    earlier, other = left("aaaaaaaa"), left("aaaaaaaa", "best-of-two")
    supersede(tmp_path, "best", "bbbbbbbb")
    assert f"{earlier} was trained against another reward model than bbbbbbbb" in capsys.readouterr().err
    kept = left("bbbbbbbb")
    supersede(tmp_path, "best", "bbbbbbbb")
    assert sorted(tmp_path.glob("ppo-*")) == [kept, unknown, other]
    assert [run.name for run in (tmp_path / "superseded").iterdir()] == [earlier.name]
    supersede(tmp_path, "best", "aaaaaaaa")  # chosen after all: it need not be trained again
    assert sorted(tmp_path.glob("ppo-*")) == [earlier, unknown, other]


def test_a_policy_that_somebody_trains_is_not_moved_away(tmp_path: Path) -> None:
    run = tmp_path / "ppo-best-aaaaaaaa"
    record = {"id": "aaaaaaaa", "job": "ppo", "identity": {}, "status": "stopped"}
    write_json(run / "record.json", {**record, "name": "best", "lineage": {"reward_run": "aaaaaaaa"}})
    with locked(run / "run.lock"):
        supersede(tmp_path, "best", "bbbbbbbb")
    assert run.is_dir()


def test_a_study_has_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with locked(tmp_path / "runs" / "tiny" / "study.lock"):
        process = start(tmp_path)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert f"The study runs/tiny is in use by pid {os.getpid()} on " in output
    assert not list(tmp_path.glob("runs/tiny/*/"))


def test_awkward_places_and_values_reach_the_jobs_of_a_study_as_they_were_typed(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        "study='My  Study'",
        "runs_dir='my runs, v={1}'",
        r"""reward_models=["model=coast data=union data.name='it\'s a, b=c' best_metric=1e3,1_1"]""",
        """ppo.same-lineage.overrides=["name='a, b'", "prompts=['x, {y}.jsonl', '1e3']"]""",
    )
    trained = {key: {"dir": "my runs/rm's", "id": "0", "final": {"rewardbench2/overall": 0.5}} for key in ("rm-01", "rm-02")}
    jobs = {job.key: job.task(trained) for job in plan(study, tmp_path).jobs}
    model, policy = jobs["rm-01"], jobs["ppo-same-lineage"]
    assert isinstance(model, partial)
    assert isinstance(policy, partial)
    rm = model.args[0].job
    assert (rm.study, rm.runs_dir, rm.data.name, rm.best_metric) == ("my-study", "my runs, v={1}", "it's a, b=c", "1e3")
    second = jobs["rm-02"]
    assert isinstance(second, partial)
    assert second.args[0].job.best_metric == "1_1"
    assert rm.world == str(tmp_path / "world-0")
    ppo = composed(PPOJob, policy.args[1]).job
    assert (ppo.reward.path, ppo.prompts, ppo.name) == ("my runs/rm's", ["x, {y}.jsonl", "1e3"], "a, b")


def test_a_mistake_in_any_line_is_found_before_the_first_job(tmp_path: Path) -> None:
    study = study_of(tmp_path, "reward_models=['data=atlaas']")
    with pytest.raises(ValueError, match="atlaas"):
        plan(study, Path("runs/tiny"))
    with pytest.raises(ValueError, match=r"needs holds nonsense, which is no input of a study; choose among preferences"):
        study_of(tmp_path, "needs=[nonsense]")
    with pytest.raises(ValueError, match=r"experiment=torn chooses is no YAML"):
        composed(StudyJob, chosen(tmp_path, "{[", "torn"))
    study = study_of(tmp_path, "ppo.same-lineage.reward.lineage=other")
    with pytest.raises(ValueError, match="fits none"):
        plan(study, Path("runs/tiny"))
